"""OwnerLoop: what is begun from another thread happens in the home loop, and its outcome comes back."""

from __future__ import annotations

import asyncio

import pytest

from heron_mqtt.errors import BrokerUnavailable
from heron_mqtt.messaging.core.owner_loop import OwnerLoop


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
