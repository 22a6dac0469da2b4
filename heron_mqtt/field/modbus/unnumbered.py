"""Answers without a number of their request, as in RTU frames: what tells one from another is looked at.

A device or gateway that answers everything twice, or late, must not have its second answer taken for the next
request's. An answer has to be of the unit and function that were asked, a read of as many values, a write of
the place that was written. Two equal requests can only be distinguished by time. So after each of the first
answers of a connection there is a short pause. If a frame arrives in it that was not requested, there is such
a pause after every answer from then on, as long as that frame took.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Sequence
from typing import Protocol

log = logging.getLogger("heron_mqtt.modbus")

PROBATION = 3  # so many answers of a connection are looked at for a second one
QUIET_S = 0.05  # without a frame, before what was answered counts
LONGEST_QUIET_S = 0.5
QUIET_WITHIN_S = 2.0  # longer is not waited for: others have to be asked, and stopped, too
READS_BITS, READS_WORDS, WRITES_ONE, WRITES_SEVERAL = {1, 2}, {3, 4}, {5, 6}, {15, 16}
ERROR = 0x80  # bit of the function in an exception


class Frame(Protocol):
    """A request or an answer, as pymodbus has it."""

    function_code: int
    address: int
    count: int
    bits: Sequence[bool]
    registers: Sequence[int]
    exception_code: int


class AmbiguousAnswer(Exception):
    """Nothing tells which request an answer is of; says why."""


class UnnumberedAnswers:
    """Tells what answers a request on one connection or line.

    Args:
        address: For messages.
        clock: The loop's, s; None = that of the running loop.
    """

    def __init__(self, address: str, clock: Callable[[], float] | None = None) -> None:
        self._address = address
        self._clock = clock or (lambda: asyncio.get_running_loop().time())
        self._request: Frame | None = None
        self._strays: list[
            tuple[object, ...]
        ] = []  # what else could have answered the request; of two one differs
        self._heard_at = self._answered_at = -math.inf
        self._settled = 0
        self._lag_s: float | None = None  # of the latest frame that nothing had asked for

    def begin(self) -> None:
        """Take note of a new connection: nothing of an earlier one can come over it."""
        self._request, self._settled, self._lag_s = None, 0, None
        self._strays.clear()
        self._heard_at = self._answered_at = -math.inf

    def asked(self, request: Frame) -> None:
        """Take note of a request that is being sent."""
        self._request = request
        self._strays.clear()

    def take(self, frame: Frame, *, is_awaited: bool) -> bool:
        """Take in a frame; return whether it is the answer that is waited for."""
        now_s = self._clock()
        self._heard_at = now_s
        fits = self._request is not None and answers(self._request, frame)
        if is_awaited and fits:
            self._answered_at = now_s
            return True
        if fits and len(self._strays) < 2 and _said(frame) not in self._strays:
            self._strays.append(_said(frame))
        self._note_stray(now_s)
        return False

    def _note_stray(self, now_s: float) -> None:
        if self._lag_s is None:
            what = "an answer came without a request: does the device answer twice?"
            log.warning("%s: %s The next requests wait for such answers", self._address, what)
        lag_s = now_s - self._answered_at
        if lag_s <= LONGEST_QUIET_S:
            self._lag_s = max(lag_s, self._lag_s or 0.0)
        elif self._lag_s is None:
            self._lag_s = LONGEST_QUIET_S

    async def settle(self, answer: Frame) -> None:
        """Wait until no second answer is to be expected any more.

        Raises:
            AmbiguousAnswer: One came that is not the same, or something comes all the time.
        """
        if self._lag_s is None and self._settled >= PROBATION:
            return
        until_s = self._clock() + QUIET_WITHIN_S
        while True:
            quiet_s = min(LONGEST_QUIET_S, max(QUIET_S, 2.0 * (self._lag_s or 0.0)))
            left_s = self._heard_at + quiet_s - self._clock()
            if left_s <= 0.0:
                break
            if self._clock() >= until_s:
                raise AmbiguousAnswer(f"answers without a request keep coming, {QUIET_WITHIN_S:g} s long")
            await asyncio.sleep(left_s)
        self._settled += 1
        if any(stray != _said(answer) for stray in self._strays):
            raise AmbiguousAnswer("two different answers came")


def answers(request: Frame, frame: Frame) -> bool:
    """Whether a frame can be the answer to a request, by what it says; the unit was compared before."""
    function = request.function_code
    if frame.function_code & ERROR:
        return frame.function_code == function | ERROR
    if frame.function_code != function:
        return False
    if function in READS_WORDS:
        return len(frame.registers) == request.count
    if function in READS_BITS:
        return len(frame.bits) == 8 * math.ceil(request.count / 8)
    if function in WRITES_ONE:
        return frame.address == request.address
    if function in WRITES_SEVERAL:
        return (frame.address, frame.count) == (request.address, request.count)
    return True


def _said(frame: Frame) -> tuple[object, ...]:
    return frame.function_code, frame.address, frame.count, frame.bits, frame.registers, frame.exception_code
