"""The emergency stop: pressed or released, read back, and who has confirmed it.

Many brokers acknowledge a message that they deny, so the acknowledgement proves nothing: what stands on
the channel afterwards, read over a second connection, does. Then every gateway and device that is known
to be there has to confirm.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass, field

from heron_mqtt.app.operator_client.environments import (
    AgentSeen,
    DeviceSeen,
    Environments,
    EnvironmentSeen,
    the_only_one,
)
from heron_mqtt.app.operator_client.observer import PRESENCE, QUIET_S, Heard, Observer, PublishingObserver
from heron_mqtt.app.operator_client.requests import Person
from heron_mqtt.app.operator_client.text import printable
from heron_mqtt.errors import BrokerError
from heron_mqtt.messages import EmergencyStop
from heron_mqtt.messaging import topics
from heron_mqtt.messaging.codec import Json, encode
from heron_mqtt.messaging.mqtt.options import MqttOptions
from heron_mqtt.messaging.stamping import MessageStamper, new_boot
from heron_mqtt.units import KW_PER_MW

CHANNELS = (
    *PRESENCE,
    "devices/+/+/telemetry",
    "devices/+/+/lease",
    "estop",
    "estop/confirm/+",
    "estop/confirm/+/+",
)
ACKNOWLEDGED_S, READ_BACK_S, CONFIRM_S = 5.0, 2.0, 5.0
LOOK_EVERY_S = 0.05

NO_PROOF = "no telemetry whose number proves that it was sent after the stop"
NO_NUMBERS = "its telemetry has no seq, so it could be a recording"


@dataclass(slots=True)
class StopReport:
    """What became of a stop or its release.

    Attributes:
        env_id: The environment.
        active: True: it was pressed; False: released.
        ident: boot and seq of the message that pressed or released it.
        failure: Why it is not in force at the broker; None = it is.
        confirmed: Gateways and devices that confirmed, each with how.
        missing: Those that did not, each with what is known of it.
        unmeasured: Devices that confirmed a stop, and of which no telemetry since then proves it.
        not_ours: Devices with power that this system cannot set, each with what is known of it. They are only
            read, or only watched, so the stop has changed nothing there.
    """

    env_id: str
    active: bool
    ident: tuple[str | None, int | None] = (None, None)
    failure: str | None = None
    confirmed: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    unmeasured: dict[str, str] = field(default_factory=dict)
    not_ours: dict[str, str] = field(default_factory=dict)

    @property
    def is_proven(self) -> bool:
        """Whether it is in force, and all that can be told have confirmed, at least one of them.

        A device has to have said its power since, or that it is safe: telemetry is periodic.
        """
        return self.failure is None and bool(self.confirmed) and not self.missing and not self.unmeasured


async def set_stop(
    url: str, env_id: str | None, person: Person, *, active: bool, wait_s: float = CONFIRM_S
) -> StopReport:
    """Press or release the emergency stop, and find out who has heard it.

    Args:
        url: Of the broker.
        env_id: The environment; None = the one that is alive.
        person: Who does it.
        active: True presses it.
        wait_s: How long those who are known may take to confirm, s.

    Raises:
        ConfigError: The URL or the environment is wrong.
        NotReady: None or several environments are alive, and none was named; nothing was sent.
        BrokerError: The broker is not there, or refuses the connection.
    """
    env_id = topics.checked_env_id(env_id)
    found, boot = Environments(), new_boot()
    has_come_back = False

    def on_message(heard: Heard) -> None:
        nonlocal has_come_back
        found.take(heard)
        if heard.channel == topics.ESTOP and heard.fields is not None and heard.fields.get("boot") == boot:
            has_come_back = True

    # A stop for a named environment is sent whatever this user may read; for another one, never blindly.
    async with PublishingObserver(url, env_id, CHANNELS, on_message, needs_all=env_id is None) as observer:
        if env_id is None:  # a stop for a named one is not delayed by looking around
            await observer.settle()
            env_id = the_only_one(found.alive, observer.options.address)
        view = found.setdefault(env_id, EnvironmentSeen(env_id))
        report = StopReport(env_id, active)
        stamper = MessageStamper(person.sender, env_id, boot=boot)
        stop = stamper.stamp(topics.ESTOP, EmergencyStop(active=active, who=person.who, why=person.why))
        report.ident = boot, stop["seq"]
        view.forget_confirmations()
        published_s = asyncio.get_running_loop().time()
        report.failure = await _publish(observer, env_id, stop)
        if report.failure is not None:
            return report
        kept = await _read_back(observer.options, env_id, boot)
        topic = observer.options.topic_prefix + topics.TopicMap(env_id).topic(topics.ESTOP)
        report.failure = _why_not_kept(kept, topic, boot, active=active, has_come_back=has_come_back)
        if report.failure is not None and observer.refusal is not None:
            report.failure += f"; {observer.refusal}"
        if has_come_back or observer.refusal is not None:
            await _confirmations(view, report, published_s, wait_s)
        if not active and report.failure is None and view.stop.is_active:
            report.failure = f"{_said(view)} came after it and is in force"
    return report


async def _publish(observer: PublishingObserver, env_id: str, stop: Json) -> str | None:
    """Publish it, retained; return why the broker has not acknowledged it."""
    try:
        async with asyncio.timeout(ACKNOWLEDGED_S):
            await observer.publish(topics.TopicMap(env_id).topic(topics.ESTOP), encode(stop), retain=True)
    except TimeoutError:
        return f"the broker did not acknowledge it within {ACKNOWLEDGED_S:g} s"
    except BrokerError as exc:
        return str(exc)
    return None


async def _read_back(options: MqttOptions, env_id: str, boot: str) -> EnvironmentSeen:
    """Return what the broker keeps of the stop, read over a connection of its own."""
    kept = EnvironmentSeen(env_id)
    is_ours = asyncio.Event()

    def on_message(heard: Heard) -> None:
        if heard.retained:
            kept.take(heard)
            if kept.stop.identity[0] == boot:
                is_ours.set()

    try:
        async with asyncio.timeout(READ_BACK_S), Observer(options, env_id, (topics.ESTOP,), on_message):
            await is_ours.wait()
    except (BrokerError, TimeoutError):
        pass  # nothing was kept, as far as we can tell
    return kept


def _why_not_kept(
    kept: EnvironmentSeen, topic: str, boot: str, *, active: bool, has_come_back: bool
) -> str | None:
    """Return why the broker does not keep what was published on a topic; None = it does."""
    stands = kept.stop
    if stands.identity[0] == boot:
        return None
    if not has_come_back:
        return (
            f"the broker acknowledged it, but has not stored it: may this user publish on {topic}? "
            f"{_said(kept).capitalize()} stands there"
        )
    if not stands.is_told:
        return (
            f"the broker delivered it, but keeps nothing on {topic}: clients that connect later will not "
            "receive it"
        )
    if stands.is_active == active:
        return None  # another one did the same right after
    return f"{_said(kept)} came after it and is in force"


def _said(view: EnvironmentSeen) -> str:
    """Return what stands on the channel, for people."""
    if not view.stop.is_told:
        return "nothing"
    if view.stop.stop is None:
        return "a release"
    return f"a stop by {printable(view.stop.stop.who or 'unknown')}"


async def _confirmations(
    view: EnvironmentSeen, report: StopReport, published_s: float, wait_s: float
) -> None:
    """Wait until all who are known have confirmed, or the time is over."""
    loop = asyncio.get_running_loop()
    begin_s = loop.time()
    while True:
        _judge(view, report, published_s, wait_s)
        waited_s = loop.time() - begin_s
        is_settled = report.confirmed and not report.missing and not report.unmeasured
        if waited_s >= wait_s or (waited_s >= QUIET_S and is_settled):
            return
        await asyncio.sleep(min(LOOK_EVERY_S, wait_s - waited_s))


def _judge(view: EnvironmentSeen, report: StopReport, published_s: float, wait_s: float) -> None:
    """Sort who is known into those who have confirmed and those who have not."""
    report.confirmed, report.missing, report.unmeasured, report.not_ours = {}, {}, {}, {}
    for agent, member in sorted(view.agents.items()):
        if member.is_present:
            _note(report, f"gateway {agent}", *_by_confirmation(member, report, view, wait_s))
    for label, device in sorted(view.devices.items()):
        if device.is_present or device.may_have_power:
            _judge_device(label, device, report, view, published_s, wait_s)
    if view.beyond is not None:
        report.missing["further devices"] = view.beyond


def _judge_device(
    label: str,
    device: DeviceSeen,
    report: StopReport,
    view: EnvironmentSeen,
    published_s: float,
    wait_s: float,
) -> None:
    name = f"device {label}"
    confirmed, how = _by_confirmation(device, report, view, wait_s)
    if not device.is_present:
        how += "; its lease is held: its hardware may hold its last setpoint" if device.is_held else ""
    measured_s = -math.inf if device.telemetry is None else device.telemetry_at_s
    age_s = 0.0 if device.telemetry is None else device.telemetry.get("age_s") or 0.0
    has_measured = measured_s - age_s > published_s and device.telemetry_is_of_stop
    if not confirmed and has_measured:
        if report.active:
            how += _unconfirmed(device)
        else:
            confirmed, how = _by_telemetry(device, how)
    unsafe = device.unsafe if report.active else None
    # What it measured before it confirmed may be out of date: only newer telemetry contradicts.
    if confirmed and unsafe is not None and device.telemetry_at_s > max(published_s, device.confirm_at_s):
        confirmed, how = False, unsafe
    is_unproven = report.active and (not has_measured or unsafe is not None)
    if report.active and device.is_not_ours and (is_unproven or not confirmed):
        report.not_ours[printable(name)] = _measured(device)
    elif confirmed and is_unproven:
        before = "" if unsafe is None else f"; before it confirmed, {unsafe}"
        has_come = device.telemetry is not None and measured_s > max(published_s, device.confirm_at_s)
        lacks = NO_PROOF if has_come and not device.telemetry_is_of_stop else "no telemetry since"
        why = f"confirmed, power not measured: {lacks} within {wait_s:g} s{before}"
        report.unmeasured[printable(name)] = why
    else:
        if confirmed and report.active and device.is_unprovable:
            how += f", unproven: {NO_NUMBERS}"
        _note(report, name, confirmed, how)


def _note(report: StopReport, name: str, confirmed: bool, how: str) -> None:
    (report.confirmed if confirmed else report.missing)[printable(name)] = how


def _measured(device: DeviceSeen) -> str:
    """Return what is known of the power of a device that nothing here can set."""
    why = "nothing here can set it: it is only read, or only watched"
    if device.telemetry is None:
        return f"{why}; its power is not known"
    p_kw = KW_PER_MW * device.telemetry["p_mw"]
    return f"{why}; it measures {p_kw:g} kW"


def _by_confirmation(
    member: AgentSeen, report: StopReport, view: EnvironmentSeen, wait_s: float
) -> tuple[bool, str]:
    """Return whether a gateway or device has confirmed, and how or why not."""
    told, active = member.confirm, report.active
    if told is None:
        state = member.status.state if member.status is not None else "known without a birth"
        return False, f"no message within {wait_s:g} s (it is {state})"
    if told.active != active:
        return (
            False,
            "it reports that a stop is in force" if told.active else "it reports that no stop is in force",
        )
    if (told.stop_boot, told.stop_seq) not in {report.ident, view.stop.identity}:
        which = "does not say which message it confirms" if told.stop_boot is None else "confirms another one"
        return False, f"it {which}"
    if active and not told.safe:
        return False, "it has received the stop, but is not in its safe state"
    return True, "confirmed"


def _unconfirmed(device: DeviceSeen) -> str:
    """Return what to add where a device does not confirm a stop and says in its telemetry that it is safe.

    A recording of its telemetry says so, too; only a confirmation names the stop.
    """
    if device.confirm is not None or device.telemetry is None:
        return ""
    is_safe, is_stopped = device.telemetry.get("safe"), device.telemetry.get("stopped")
    is_said = is_safe is True or (is_safe is None and is_stopped is True)
    return "; telemetry that says it is safe does not confirm a stop" if is_said else ""


def _by_telemetry(device: DeviceSeen, why_not: str) -> tuple[bool, str]:
    """Return whether a release is confirmed by telemetry, of a device that does not confirm it, and how."""
    telemetry, told = device.telemetry, device.confirm
    assert telemetry is not None
    if telemetry.get("stopped") is True:
        return False, "its telemetry says that a stop is in force"
    if told is not None:
        return False, why_not
    return True, "its telemetry does not mention a stop"
