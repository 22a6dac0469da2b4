"""How a program that is supervised ends when its supervisor has gone."""

from __future__ import annotations

import asyncio
import os
import sys

import pytest

from heron_mqtt.end_signals import until_input_ends


async def test_one_whose_input_ends_is_cancelled_once_and_cleans_up_in_peace(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The end of the input stays readable: a second cancel would break off the goodbye."""
    ours, its = os.pipe()
    cleaned_up = []

    async def serving() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            for part in range(3):
                await asyncio.sleep(0.01)
                cleaned_up.append(part)

    with os.fdopen(ours) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        waiting = asyncio.create_task(until_input_ends(asyncio.create_task(serving())))
        await asyncio.sleep(0.01)
        assert not waiting.done()
        os.close(its)
        await asyncio.wait_for(waiting, 10.0)
    assert cleaned_up == [0, 1, 2]
