"""What confirms a setpoint that was sent to a vendor's device: an answer, a power, or having been sent."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from typing import Any

from heron_mqtt.errors import MessageError
from heron_mqtt.field.vendor.answers import SetpointAnswer
from heron_mqtt.field.vendor.device_mapping import DeviceMapping
from heron_mqtt.field.vendor.payload_filling import RenderedValue


class Confirmation:
    """Waits for what confirms the newest setpoint, by ``DeviceMapping.confirmed_by``.

    If sending alone confirms, the next power is still awaited, so that telemetry contains it.

    Args:
        mapping: Of the device.
        count_problem: Called with the topic of an answer that cannot be read, and what is wrong.
    """

    def __init__(self, mapping: DeviceMapping, count_problem: Callable[[str, str], None]) -> None:
        self._mapping = mapping
        self._count_problem = count_problem
        self._by = mapping.confirmed_by
        self.is_awaited = False
        self._seq: int | None = None
        self._counts_from = math.inf
        self._answer: SetpointAnswer | None = None
        self._power_at = self._answered_at = -math.inf  # when each was of this setpoint last
        self._came = asyncio.Event()
        self._settled = asyncio.Event()

    def begin(self, seq: int | None, counts_from: float) -> None:
        """Wait from now on.

        Args:
            seq: Number of the setpoint.
            counts_from: Power that was measured earlier does not confirm; by the clock of measurements, s.
        """
        self._came.clear()
        self._settled.clear()
        self._answer = None
        self._power_at = self._answered_at = -math.inf
        self.is_awaited, self._seq, self._counts_from = True, seq, counts_from

    def count_from(self, counts_from: float) -> None:
        """Take only power that is measured from this time on, s."""
        self._counts_from = counts_from
        self._power_at = -math.inf
        self._settled.clear()

    def end(self) -> None:
        """Wait no more."""
        self.is_awaited = False

    async def wait(self, within_s: float) -> None:
        """Wait for it.

        Raises:
            TimeoutError: Nothing came.
        """
        async with asyncio.timeout(within_s):
            await self._came.wait()

    async def wait_for_end(self, *, of_several: bool) -> None:
        """Wait for a rejection, or for the one answer that is to come; of several without end."""
        while self._answer is None or (of_several and self._answer.accepted):
            self._came.clear()
            await self._came.wait()

    async def wait_for_power(self, within_s: float) -> None:
        """Wait for a power that is of this setpoint: measured once it counts, and not before its answer.

        Raises:
            TimeoutError: None came.
        """
        async with asyncio.timeout(within_s):
            await self._settled.wait()

    @property
    def answer(self) -> SetpointAnswer | None:
        """What the device has answered so far; None = nothing."""
        return self._answer

    @property
    def topics(self) -> list[str]:
        """Where it is to come."""
        if self._by == "answer":
            answers = [reader.table.topic for reader in self._mapping.answers]
            return answers or list(self._mapping.topics_of("ack_seq"))
        return list(self._mapping.topics_of("p_mw"))

    def take_fields(self, fields: Mapping[str, Any], at_s: float, *, is_measured: bool) -> None:
        """Take in what the device reports.

        Args:
            fields: Of telemetry.
            at_s: When it came, or was read.
            is_measured: Whether a power is among them that was measured then.
        """
        if not self.is_awaited:
            return
        if self._by == "answer" and self._seq is not None and fields.get("ack_seq") == self._seq:
            self._note_answer(at_s)
        if is_measured and at_s >= self._counts_from:
            self._power_at = at_s
            if self._by != "answer":
                self._came.set()
            self._look()

    def _note_answer(self, at_s: float) -> None:
        self._answered_at = at_s
        self._came.set()
        self._look()

    def _look(self) -> None:
        """See whether the newest power is of this setpoint; before its answer the device had not taken it."""
        has_answered = self._by != "answer" or self._answered_at > -math.inf
        if has_answered and self._power_at > -math.inf and self._power_at >= self._answered_at:
            self._settled.set()
        else:
            self._settled.clear()

    def take_answer(
        self,
        topic: str,
        payload: bytes,
        values: Mapping[str, RenderedValue],
        at_s: float,
        *,
        before: Mapping[str, RenderedValue] | None = None,
    ) -> None:
        """Take in what may be an answer; the first rejection counts, else the last answer.

        Args:
            topic: Where it came.
            payload: As it came.
            values: What the device was told.
            at_s: When it came; of a power that came in the same message too.
            before: As with ``AnswerReader.read``, of a release.
        """
        if not self.is_awaited:
            return
        for reader in self._mapping.answers:
            try:
                answer = reader.read(topic, payload, values, before)
            except MessageError as exc:
                self._count_problem(topic, f"{topic}: {exc}")
                continue
            if answer is not None and (self._answer is None or self._answer.accepted):
                self._answer = answer
                self._note_answer(at_s)
