"""The background loop: synchronous callers wait for it, never within it, and an interrupt is cleaned up."""

from __future__ import annotations

import asyncio
import inspect
import os
import threading

import pytest

from heron_mqtt.messaging.core.background_loop import background_loop, run_sync, running_loop


async def where() -> tuple[asyncio.AbstractEventLoop | None, str]:
    await asyncio.sleep(0)
    return running_loop(), threading.current_thread().name


def test_every_call_is_done_in_the_one_loop_of_its_own_thread() -> None:
    loop = background_loop()
    assert background_loop() is loop
    assert run_sync(where()) == (loop, "heron-background-loop")
    assert running_loop() is None


async def test_a_caller_with_a_loop_of_its_own_waits_as_any_other() -> None:
    loop, _ = run_sync(where())
    assert loop is not asyncio.get_running_loop()


def test_a_loop_counts_as_running_only_where_it_runs_and_while_it_does() -> None:
    found: list[asyncio.AbstractEventLoop | None] = []

    async def look() -> asyncio.AbstractEventLoop:
        found.append(running_loop())
        await asyncio.to_thread(lambda: found.append(running_loop()))
        found.append(running_loop())
        return asyncio.get_running_loop()

    first = asyncio.run(look())
    found.append(running_loop())
    second = asyncio.run(look())
    assert found == [first, None, first, None, second, None, second]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_the_loop_of_a_process_does_not_run_in_its_fork() -> None:
    async def fork() -> int:
        assert running_loop() is not None
        pid = os.fork()
        if pid == 0:
            os._exit(0 if running_loop() is None else 1)
        return os.waitpid(pid, 0)[1]

    assert asyncio.run(fork()) == 0


def test_what_is_raised_is_raised_to_the_caller() -> None:
    async def fail() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        run_sync(fail())


def test_a_call_from_the_loop_itself_is_refused_and_leaves_nothing_begun() -> None:
    inner = where()

    async def outer() -> None:
        run_sync(inner)

    with pytest.raises(RuntimeError, match="would wait for itself; await the async one"):
        run_sync(outer())
    assert inspect.getcoroutinestate(inner) == inspect.CORO_CLOSED


def test_an_interrupt_cancels_the_call_and_waits_until_it_has_cleaned_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun, done = threading.Event(), list[str]()

    async def connect() -> None:
        begun.set()
        try:
            await asyncio.sleep(60.0)
        finally:
            await asyncio.sleep(0.02)
            done.append("closed")

    put = asyncio.run_coroutine_threadsafe

    def interrupted(coroutine: object, loop: asyncio.AbstractEventLoop) -> object:
        future = put(coroutine, loop)  # type: ignore[arg-type]
        whole = future.result

        def result(timeout: float | None = None) -> object:
            if not begun.wait(10.0):
                return whole(timeout)
            raise KeyboardInterrupt

        monkeypatch.setattr(future, "result", result)
        return future

    monkeypatch.setattr(asyncio, "run_coroutine_threadsafe", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_sync(connect())
    assert begun.is_set()
    assert run_sync_after(monkeypatch) is not None
    assert done == ["closed"]


def run_sync_after(monkeypatch: pytest.MonkeyPatch) -> object:
    """Let one more call go through the loop: what was cancelled before it has had its turn."""
    monkeypatch.undo()
    return run_sync(asyncio.sleep(0.1, "done"))
