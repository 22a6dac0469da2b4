"""One bounded, leased test setpoint to a device, and what came of it.

The device is driven by the same adapter as in a run (``VendorDevice``), so lease, renewals, answers, an
emergency stop and the release are those of a run. It is handed back at the end, also if the trial is
cancelled or broken off; where the connection is lost, as soon as it is back. It is claimed for that time, as
by a run: one that a program of this machine drives is not touched.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field

from heron_mqtt.app.operator_client.text import printable
from heron_mqtt.app.probe.rivals import BoxConnection, OwnMessages, OwnRegisters, RivalWatch
from heron_mqtt.app.probe.step_response import PowerBefore, PowerSample, power_before, step_response
from heron_mqtt.app.probe.verdicts import SetpointAck, Verdict, judge, kw
from heron_mqtt.app.vendor_links import claimed_places
from heron_mqtt.errors import ConfigError, MessageError, PlaceTaken
from heron_mqtt.field.device.presence import leaving_others_alone
from heron_mqtt.field.modbus.address_table import DeviceModbusTable
from heron_mqtt.field.place_claim import PlaceClaim, broker_place
from heron_mqtt.field.steady_clock import steady_s
from heron_mqtt.field.vendor import VendorDevice
from heron_mqtt.field.vendor.built_ins import BuiltIns
from heron_mqtt.field.vendor.commands import NotSent, budget_of
from heron_mqtt.field.vendor.device_mapping import DeviceMapping
from heron_mqtt.field.vendor.link import RegisterPoll
from heron_mqtt.field.vendor.outgoing import DeviceCommand, Outgoing
from heron_mqtt.field.vendor.payload_filling import MessageContext
from heron_mqtt.field.vendor.vendor_state import VendorState
from heron_mqtt.messages import Setpoint, Telemetry
from heron_mqtt.messaging import topics
from heron_mqtt.messaging.base import Received
from heron_mqtt.messaging.mqtt import MqttBroker
from heron_mqtt.messaging.mqtt.raw import RawMqtt
from heron_mqtt.messaging.ownership import user_name
from heron_mqtt.messaging.stamping import MessageStamper

MAX_FOR_S = 600.0
MIN_FOR_S = 2.0
LEASE_S = 10.0
GRACE_S = 1.0  # how much longer the lease is than the test: the release comes first
TICK_S = 0.05
HELD_EVERY_S = 0.25  # how often a power counts that is reported only when it changes
RETURN_S = 60.0  # how long to wait for a lost connection, to hand the device back
RELEASE_S = 3.0  # how long the release may take
WATCH_RELEASE_S = 10.0  # how long the device is watched after it
SILENCE_S = 5.0  # without a value; longer if the device sends seldom
OVERSHOOT = 1.25  # of the maximum: more is broken off


@dataclass(frozen=True, slots=True)
class TrialOrder:
    """What is to be tried.

    Attributes:
        send_mw: The setpoint, MW, positive = injected.
        max_mw: The most that the device may be driven to, MW, > 0.
        for_s: How long, s.
        listen_s: How long is listened before, s.

    Raises:
        ConfigError: It is out of bounds.
    """

    send_mw: float
    max_mw: float
    for_s: float
    listen_s: float

    def __post_init__(self) -> None:
        if self.send_mw == 0.0:
            raise ConfigError("--send 0: shows neither sign nor scale; expected a small power such as 0.5kW")
        if self.max_mw <= 0.0:
            raise ConfigError("--max: expected more than 0")
        if abs(self.send_mw) > self.max_mw:
            raise ConfigError(
                f"--send {kw(self.send_mw)}: more than {kw(self.max_mw)}; if the device and what is "
                f"connected to it may be driven that far, add --max {kw(abs(self.send_mw)).replace(' ', '')}"
            )
        if not MIN_FOR_S <= self.for_s <= MAX_FOR_S:
            raise ConfigError(f"--for {self.for_s:g}s: expected {MIN_FOR_S:g}s to {MAX_FOR_S / 60:g}m")


@dataclass(frozen=True, slots=True)
class TrialPlan:
    """What is about to be sent, for people.

    Attributes:
        before: The power now.
        messages: Topic and payload of the setpoint, in order.
        release: Those of the release.
    """

    before: PowerBefore
    messages: tuple[tuple[str, bytes], ...]
    release: tuple[tuple[str, bytes], ...]


@dataclass(slots=True)
class TrialReport:
    """What came of it.

    Attributes:
        before: The power before.
        verdicts: One line each.
        broken_off: Why it was ended early; None = it was not.
        every: The power since the setpoint; times from then on, s.
    """

    before: PowerBefore
    verdicts: list[Verdict] = field(default_factory=list)
    broken_off: str | None = None
    every: list[PowerSample] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        """Whether a run may rely on the mapping."""
        return self.broken_off is None and all(verdict.is_good for verdict in self.verdicts)


class SetpointTrial:
    """Tries one setpoint.

    Args:
        url: Of the broker.
        mapping: Of the device.
        label: AGENT/DEVICE: as whom it is driven.
        env_id: In which environment.
        order: What to try.
        say: Called with a line about each thing that happens.
        modbus: Where the device is, if its mapping is one of registers.

    Raises:
        ConfigError: The mapping can only be read, says no release, or sends something else than was asked.
    """

    def __init__(
        self,
        url: str,
        mapping: DeviceMapping,
        label: str,
        *,
        env_id: str,
        order: TrialOrder,
        say: Callable[[str], None],
        modbus: DeviceModbusTable | None = None,
    ) -> None:
        if mapping.setpoint is None:
            raise ConfigError(f"{mapping.source}: takes no setpoints: it has no [setpoint]")
        if not mapping.has_release:
            raise ConfigError(
                f"{mapping.source}: setpoint.release: missing; it hands the device back, and is needed "
                "before the device is driven"
            )
        if (mapping.registers is None) != (modbus is None):
            wanted = "needs --modbus" if modbus is None else "needs no --modbus, it is on MQTT"
            raise ConfigError(f"{mapping.source}: --send: {mapping.name} {wanted}")
        beyond = mapping.beyond(Setpoint(p_mw=order.send_mw, lease_s=LEASE_S))
        if beyond:
            raise ConfigError(*(f"{mapping.source}: --send {kw(order.send_mw)}: {why}" for why in beyond))
        mapping.check_range((-order.max_mw, order.max_mw))
        self._mapping, self._order, self._say = mapping, order, say
        self._table = mapping.setpoint
        agent, _, name = label.partition("/")
        self._label = label
        self._broker = MqttBroker(url, env_id=env_id)  # the class: the device gets a client with its options
        self._stamper = MessageStamper(f"probe-{user_name()}", env_id)
        self._channel = topics.device(agent, name, "setpoint")
        self._telemetry_channel = topics.device(agent, name, "telemetry")
        self._watch = RivalWatch(self._broker.options, label, self._stamper.boot)
        self._box: BoxConnection = (
            OwnMessages(RawMqtt(self._broker.options, self._broker.stats), mapping, self._watch)
            if modbus is None
            else OwnRegisters(modbus, mapping)
        )
        options = self._broker.options
        self._claim = PlaceClaim(
            claimed_places(mapping, options, modbus), env_id, broker_place(options.hosts), f"probe:{label}"
        )
        self._state = VendorState(mapping)
        self._samples: list[PowerSample] = []
        self._heard: tuple[str, int] | None = None  # the adapter's newest telemetry
        self._answers: dict[int, tuple[float, str | None]] = {}  # seq -> when, why rejected
        self._device = VendorDevice(
            mapping,
            self._box.link,
            agent,
            name,
            self._broker,
            env_id=env_id,
            kind="device",
            power_range_mw=(-order.max_mw, order.max_mw),
            period_s=0.5,
            stale_after_s=max(SILENCE_S, order.listen_s),
            budget=budget_of(mapping, env_id, agent, name),
            claim=self._claim,
        )
        self._serving: asyncio.Task[None] | None = None

    async def run(self, confirm: Callable[[TrialPlan], Awaitable[bool]]) -> TrialReport | None:
        """Listen, ask, send, watch, release.

        Args:
            confirm: Asked before anything is sent; the trial continues if it returns True.

        Returns:
            The result; None = it was not confirmed.

        Raises:
            NotSent: Something is in the way; nothing was sent.
            NameTaken: Another one drives the device.
            BrokerError: The broker is not there or refuses.
        """
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(leaving_others_alone(self._broker))
            await stack.enter_async_context(self._watch.observer)
            await self._watch.observer.settle()
            self._refuse_rivals()
            stack.callback(self._claim.close)
            self._claim_box()
            await stack.enter_async_context(self._listening())
            before = await self._listened()
            plan = self._plan(before)
            if not await self._asked(confirm, plan):
                return None
            self._refuse_rivals()
            self._claim_box()
            before = self._power_now()
            return await self._tried(before)

    # -- before ------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _listening(self) -> AsyncIterator[None]:
        """Connect to the device and serve it while inside; hand it back at the end."""
        async with self._box.connection(), self._broker_subscriptions():
            endings = self._box.link.listen(self._mapping.topic_filters(), self._on_raw, self._on_poll)
            endings += self._box.watch_commands()
            online = asyncio.Event()
            self._serving = asyncio.create_task(self._device.run(on_online=online.set), name="trial device")
            try:
                waiting = asyncio.create_task(online.wait(), name="trial online")
                await asyncio.wait({waiting, self._serving}, return_when=asyncio.FIRST_COMPLETED)
                waiting.cancel()
                self._raise_if_ended()
                yield
            finally:
                await self._ended()
                for end in endings:
                    end()

    @asynccontextmanager
    async def _broker_subscriptions(self) -> AsyncIterator[None]:
        subscription = self._broker.subscribe(self._telemetry_channel, self._on_telemetry)
        try:
            await subscription
            yield
        finally:
            subscription()

    async def _ended(self) -> None:
        """End the adapter, which hands the device back."""
        assert self._serving is not None
        self._serving.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await self._serving

    def _raise_if_ended(self) -> None:
        assert self._serving is not None
        if self._serving.done() and not self._serving.cancelled():
            self._serving.result()

    def _on_raw(self, topic: str, payload: bytes, retained: bool) -> None:
        now_s = steady_s()
        taken = self._state.take(topic, payload, now_s, retained=retained)
        if taken is not None and not retained and "p_mw" in taken.fields:
            self._samples.append((now_s, float(taken.fields["p_mw"])))

    def _on_poll(self, poll: RegisterPoll) -> None:
        taken = self._state.take_document(
            poll.source, poll.values, poll.at_s, shown=poll.shown, unread=poll.unread
        )
        if taken is not None and "p_mw" in taken.fields:
            self._samples.append((poll.at_s, float(taken.fields["p_mw"])))

    def _on_telemetry(self, message: Received) -> None:
        telemetry = self._broker.parsed(message, Telemetry)
        if telemetry is None or message.retained or telemetry.boot is None or telemetry.seq is None:
            return
        self._heard = (telemetry.boot, telemetry.seq)
        if telemetry.ack_seq is not None and telemetry.ack_boot == self._stamper.boot:
            now_s = steady_s()
            self._answers.setdefault(telemetry.ack_seq, (now_s, telemetry.rejected))

    async def _tick(self) -> None:
        await self._sampled()
        self._raise_if_ended()

    async def _sampled(self) -> None:
        """Wait a moment, and take what has become known; of what is reported on change, what holds."""
        await asyncio.sleep(TICK_S)
        now_s = steady_s()
        settled = self._state.settle(now_s)
        if "p_mw" in settled.fields:
            self._samples.append((now_s, float(settled.fields["p_mw"])))
        if self._mapping.table.liveness is None:
            return
        if self._box.connected:
            self._state.connected(now_s)
        held = self._state.telemetry(now_s, SILENCE_S)
        if held is not None and (not self._samples or now_s - self._samples[-1][0] >= HELD_EVERY_S):
            self._samples.append((now_s, held.p_mw))

    def _refuse_rivals(self) -> None:
        why = self._watch.refusal()
        if why is not None:
            raise NotSent(f"{self._label}: {why}: nothing was sent")
        if self._watch.observer.refusal is not None:
            raise NotSent(
                f"{self._label}: it is not known whether something else drives the device or a stop is in "
                "force: "
                f"{self._watch.observer.refusal}: nothing was sent"
            )

    def _claim_box(self) -> None:
        """Claim the device, with the topic levels learned so far, so that no run drives it meanwhile."""
        try:
            self._claim.take(self._state.learned)
        except PlaceTaken as exc:
            raise NotSent(f"{self._label}: nothing was sent: {exc}") from None

    async def _listened(self) -> PowerBefore:
        """Listen to the device for a while."""
        self._say(f"listening for {self._order.listen_s:g} s to what the device publishes by itself")
        end_s = steady_s() + self._order.listen_s
        while steady_s() < end_s:
            await self._tick()
            self._refuse_rivals()
        return self._power_now()

    def _power_now(self) -> PowerBefore:
        now_s = steady_s()
        recent = [(t, p) for t, p in self._samples if t >= now_s - max(self._order.listen_s, 2.0)]
        where = ", ".join(self._mapping.topics_of("p_mw"))
        if len(recent) < 2 or self._heard is None:
            why = self._state.why("p_mw", now_s) or f"{len(recent)} value(s) in {self._order.listen_s:g} s"
            raise NotSent(
                f"{self._label}: its power is not known: {why} ({where}): nothing was sent; --listen waits "
                "longer"
            )
        before = power_before(recent)
        step = abs(self._order.send_mw - before.p_mw)
        if step <= 2.0 * before.least_change_mw(self._order.for_s):
            wandering = f"noise {kw(before.noise_mw)}, drift {kw(before.drift_mw_s)} a second"
            raise NotSent(
                f"{self._label}: the power is {kw(before.p_mw)} ({wandering}): a setpoint of "
                f"{kw(self._order.send_mw)} could not be distinguished from that; nothing was sent; "
                "send another power"
            )
        if step < 0.1 * abs(self._order.send_mw):
            raise NotSent(
                f"{self._label}: the power is already {kw(before.p_mw)}: a setpoint of "
                f"{kw(self._order.send_mw)} would show no change; nothing was sent; send another power"
            )
        status = self._state.status(now_s)
        if status is not None and status.state != "online":
            raise NotSent(f"{self._label}: the device is {status.state}: {status.reason}: nothing was sent")
        return before

    def _plan(self, before: PowerBefore) -> TrialPlan:
        context = MessageContext(BuiltIns(), self._state.inputs, self._state.learned)
        setpoint = Setpoint(p_mw=self._order.send_mw, lease_s=self._lease_s(self._order.for_s), seq=0)
        try:
            messages, _ = self._mapping.write(setpoint, context)
            release = self._mapping.release(context)
        except MessageError as exc:
            raise NotSent(f"{self._label}: {exc}: nothing was sent") from None
        return TrialPlan(
            before,
            tuple(line for message in messages for line in _lines(message)),
            tuple(line for message in release for line in _lines(message)),
        )

    async def _asked(self, confirm: Callable[[TrialPlan], Awaitable[bool]], plan: TrialPlan) -> bool:
        """Ask, and continue listening meanwhile."""
        asking = asyncio.ensure_future(confirm(plan))
        try:
            while not asking.done():
                await self._tick()
            return await asking
        finally:
            asking.cancel()

    # -- the test ----------------------------------------------------------------------------------

    async def _tried(self, before: PowerBefore) -> TrialReport:
        report = TrialReport(before)
        begun_s, begun_at = steady_s(), len(self._samples)
        self._say(f"sending {kw(self._order.send_mw)} for {self._order.for_s:g} s")
        try:
            seq = self._send(self._lease_s(self._order.for_s))
            report.broken_off = await self._held(begun_s, begun_at, before)
            held_s = steady_s() - begun_s
            report.every = [(t - begun_s, p) for t, p in self._samples[begun_at:]]
            self._say("handing the device back")
            released, released_s = await self._release(), steady_s()
            at = len(self._samples)
            if released is None:
                await self._watched_release(released_s)
        except asyncio.CancelledError:
            self._say("ended early: handing the device back")
            await self._ended()
            self._say("NOT handed back" if self._device.is_driven else "handed back")
            raise
        report.verdicts = judge(
            step_response(before, report.every, self._order.send_mw, held_s),
            self._ack(seq, begun_s),
            self._table,
            released,
            [(t - released_s, p) for t, p in self._samples[at:]],
        )
        return report

    def _lease_s(self, left_s: float) -> float:
        return min(LEASE_S, left_s + GRACE_S)

    def _send(self, lease_s: float, *, renewal: bool = False, release: bool = False) -> int:
        assert self._heard is not None
        boot, seq = self._heard
        setpoint = Setpoint(
            p_mw=0.0 if release else self._order.send_mw,
            lease_s=lease_s,
            renewal=renewal,
            release=release,
            heard_boot=boot,
            heard_seq=seq,
        )
        number = self._stamper.next_seq(self._channel)
        not_after = asyncio.get_running_loop().time() + lease_s
        self._broker.publish(self._channel, self._stamper.stamp(self._channel, setpoint), not_after=not_after)
        return number

    async def _held(self, begun_s: float, begun_at: int, before: PowerBefore) -> str | None:
        """Let the setpoint hold for its time, renewing its lease; returns why it was broken off."""
        lease_ends_s = begun_s + self._lease_s(self._order.for_s)
        renewed_s = begun_s
        while (left_s := begun_s + self._order.for_s - steady_s()) > 0.0:
            await self._tick()
            why = self._why_break_off(begun_at, before) or self._why_not_sent(begun_s)
            if why is not None:
                self._say(f"ended early: {why}")
                return why
            lease_s = self._lease_s(left_s)
            if steady_s() - renewed_s >= LEASE_S / 3.0 and steady_s() + lease_s > lease_ends_s:
                self._send(lease_s, renewal=True)
                renewed_s, lease_ends_s = steady_s(), steady_s() + lease_s
        return None

    def _why_break_off(self, begun_at: int, before: PowerBefore) -> str | None:
        if not self._box.connected or not self._broker.connected:
            return "the connection to the broker was lost"
        if not self._watch.observer.is_connected:
            return "the connection that listens for stops was lost"
        if (why := self._watch.refusal()) is not None:
            return why
        if self._device.stopped:
            return "an emergency stop came"
        status = self._state.status(steady_s())
        if status is not None and status.state != "online":
            return f"the device is {status.state}: {status.reason}"
        most = OVERSHOOT * max(self._order.max_mw, abs(before.p_mw)) + 5.0 * before.noise_mw
        over = next((p for _, p in self._samples[begun_at:] if abs(p) > most), None)
        if over is not None:
            return f"its power is {kw(over)}, the test may go to {kw(self._order.max_mw)} (--max)"
        silent_s = steady_s() - self._samples[-1][0]
        if silent_s > max(SILENCE_S, 4.0 * before.every_s):
            return f"the device has published no power for {silent_s:.0f} s"
        return None

    def _why_not_sent(self, begun_s: float) -> str | None:
        """Return why the adapter has sent nothing to the device."""
        if self._box.commands_sent:
            return None
        rejected = next((why for _, why in self._answers.values() if why is not None), None)
        if rejected is not None:
            return f"nothing was sent to the device: {rejected}"
        if steady_s() - begun_s > GRACE_S + self._table.answer_within_s:
            return (
                "nothing was sent to the device: the broker did not deliver the setpoint (check its "
                "access rights)"
            )
        return None

    def _ack(self, seq: int, begun_s: float) -> SetpointAck:
        confirm = self._device.confirm
        if seq not in self._answers:
            return SetpointAck(confirm)
        at_s, rejected = self._answers[seq]
        return SetpointAck(confirm, at_s - begun_s, rejected)

    # -- after -------------------------------------------------------------------------------------

    async def _release(self) -> str | None:
        """Hand the device back; returns why it was not."""
        if not self._box.connected or not self._broker.connected:
            self._say(f"waiting up to {RETURN_S:g} s for the connection, to hand the device back")
            await self._until(lambda: self._box.connected and self._broker.connected, RETURN_S)
            heard = len(self._samples)  # the device may come back after us
            await self._until(lambda: len(self._samples) > heard, SILENCE_S)
        if not self._box.connected:
            return (
                f"no connection to its broker for {RETURN_S:g} s; the device holds the setpoint until its "
                "own "
                "timer ends it"
            )
        if self._device.stopped:
            return "an emergency stop is in force: it was set to 0 and stays there"
        if self._device.is_driven:
            if not self._device.is_safe:
                self._send(LEASE_S, release=True)
            await self._until(lambda: not self._device.is_driven, RELEASE_S)
        if self._device.is_driven:
            await self._ended()
        return "the broker did not take the release" if self._device.is_driven else None

    async def _until(self, condition: Callable[[], bool], within_s: float) -> None:
        end_s = steady_s() + within_s
        while not condition() and steady_s() < end_s:
            await self._tick()

    async def _watched_release(self, released_s: float) -> None:
        """Watch for a while what the device does under its own control."""
        end_s = released_s + min(self._order.for_s, WATCH_RELEASE_S)
        while steady_s() < end_s:
            await self._sampled()


def _lines(message: DeviceCommand) -> list[tuple[str, bytes]]:
    """Return topic and payload of a message; of registers their names, and where what is written."""
    if isinstance(message, Outgoing):
        return [(message.topic, message.payload)]
    return [
        (
            ", ".join(write.names),
            f"{write.area} {write.address}: {' '.join(f'{word:04x}' for word in write.words)}".encode(),
        )
        for write in message.writes
    ]


def shown_message(topic: str, payload: bytes) -> str:
    """Return a message for people."""
    return f"{printable(topic, 200)} {printable(payload.decode(errors='replace'), 300)}"


def rounded(value: float | None) -> float | None:
    """Return a number for JSON."""
    return None if value is None or not math.isfinite(value) else round(value, 9)
