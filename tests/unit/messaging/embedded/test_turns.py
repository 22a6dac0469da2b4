"""One at a time, name by name."""

from __future__ import annotations

import asyncio

import pytest

from heron_mqtt.messaging.embedded.auth.turns import TooManyWait, Turns


async def _take(turns: Turns, name: str, done: list[str]) -> None:
    async with turns.turn(name):
        await asyncio.sleep(0)
        done.append(name)


async def test_one_name_with_many_requests_waits_behind_names_with_one() -> None:
    turns, done = Turns(100), list[str]()
    names = ["a"] * 5 + ["b", "a", "c"]
    await asyncio.gather(*(_take(turns, name, done) for name in names))
    assert done == ["a", "a", "b", "c", "a", "a", "a", "a"]


async def test_so_many_of_one_name_may_wait() -> None:
    turns, done = Turns(2), list[str]()
    results = await asyncio.gather(
        *(_take(turns, "a", done) for _ in range(5)), _take(turns, "b", done), return_exceptions=True
    )
    assert [type(r) for r in results if r is not None] == [TooManyWait] * 2
    assert sorted(done) == ["a", "a", "a", "b"]


async def test_who_gives_up_takes_no_turn_and_passes_on_one_it_was_given() -> None:
    turns, done = Turns(10), list[str]()
    holding = asyncio.Event()

    async def hold() -> None:
        async with turns.turn("x"):
            await holding.wait()

    first = asyncio.create_task(hold())
    await asyncio.sleep(0)
    waiting = [asyncio.create_task(_take(turns, name, done)) for name in "abc"]
    await asyncio.sleep(0)
    waiting[1].cancel()
    holding.set()
    await first  # a has been given its turn, and has not run yet
    waiting[0].cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert done == ["c"]
    await _take(turns, "d", done)
    assert done == ["c", "d"]


async def test_a_failure_ends_the_turn() -> None:
    turns = Turns(1)
    for _ in range(3):
        with pytest.raises(KeyError):
            async with turns.turn("a"):
                raise KeyError
