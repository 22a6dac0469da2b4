"""OwnerLoop: what is begun from another thread happens in the home loop, and its outcome comes back."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from heron_mqtt.errors import BrokerClosed, BrokerUnavailable
from heron_mqtt.messaging.core import owner_loop
from heron_mqtt.messaging.core.background_loop import background_loop
from heron_mqtt.messaging.core.owner_loop import OwnerLoop, _copy
from heron_mqtt.messaging.core.two_method_adapter import _copy_outcome
from support.waiting import until


async def nothing() -> None:
    """Close nothing."""


@pytest.mark.parametrize("fails", ["", "at its start", "in the work"])
async def test_what_another_thread_begins_is_done_at_home_and_its_outcome_told(fails: str) -> None:
    home, told = asyncio.get_running_loop(), []

    def start() -> None:
        if fails == "at its start":
            raise BrokerUnavailable("nobody there")

    def work(what: str) -> asyncio.Future[None]:
        told.append((what, asyncio.get_running_loop()))
        done: asyncio.Future[None] = home.create_future()
        if fails:
            home.call_soon(done.set_exception, OSError("lost"))
        else:
            home.call_soon(done.set_result, None)
        return done

    owner = OwnerLoop("broker", start, nothing)
    assert owner.bind()

    async def elsewhere() -> None:
        await owner.begin(home, work, "sent")

    def thread() -> str:
        try:
            asyncio.run(elsewhere())
        except (BrokerUnavailable, OSError) as exc:
            return str(exc)
        return "done"

    said = await asyncio.wait_for(asyncio.to_thread(thread), 5.0)
    assert said == {"": "done", "at its start": "nobody there", "in the work": "lost"}[fails]
    assert told == ([] if fails == "at its start" else [("sent", home)])


async def test_at_the_end_of_the_interpreter_it_is_closed_in_its_loop() -> None:
    closed_in = []

    async def close() -> None:
        closed_in.append(asyncio.get_running_loop())

    owner = OwnerLoop("broker", lambda: None, close)
    owner._at_exit()  # it was never begun
    assert owner.bind()
    await asyncio.to_thread(owner._at_exit)
    assert closed_in == [asyncio.get_running_loop()]


# -- the home ------------------------------------------------------------------------------------------


def owned(**options: Any) -> tuple[OwnerLoop, list[str]]:
    """Return an owner, and what it was called for."""
    called: list[str] = []

    async def close() -> None:
        called.append("close")

    return OwnerLoop("the broker", lambda: called.append("start"), close), called


async def test_the_running_loop_becomes_the_home_once() -> None:
    owner, _ = owned()
    assert (owner.loop, owner.closed, owner.starts_by_itself, owner.is_current()) == (
        None,
        False,
        True,
        False,
    )
    assert owner.bind() is True
    assert owner.bind() is False
    assert owner.acquire() is owner.loop is asyncio.get_running_loop()
    assert owner.is_current()
    assert await asyncio.to_thread(owner.is_current) is False
    owner.unbind()
    assert owner.loop is None
    assert owner.bind() is True


async def test_what_is_closed_has_no_home_any_more() -> None:
    owner, _ = owned()
    owner.close()
    owner.close()
    assert owner.closed
    for use in (owner.bind, owner.acquire):
        with pytest.raises(BrokerClosed, match=r"^the broker is closed$"):
            use()


def test_a_home_that_has_ended_is_named() -> None:
    owner, _ = owned()

    async def bind() -> None:
        owner.bind()

    asyncio.run(bind())
    with pytest.raises(
        BrokerClosed, match="the event loop in which the broker was connected has ended; close"
    ):
        owner.acquire()
    owner.call(pytest.fail, "it cannot be called there")
    owner._at_exit()  # nor closed


def test_without_a_home_the_background_loop_becomes_it_unless_it_may_not() -> None:
    owner, called = owned()
    owner.starts_by_itself = False
    with pytest.raises(
        BrokerClosed, match=r"the broker is not started: await connect\(\) first, or use async with"
    ):
        owner.acquire()
    owner.starts_by_itself = True
    assert owner.acquire() is background_loop()
    owner._at_exit()
    assert called == ["close"]
    owner.close()


async def test_calls_are_made_at_home_in_their_order_and_at_once_if_one_is_there() -> None:
    owner, _ = owned()
    made: list[int] = []
    owner.call(made.append, 1)  # there is no home yet
    owner.bind()
    owner.call(made.append, 2)
    assert made == [1, 2]

    def elsewhere() -> None:
        for number in (3, 4):
            owner.call(made.append, number)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert made == [1, 2], "not in that thread"
    await asyncio.sleep(0.01)
    assert made == [1, 2, 3, 4]


async def test_a_coroutine_is_run_at_home_and_its_result_returned() -> None:
    owner, _ = owned()

    async def where() -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    here = asyncio.get_running_loop()
    assert await owner.run(where()) is here
    owner.bind()
    assert await owner.run(where()) is here
    elsewhere = asyncio.to_thread(lambda: asyncio.run(owner.run(where())))
    assert await asyncio.wait_for(elsewhere, 5.0) is here


async def test_what_is_begun_at_home_starts_first_and_is_begun_at_once() -> None:
    owner, called = owned()
    owner.bind()

    def work(what: str) -> asyncio.Future[Any]:
        called.append(what)
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done

    await owner.begin(owner.acquire(), work, "sent")
    assert called == ["start", "sent"]
    owner.close()
    home = asyncio.get_running_loop()
    await asyncio.wait_for(asyncio.to_thread(lambda: asyncio.run(_await(owner, home, work))), 5.0)
    assert called == ["start", "sent", "late"], "what is closed is not started again"


async def _await(owner: OwnerLoop, home: asyncio.AbstractEventLoop, work: Any) -> None:
    await owner.begin(home, work, "late")


async def test_an_outcome_is_told_as_it_is() -> None:
    loop = asyncio.get_running_loop()

    def future(set_it: Callable[[asyncio.Future[Any]], object]) -> asyncio.Future[Any]:
        made: asyncio.Future[Any] = loop.create_future()
        set_it(made)
        return made

    done = future(lambda f: f.set_result(7))
    failed = future(lambda f: f.set_exception(OSError("lost")))
    cancelled = future(lambda f: f.cancel())
    for copy in (_copy, _copy_outcome):
        outcomes: list[asyncio.Future[None]] = [loop.create_future() for _ in range(3)]
        for source, outcome in zip((done, failed, cancelled), outcomes, strict=True):
            copy(source, outcome)  # type: ignore[arg-type]
            assert outcome.done()
            copy(source, outcome)  # type: ignore[arg-type]  # once
        assert outcomes[0].result() is None
        assert str(outcomes[1].exception()) == "lost"
        assert outcomes[2].cancelled()
    failed.exception()


async def test_the_end_of_the_interpreter_waits_for_no_close_that_does_not_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert owner_loop.EXIT_S == 3.0
    monkeypatch.setattr(owner_loop, "EXIT_S", 0.02)
    ended: list[str] = []

    async def close() -> None:
        try:
            await asyncio.sleep(60.0)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    owner = OwnerLoop("the broker", lambda: None, close)
    owner.bind()
    await asyncio.wait_for(asyncio.to_thread(owner._at_exit), 5.0)
    await until(lambda: ended == ["cancelled"], "it is given up")
