"""When a message is sent to a device: on change only, not too often, within a daily budget."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from heron_mqtt.cancellation import unless_cancelled
from heron_mqtt.errors import BrokerError, HeronError, MessageError
from heron_mqtt.field.state_directory import state_directory, write_whole
from heron_mqtt.field.steady_clock import steady_s
from heron_mqtt.field.vendor.device_mapping import DeviceMapping
from heron_mqtt.field.vendor.link import NotTaken
from heron_mqtt.field.vendor.outgoing import DeviceCommand, Outgoing, RegisterCommand, ZeroMessages
from heron_mqtt.field.vendor.payload_filling import MessageContext, RenderedValue
from heron_mqtt.messages import Setpoint
from heron_mqtt.messaging.topics import escape

log = logging.getLogger("heron_mqtt.vendor")

HOUR_S = 3_600.0
HOURS = 24
_Zero = tuple[ZeroMessages, Mapping[str, RenderedValue]]
SendCommand = Callable[[DeviceCommand], "asyncio.Future[None]"]


class NotSent(HeronError):
    """A setpoint was not sent to the device; says why."""


class SentLater(NotSent):
    """A setpoint is not sent yet: it has to be told again once the device takes the next write.

    Args:
        text: For people.
        within_s: When that is, s from now.
    """

    def __init__(self, text: str, within_s: float) -> None:
        self.within_s = within_s
        super().__init__(text)


class PartlyTaken(NotSent):
    """A setpoint of which a part was taken, or may have been, and a part was not; says why.

    Args:
        text: For people.
        was_heard: Whether something was refused; else something was not answered.
    """

    def __init__(self, text: str, *, was_heard: bool = True) -> None:
        self.was_heard = was_heard
        super().__init__(text)


class WriteBudget:
    """Writes to a device in the last 24 hours, by the hour; kept in a file, for a restart to know them.

    Args:
        limit: Writes allowed in 24 hours.
        file: Where the counts are kept; None = in memory only.
        utc_s: The time of day, s since 1970.
    """

    def __init__(self, limit: int, file: Path | None = None, utc_s: Callable[[], float] = time.time) -> None:
        self.limit = limit
        self._file = file
        self._utc_s = utc_s
        self._hours: dict[int, int] = {}
        self._is_reported = False
        if file is not None and file.is_file():
            try:
                held = json.loads(file.read_text())
                self._hours = {int(hour): max(0, int(count)) for hour, count in held.items()}
            except (OSError, ValueError, AttributeError) as exc:
                log.warning("%s: the count of writes cannot be read, it begins at 0: %s", file, exc)

    @property
    def used(self) -> int:
        """Writes in the last 24 hours."""
        now = int(self._utc_s() // HOUR_S)
        self._hours = {hour: count for hour, count in self._hours.items() if now - HOURS < hour <= now}
        return sum(self._hours.values())

    def free_again(self) -> str:
        """Return when the oldest writes no longer count, for a message."""
        oldest = min(self._hours, default=int(self._utc_s() // HOUR_S))
        return datetime.fromtimestamp(oldest * HOUR_S, UTC).strftime("%H:%M UTC")  # a day later

    def add(self, writes: int) -> None:
        """Count writes that are about to be sent."""
        hour = int(self._utc_s() // HOUR_S)
        self._hours[hour] = self._hours.get(hour, 0) + writes
        if self._file is None:
            return
        try:
            write_whole(self._file, self._hours)
        except OSError as exc:
            if not self._is_reported:
                self._is_reported = True
                log.warning(
                    "%s: the count of writes cannot be kept, a restart forgets it: %s", self._file, exc
                )


def budget_of(mapping: DeviceMapping, env_id: str, agent: str, name: str) -> WriteBudget | None:
    """Return what counts the writes to a device, over restarts; None = its mapping limits none."""
    table = mapping.setpoint
    if table is None or table.max_writes_per_day is None:
        return None
    file = f"{escape(env_id)}-{escape(agent)}-{escape(name)}.json"
    return WriteBudget(table.max_writes_per_day, state_directory() / "writes" / file)


class Commander:
    """Sends the messages of setpoints, as often as the mapping wants.

    Args:
        mapping: What is sent, and how often.
        publish: Sends one message; what it returns is done when the broker, or the device, has it.
        within_s: How long the broker may take to acknowledge.
        budget: Counts writes; None = no limit.
        monotonic: For intervals, s.
    """

    def __init__(
        self,
        mapping: DeviceMapping,
        publish: SendCommand,
        *,
        within_s: float,
        budget: WriteBudget | None = None,
        monotonic: Callable[[], float] = steady_s,
    ) -> None:
        self.values: Mapping[str, RenderedValue] = {}
        """Of the setpoint that is being sent, or was and is not refused; empty while none holds."""
        self.deferred = 0
        self.moved_at = float("-inf")
        """When a power that is not 0 was sent last."""
        self._mapping = mapping
        self._publish = publish
        self._within_s = within_s
        self._budget = budget
        self._monotonic = monotonic
        self._told: frozenset[tuple[Any, ...]] = frozenset()
        self._last_at = float("-inf")
        self._values_before: Mapping[str, RenderedValue] = {}
        self._taken = 0  # commands to registers of what is being sent, so far
        self._zero: _Zero | None = None  # the last stop that could be computed
        self.forgotten_values: Mapping[str, RenderedValue] = {}
        """The values of the last setpoint, once it was forgotten."""
        self.parts = 0
        """How many messages the last setpoint went out in."""

    async def tell(self, setpoint: Setpoint, context: MessageContext, *, renewal: bool = False) -> bool:
        """Send a setpoint, or as much of it as is new; returns whether anything was sent.

        Raises:
            SentLater: It is not sent yet, says when it can be.
            NotSent: It is not sent, says why.
            PartlyTaken: The device holds a part of it, or may.
            MessageError: Something that the messages need is not known.
            BrokerError: The broker refused it.
            NotTaken: The device refused it, or it or the broker does not answer.
        """
        table = self._mapping.setpoint
        assert table is not None
        if renewal and table.send == "setpoint":
            return False
        messages, values = self._mapping.write(setpoint, context)
        if self._mapping.stop_needs:
            self._remember_zero(context)
        meanings = frozenset(m.meaning for m in messages)
        if table.send == "change":
            messages = self._changed(messages)
        if not messages:
            self.values = values
            return False
        wait_s = self._last_at + table.min_interval_s - self._monotonic()
        if wait_s > 0.0:
            self.deferred += 1
            raise SentLater(
                f"the device takes a write every {table.min_interval_s:g} s: sent in {wait_s:.0f} s",
                wait_s,
            )
        self._check_budget(len(messages))
        self._values_before, self.values = self.values, values
        self.parts = len(messages)
        moves = setpoint.p_mw != 0.0
        try:
            await self._send_whole(messages)
        except PartlyTaken:
            moves = True  # the mode of this one may have put an old power in force
            self.note_refusal()
            raise
        except (BrokerError, NotTaken):
            self.note_refusal()
            raise
        finally:  # what failed may have reached the device
            if moves:
                self.moved_at = self._monotonic()
        self._told = meanings
        return True

    def _changed(self, messages: list[DeviceCommand]) -> list[DeviceCommand]:
        """Return those that are new, and with them what sets the same place before and after them.

        One that sets a place that a later one sets, too, holds it at 0 while something new in between comes.
        """
        is_new = [message.meaning not in self._told for message in messages]
        places = [_places(message) for message in messages]
        changed: list[DeviceCommand] = []
        overwritten: set[tuple[str, Any]] = set()
        for i, message in enumerate(messages):
            is_before_new = any(
                places[i] & places[j] and any(is_new[i + 1 : j]) for j in range(i + 1, len(messages))
            )
            if is_new[i] or is_before_new or overwritten & places[i]:
                changed.append(message)
                overwritten |= places[i]
        return changed

    async def stop(self, context: MessageContext, *, is_at_rest: bool = False) -> str | None:
        """Send a setpoint of 0, whatever was sent before, and however often.

        A device that refuses the 0 itself is sent nothing else that a setpoint sends: its mode may put an old
        power in force. It is handed back instead, if messages of its own do that, unless it is at rest.

        Args:
            context: What the messages need.
            is_at_rest: The device is known to have no power.

        Returns:
            What was sent instead, because 0 cannot be computed, and why; for people. None = it was sent.

        Raises:
            MessageError: Something that the messages need is not known, and nothing can be sent instead.
            BrokerError: The broker refused it.
            NotTaken: The device refused it, or does not answer.
        """
        instead: str | None = None
        try:
            zero, self.values = self._mapping.stop(context)
        except MessageError as exc:
            (zero, self.values), instead = self._instead_of_zero(context, exc, with_release=True)
        self._told = frozenset()
        try:
            await self._send_to_the_end(zero.at_once)
        except NotTaken as exc:
            if exc.was_heard and self._mapping.releases_by_messages and not is_at_rest:
                await self._release_in_part(context)
            raise
        await self._send_rest(zero, zero.then)
        return instead

    async def release(self, context: MessageContext) -> str | None:
        """Hand the device back to its own control, whatever was sent before.

        Returns:
            As with ``stop``, where it is handed back by a setpoint of 0.

        Raises:
            MessageError: Something that the messages need is not known, and nothing can be sent instead.
            BrokerError: The broker refused it.
            NotTaken: The device refused it, or does not answer.
        """
        self.forget()
        if self._mapping.releases_by_messages:
            messages, self.values = self._mapping.write_release(context)
            try:
                await self._send([self._releasing(message) for message in messages], is_end=True)
            except NotTaken as exc:
                if exc.was_heard:
                    await self._release_in_part(context)
                raise
            return None
        instead: str | None = None
        try:
            zero, self.values = self._mapping.stop(context)
        except MessageError as exc:
            (zero, self.values), instead = self._instead_of_zero(context, exc, with_release=False)
        is_again = len(zero.then) > 0 and _writes(zero.at_once) <= _writes(zero.then)
        await self._send_to_the_end(zero.at_once if is_again else map(self._releasing, zero.at_once))
        await self._send_rest(zero, map(self._releasing, zero.then))
        return instead

    async def _send_rest(self, zero: ZeroMessages, rest: Iterable[DeviceCommand]) -> None:
        """Send what follows the power: to the end if that is 0, else until something is refused."""
        await (self._send_to_the_end(rest) if zero.at_once else self._send(list(rest)))

    async def _release_in_part(self, context: MessageContext) -> None:
        """Send what of its release may still help a device that has refused something: it stays owed."""
        with contextlib.suppress(NotTaken, MessageError):
            await self._send_to_the_end(map(self._releasing, self._mapping.release_without_zero(context)))

    def _remember_zero(self, context: MessageContext) -> None:
        with contextlib.suppress(MessageError):
            self._zero = self._mapping.stop(context)

    def _instead_of_zero(
        self, context: MessageContext, why: MessageError, *, with_release: bool
    ) -> tuple[_Zero, str]:
        """Return what is sent where 0 cannot be computed, with its values, and what that is, for people.

        Raises:
            MessageError: Nothing can be.
        """
        if with_release and self._mapping.releases_by_messages:
            with contextlib.suppress(MessageError):
                messages, values = self._mapping.write_release(context)
                text = f"0 cannot be computed ({why}): its release is sent instead"
                return (ZeroMessages(tuple(map(self._releasing, messages)), ()), values), text
        if self._zero is not None:
            return self._zero, f"0 cannot be computed ({why}): the 0 that was computed last is sent instead"
        try:
            zero = self._mapping.stop_in_part(context)
        except MessageError:
            raise why from None
        return zero, f"0 cannot be computed ({why}): only the parts that can be computed are sent"

    def forget(self) -> None:
        """Know of no setpoint that the device holds: the next one is sent in full."""
        self.forgotten_values = self.values or self.forgotten_values
        self.note_absence()
        self.values = self._values_before = {}

    def note_absence(self) -> None:
        """Send everything of the next setpoint: the device may have forgotten what it was told."""
        self._told = frozenset()

    def note_refusal(self) -> None:
        """Count the setpoint that was sent last as not taken, though it may have reached the device.

        Keepalives carry the one before, and the next one is sent in full.
        """
        self.note_absence()
        self.values = self._values_before

    def _releasing(self, message: DeviceCommand) -> DeviceCommand:
        """Return a message of a release; of registers it is looked at whether they show it."""
        if not isinstance(message, RegisterCommand):
            return message
        return replace(message, releases=True, undoes=self._mapping.fixed_words)

    def _check_budget(self, writes: int) -> None:
        if self._budget is None:
            return
        table = self._mapping.setpoint
        assert table is not None
        kept = len(table.release) if isinstance(table.release, list) else len(table.messages)
        used = self._budget.used
        if used + writes + kept > self._budget.limit:
            raise NotSent(
                f"{used} writes in 24 hours, {self._budget.limit} are allowed "
                f"({kept} are kept for the release); the next at {self._budget.free_again()}"
            )

    async def _send_whole(self, messages: list[DeviceCommand]) -> None:
        """Send the messages of a setpoint.

        Raises:
            PartlyTaken: One of them was not taken, and another was, or may have been.
            BrokerError, NotTaken: None was.
        """
        try:
            await self._send(messages)
        except NotTaken as exc:
            is_first = self._taken == 0 and exc.was_heard
            if exc.in_part or not (is_first or len(messages) == 1):
                raise PartlyTaken(str(exc), was_heard=exc.was_heard) from None
            raise
        except BrokerError as exc:
            if len(messages) > 1:
                raise PartlyTaken(str(exc)) from None
            raise

    async def _send(self, messages: list[DeviceCommand], *, is_end: bool = False) -> None:
        """Send messages; those of an end so that the broker acknowledges each, whatever the mapping says."""
        self._begin_sending(len(messages))
        sending: list[asyncio.Future[None]] = []
        for message in messages:
            if message.pause_s:
                await asyncio.sleep(message.pause_s)
            if isinstance(message, RegisterCommand):
                # One that is refused ends it: the next builds on it.
                await unless_cancelled(self._publish(message))
                self._taken += 1
            else:
                sending.append(self._publish(_acknowledged(message) if is_end else message))
        await self._wait_for_broker(sending)

    async def _send_to_the_end(self, given: Iterable[DeviceCommand]) -> None:
        """Send messages of a stop or a release: one that is refused does not keep back the next.

        Raises:
            BrokerError: The broker refused one.
            NotTaken: The device refused one, or it or the broker does not answer.
        """
        messages = list(given)
        self._begin_sending(len(messages))
        sending: list[asyncio.Future[None]] = []
        refusal: NotTaken | None = None
        for message in messages:
            if message.pause_s:
                await asyncio.sleep(message.pause_s)
            if not isinstance(message, RegisterCommand):
                sending.append(self._publish(_acknowledged(message)))
                continue
            try:
                await unless_cancelled(self._publish(message))
            except NotTaken as exc:
                if not exc.was_heard:
                    raise
                refusal = refusal or exc
        await self._wait_for_broker(sending)
        if refusal is not None:
            raise refusal

    def _begin_sending(self, writes: int) -> None:
        self._taken = 0
        self._last_at = self._monotonic()
        if self._budget is not None and writes:
            self._budget.add(writes)

    async def _wait_for_broker(self, sending: list[asyncio.Future[None]]) -> None:
        if not sending:
            return
        done, pending = await asyncio.wait(sending, timeout=self._within_s)
        for each in done:
            each.result()
        if pending:  # the connection may be gone without a sign
            raise NotTaken(f"the broker has not acknowledged it within {self._within_s:g} s", was_heard=False)


def _acknowledged(message: Outgoing) -> Outgoing:
    """Return a message of a stop or release so that the broker acknowledges it, whatever the mapping says."""
    return replace(message, qos=max(1, message.qos))


def _writes(messages: Iterable[DeviceCommand]) -> frozenset[Any]:
    """Return the requests to registers in some messages."""
    return frozenset(write for m in messages if isinstance(m, RegisterCommand) for write in m.writes)


def _places(message: DeviceCommand) -> set[tuple[str, Any]]:
    """Return what a message sets: registers by area and address, numbers by topic and member of JSON.

    Texts on one topic may say different things, and each stands for itself.
    """
    if isinstance(message, RegisterCommand):
        return {(w.area, w.address + i) for w in message.writes for i in range(len(w.words))}
    try:
        document = json.loads(message.payload)
    except ValueError:
        return set()
    members = document if isinstance(document, dict) else {"": document}
    return {(message.topic, name) for name, each in members.items() if type(each) in {int, float}}
