"""How a program ends that is told to, or whose supervisor has gone."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable

import pytest

from heron_mqtt.end_signals import GRACE_S, AskedToEnd, EndSignals, until_input_ends


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


class ClosedByASignal(asyncio.SelectorEventLoop):
    """A loop that Ctrl-C meets while it is closed."""

    def close(self) -> None:
        if not self.is_closed():
            os.kill(os.getpid(), signal.SIGINT)
        super().close()


def made_by_a_signal() -> asyncio.AbstractEventLoop:
    """Return a loop that Ctrl-C meets while it is made."""
    os.kill(os.getpid(), signal.SIGINT)
    return asyncio.SelectorEventLoop()


@pytest.mark.parametrize(("make", "begins"), [(made_by_a_signal, False), (ClosedByASignal, True)])
def test_a_signal_while_a_loop_is_made_or_closed_ends_the_program_after_that(
    make: Callable[[], asyncio.AbstractEventLoop], begins: bool
) -> None:
    begun = []

    async def main() -> None:
        begun.append(True)

    with EndSignals() as signals, pytest.raises(AskedToEnd):
        signals.run(main(), make)
    assert bool(begun) == begins


def test_a_second_signal_breaks_off_what_notes_the_first() -> None:
    def stuck() -> asyncio.AbstractEventLoop:
        os.kill(os.getpid(), signal.SIGINT)
        signals._asked_at -= GRACE_S
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("it goes on")

    async def main() -> None: ...

    coroutine = main()
    with EndSignals() as signals, pytest.raises(AskedToEnd):
        signals.run(coroutine, stuck)
    coroutine.close()
