"""A cancel is never lost, whatever the code of others makes of it."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

import heron_mqtt
from heron_mqtt.cancellation import to_its_end, unless_cancelled
from heron_mqtt.end_signals import OF_THIS_PROGRAM, AskedToEnd, exit_code, run_until_told

ROOT = Path(heron_mqtt.__file__).resolve().parent.parent
TRIALS = 20


class Foreign:
    """Code of others that hides a cancel: as ``asyncio.wait_for`` of Python 3.11 does, or in other ways."""

    def __init__(self, hide: Callable[[], object]) -> None:
        self.hide = hide
        self.answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def ask(self) -> object:
        try:
            await self.answer
        except asyncio.CancelledError:
            return self.hide()
        return "answer"


def give_answer() -> str:
    return "answer"


def give_error() -> str:
    raise ConnectionError("no answer")


async def after_a_cancel(
    hide: Callable[[], object], through: Callable[[Awaitable[object]], Awaitable[object]]
) -> str:
    """Cancel a task while it awaits foreign code once; return how it ended."""
    foreign = Foreign(hide)

    async def work() -> None:
        await through(foreign.ask())

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    done, _ = await asyncio.wait([task], timeout=1.0)
    assert done
    return "cancelled" if task.cancelled() else "went on"


@pytest.mark.parametrize("hide", [give_answer, give_error])
async def test_a_cancel_that_foreign_code_hides_ends_the_task_all_the_same(
    hide: Callable[[], object],
) -> None:
    assert [await after_a_cancel(hide, unless_cancelled) for _ in range(TRIALS)] == ["cancelled"] * TRIALS


async def test_without_the_helper_it_is_lost() -> None:
    async def plainly(work: Awaitable[object]) -> object:
        return await work

    assert await after_a_cancel(give_answer, plainly) == "went on"


async def test_results_and_errors_pass() -> None:
    async def result() -> int:
        return 7

    async def error() -> int:
        raise KeyError("x")

    assert await unless_cancelled(result()) == 7
    with pytest.raises(KeyError):
        await unless_cancelled(error())


async def test_what_cleans_up_after_a_cancel_may_await() -> None:
    """The cancel of before does not count: else nothing could be handed back."""
    handed_back = False

    async def hand_back() -> None:
        await asyncio.sleep(0)

    async def work() -> None:
        nonlocal handed_back
        try:
            await asyncio.Event().wait()
        finally:
            await unless_cancelled(hand_back())
            handed_back = True

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert handed_back


async def test_a_timeout_around_it_is_a_timeout() -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await unless_cancelled(Foreign(give_answer).ask())


def test_our_own_code_does_not_use_what_loses_a_cancel() -> None:
    texts = {
        path: path.read_text(encoding="utf-8")
        for package in ("heron_mqtt", "powergrid")
        for path in (ROOT / package).rglob("*.py")
    }
    users = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path, text in texts.items()
        if "wait_for" in text
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Attribute) and node.attr == "wait_for"
        if isinstance(node.value, ast.Name) and node.value.id == "asyncio"
    ]
    assert users == [], "use asyncio.timeout: asyncio.wait_for of Python 3.11 swallows a cancel"


# -- signals -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_cancels_the_main_task_which_cleans_up(number: signal.Signals) -> None:
    told: list[str] = []

    async def main() -> None:
        try:
            signal.raise_signal(number)
            await asyncio.Event().wait()
        finally:
            signal.raise_signal(signal.SIGTERM)  # a second one does not break the clean-up off
            await asyncio.sleep(0.01)
            told.append("cleaned up")

    with pytest.raises(AskedToEnd) as asked:
        run_until_told(main())
    assert told == ["cleaned up"]
    assert asked.value.number == number
    assert exit_code(asked.value) == (0 if number == signal.SIGTERM else 130)
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL, "given back"


def test_what_was_ignored_at_the_start_stays_ignored_and_the_others_end_it() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)

    async def main() -> None:
        signal.raise_signal(signal.SIGINT)
        await asyncio.sleep(0.01)
        signal.raise_signal(signal.SIGTERM)
        await asyncio.Event().wait()

    try:
        with pytest.raises(AskedToEnd) as asked:
            run_until_told(main())
    finally:
        signal.signal(signal.SIGINT, before)
    assert asked.value.number == signal.SIGTERM


def test_a_signal_that_an_import_has_swallowed_is_not_lost() -> None:
    with OF_THIS_PROGRAM:
        with contextlib.suppress(KeyboardInterrupt):  # as where the interpreter only prints an error
            signal.raise_signal(signal.SIGTERM)
        with pytest.raises(AskedToEnd):
            run_until_told(asyncio.sleep(60.0))


async def test_what_is_to_come_to_its_end_does_so_after_a_cancel_and_is_cancelled_if_it_does_not() -> None:
    ended: list[str] = []

    async def work(takes_s: float) -> None:
        try:
            await asyncio.sleep(takes_s)
            ended.append("by itself")
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    for takes_s, within_s in ((0.02, 5.0), (60.0, 0.02)):
        task = asyncio.create_task(to_its_end(work(takes_s), within_s))
        await asyncio.sleep(0.001)
        task.cancel()
        await asyncio.wait([task], timeout=5.0)
        assert task.cancelled()
    assert ended == ["by itself", "cancelled"]
    await to_its_end(work(0.0), 0.0)
    assert ended[-1] == "by itself"
