"""VendorDevice: when a vendor's box is told something, when not, and what its words and its silence mean."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from heron_mqtt.app.vendor_adapters import load_mappings
from heron_mqtt.errors import ConfigError, Displaced, MessageExpired, PlaceTaken
from heron_mqtt.field import moving_deadline
from heron_mqtt.field.device.earlier_program import EARLIER
from heron_mqtt.field.device.kept_lease import KeptLease
from heron_mqtt.field.device.lease import Holder
from heron_mqtt.field.mapping import load_mapping
from heron_mqtt.field.place_claim import PlaceClaim, place_name
from heron_mqtt.field.state_directory import state_directory
from heron_mqtt.field.vendor import VendorDevice
from heron_mqtt.field.vendor.link import MqttLink
from heron_mqtt.messages import AuthorityState, EmergencyStop, Setpoint
from heron_mqtt.messaging import topics
from heron_mqtt.messaging.memory import InMemoryBroker
from heron_mqtt.messaging.ownership import NameOwnership
from heron_mqtt.messaging.stamping import MessageStamper
from powergrid.scenario import scenario_from_dict
from support.field_rig import OpenMemoryBroker
from support.waiting import until

STAYS = "MG1/ess: an emergency stop is in force: the device stays at 0 and is not handed back"
NOT_HANDED_BACK = "it was not handed back, and may hold its last setpoint"
TELEMETRY = [{"topic": "box/state", "fields": {"p_mw": {"path": "p", "unit": "W"}}}]
PLAIN: dict[str, Any] = {
    "name": "plain box",
    "setpoint": {
        "values": {
            "p": {"quantity": "p_mw", "unit": "W", "decimals": 0},
            "t": {"quantity": "lease_s", "unit": "s"},
        },
        "messages": [{"topic": "box/set", "payload": {"p": "{p}", "t": "{t}"}}],
    },
    "telemetry": TELEMETRY,
}
READ_ONLY: dict[str, Any] = {"name": "meter", "telemetry": TELEMETRY}
ANSWERING: dict[str, Any] = {
    "name": "answering box",
    "setpoint": {
        "values": {"p": {"quantity": "p_mw", "unit": "W"}, "id": {"quantity": "seq"}},
        "messages": [{"topic": "box/set", "payload": {"p": "{p}", "id": "{id}"}}],
    },
    "telemetry": [*TELEMETRY, {"topic": "box/answer", "fields": {"ack_seq": {"path": "id", "null": "keep"}}}],
}
KEPT: dict[str, Any] = {
    **READ_ONLY,
    "keepalive": [{"topic": "box/poll", "payload": "again", "first_payload": "first", "period_s": 0.1}],
    "availability": [{"topic": "box/lwt", "online": ["on"], "offline": ["off"]}],
}


class Wire:
    """The box's side of the wire: what it is told, and its words."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, str]] = []
        self.qos: list[int] = []
        self.within_s: list[float] = []  # how long each may take
        self.connected = True
        self.delivers = True
        self.callbacks: dict[str, list[Callable[[str, bytes, bool], None]]] = {}
        self.returns: list[Callable[[], None]] = []
        self.answer: Callable[[str, str], None] | None = None

    def publish_raw(
        self, topic: str, payload: bytes, *, qos: int, retain: bool, not_after: float | None = None
    ) -> asyncio.Future[None]:
        if not self.delivers:
            lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            lost.set_exception(MessageExpired("not connected"))
            return lost
        self.sent.append((topic, payload.decode()))
        self.qos.append(qos)
        self.within_s.append((not_after or 0.0) - asyncio.get_running_loop().time())
        if self.answer is not None:
            asyncio.get_running_loop().call_soon(self.answer, topic, payload.decode())
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done

    def subscribe_raw(self, topic: str, callback: Callable[[str, bytes, bool], None]) -> Callable[[], None]:
        self.callbacks.setdefault(topic, []).append(callback)
        return lambda: self.callbacks[topic].remove(callback)

    def on_reconnect(self, callback: Callable[[], None]) -> Callable[[], None]:
        self.returns.append(callback)
        return lambda: self.returns.remove(callback)

    def says(self, topic: str, payload: Any, *, retained: bool = False) -> None:
        text = payload if isinstance(payload, str) else json.dumps(payload)
        for callback in self.callbacks[topic]:
            callback(topic, text.encode(), retained)

    def set_to(self) -> list[float]:
        return [json.loads(payload)["p"] for topic, payload in self.sent if topic == "box/set"]


class Site:
    """A box, who speaks for it, and a gateway."""

    def __init__(self, device: VendorDevice, wire: Wire, broker: InMemoryBroker) -> None:
        self.device, self.wire, self.broker = device, wire, broker
        self.running = asyncio.create_task(device.run())
        self.stamper = MessageStamper("MG1", "default")
        self.telemetry: list[dict[str, Any]] = []
        self.status: list[dict[str, Any]] = []
        broker.subscribe(topics.device("MG1", "ess", "telemetry"), self.telemetry.append)
        broker.subscribe(topics.device("MG1", "ess", "status"), self.status.append)
        self.leases: list[dict[str, Any]] = []
        broker.subscribe(topics.device("MG1", "ess", "lease"), self.leases.append)

    def publish(self, channel: str, message: Any) -> int:
        stamped = self.stamper.stamp(channel, message)
        self.broker.publish(channel, stamped)
        return int(stamped["seq"])

    def send(self, p_mw: float, lease_s: float = 30.0, *, renewal: bool = False) -> int:
        setpoint = Setpoint(p_mw=p_mw, lease_s=lease_s, renewal=renewal)
        return self.publish(topics.device("MG1", "ess", "setpoint"), setpoint)

    def level(self, level: Any, ceiling: Any = None) -> None:
        channel = topics.device("MG1", "ess", "authority_state")
        self.publish(channel, AuthorityState(level=level, ceiling=ceiling))

    def stop(self, active: bool = True) -> None:
        self.publish(topics.ESTOP, EmergencyStop(active=active, who="tests"))

    async def settled(self) -> None:
        """Return once all that was said so far has had its effect."""
        for _ in range(3):
            for _ in range(5):
                await asyncio.sleep(0)
            await self.device.idle()

    async def end(self) -> None:
        self.running.cancel()
        await asyncio.gather(self.running, return_exceptions=True)

    async def answered(self, seq: int) -> dict[str, Any]:
        await until(lambda: any(t.get("ack_seq") == seq for t in self.telemetry), "the answer")
        return next(t for t in self.telemetry if t.get("ack_seq") == seq)


@pytest.fixture
async def make() -> AsyncIterator[Any]:
    async with contextlib.AsyncExitStack() as stack:

        async def start(table: dict[str, Any], at: InMemoryBroker | None = None, **kwargs: Any) -> Site:
            broker = at or await stack.enter_async_context(InMemoryBroker())
            mapping = load_mapping(table, agent="MG1", device="ess", source="test")
            stamper = MessageStamper("MG1/ess", "default")
            options = {
                "kind": "battery",
                "power_range_mw": (-0.01, 0.01),
                "period_s": 0.02,
                "answer_within_s": 0.1,
                "stamper": stamper,
                **kwargs,
            }
            wire = Wire()
            device = VendorDevice(
                mapping,
                MqttLink(wire),
                "MG1",
                "ess",
                broker,
                **options,
            )
            site = Site(device, wire, broker)
            stack.push_async_callback(site.end)
            await until(lambda: any(said.get("boot") == stamper.boot for said in site.status), "the birth")
            return site

        yield start


# -- what is told to the box -------------------------------------------------------------------------


async def test_a_setpoint_and_its_renewal_reach_the_box_each_with_its_lease(make: Any) -> None:
    site = await make(PLAIN)
    site.send(0.001, 10.0)
    site.send(0.009, 20.0, renewal=True)
    await until(lambda: len(site.wire.sent) == 2, "both")
    assert [json.loads(payload) for _, payload in site.wire.sent] == [
        {"p": 1000, "t": 10.0},
        {"p": 1000, "t": 20.0},
    ]


async def test_when_the_lease_runs_out_the_box_is_told_to_rest(make: Any) -> None:
    site = await make(PLAIN)
    site.send(0.001, 0.1)
    await until(lambda: site.wire.set_to() == [1000, 0], "rest")


async def test_when_it_ends_the_box_is_told_to_rest(make: Any) -> None:
    site = await make(PLAIN)
    site.send(0.001, 30.0)
    await until(lambda: site.wire.set_to() == [1000], "the setpoint")
    await site.end()
    assert site.wire.set_to() == [1000, 0]
    assert site.wire.returns == []


async def test_a_box_that_was_told_nothing_is_told_nothing_at_start_end_or_stop_in_shadow(make: Any) -> None:
    site = await make(PLAIN)
    site.level("shadow")
    for _ in range(3):
        site.wire.says("box/state", {"p": 500})
    site.send(0.001, 30.0, renewal=True)
    site.stop()
    await until(lambda: site.device.stopped, "the stop")
    await until(lambda: site.telemetry, "telemetry")
    await site.end()
    assert site.wire.sent == []


@pytest.mark.parametrize("first", ["stop", "level"])
async def test_an_emergency_stop_reaches_a_box_under_control_that_was_told_nothing_yet(
    make: Any, first: str
) -> None:
    site = await make(PLAIN)
    if first == "level":
        site.level("full")
    site.stop()
    await until(lambda: site.device.stopped, "the stop")
    if first == "stop":
        site.level("full")
    await until(lambda: site.wire.set_to() == [0], "zero")


async def test_during_an_emergency_stop_the_box_rests_whatever_is_sent(make: Any) -> None:
    site = await make(PLAIN)
    site.wire.says("box/state", {"p": 0})
    site.send(0.001)
    await until(lambda: site.wire.set_to() == [1000], "the setpoint")
    site.stop()
    await until(lambda: site.wire.set_to() == [1000, 0], "zero")
    assert (await site.answered(site.send(0.002)))["rejected"] == "emergency stop"
    assert site.wire.set_to() == [1000, 0]


@pytest.mark.parametrize("sign", [1, -1])
async def test_a_box_is_told_no_power_beyond_its_nameplate(make: Any, sign: int) -> None:
    site = await make(PLAIN)
    site.send(sign * 0.02)
    await until(lambda: site.wire.set_to() == [sign * 10_000], "the end of its nameplate")


async def test_what_can_only_be_read_answers_with_what_it_measures_and_is_told_nothing(make: Any) -> None:
    site = await make(READ_ONLY)
    site.wire.says("box/state", {"p": 500})
    telemetry = await site.answered(site.send(0.001, 0.05))
    assert "rejected" not in telemetry
    assert telemetry["p_mw"] == 0.0005
    await until(lambda: site.device.is_safe, "the end of the lease")
    site.level("full")
    site.stop()
    await until(lambda: site.device.stopped, "the stop")
    await site.end()
    assert site.wire.sent == []
    assert [s["state"] for s in site.status] == ["online", "offline"]


async def test_nothing_waits_for_a_broker_that_is_away(make: Any) -> None:
    site = await make(PLAIN)
    site.wire.says("box/state", {"p": 0})
    site.wire.connected = False
    assert "no connection" in (await site.answered(site.send(0.001)))["rejected"]
    assert site.wire.sent == []


# -- keepalives ----------------------------------------------------------------------------------------


async def test_the_first_keepalive_is_sent_again_after_each_reconnection(make: Any) -> None:
    site = await make(KEPT)
    await until(lambda: len(site.wire.sent) >= 2, "keepalives")
    assert [payload for _, payload in site.wire.sent[:2]] == ["first", "again"]
    site.wire.connected = False
    before = len(site.wire.sent)
    await asyncio.sleep(0.25)
    assert len(site.wire.sent) == before  # they do not queue up
    site.wire.connected = True
    for callback in tuple(site.wire.returns):
        callback()
    await until(lambda: len(site.wire.sent) >= before + 2, "keepalives")
    assert [payload for _, payload in site.wire.sent[before : before + 2]] == ["first", "again"]


# -- a machine that slept: its leases and ages went on, its timers did not -------------------------------


class Sleep:
    """A clock that also counts the time asleep, while timers do not, and the lease is not looked at yet."""

    def __init__(self) -> None:
        self.slept_s = 0.0

    def now_s(self) -> float:
        return time.monotonic() + self.slept_s


@pytest.fixture
def sleep(monkeypatch: pytest.MonkeyPatch) -> Sleep:
    monkeypatch.setattr(moving_deadline, "LOOK_S", 30.0)
    return Sleep()


async def test_a_setpoint_that_waited_over_a_suspend_reaches_no_box_after_its_lease(
    make: Any, sleep: Sleep
) -> None:
    setpoint = {**PLAIN["setpoint"], "min_interval_s": 0.2}
    site = await make({**PLAIN, "setpoint": setpoint}, monotonic=sleep.now_s)
    site.wire.says("box/state", {"p": 0})  # or it has no telemetry to answer with
    site.send(0.001, 10.0)
    await until(lambda: site.wire.set_to() == [1000], "the first")
    refused = site.send(0.002, 10.0)
    assert "sent in" in (await site.answered(refused))["rejected"]
    sleep.slept_s = 7200.0
    await asyncio.sleep(0.3)
    assert 2000 not in site.wire.set_to()  # 0 may be: the lease is over


async def test_a_keepalive_with_a_setpoint_reaches_no_box_after_its_lease(make: Any, sleep: Sleep) -> None:
    table = {**PLAIN, "keepalive": [{"topic": "box/again", "payload": "{p}", "period_s": 0.1}]}
    site = await make(table, monotonic=sleep.now_s)
    site.send(0.001, 10.0)
    await until(lambda: ("box/again", "1000") in site.wire.sent, "a keepalive")
    sleep.slept_s = 7200.0
    before = site.wire.sent.count(("box/again", "1000"))
    await asyncio.sleep(0.25)
    assert site.wire.sent.count(("box/again", "1000")) == before  # 0 may be: the lease is over


async def test_that_the_power_is_not_0_in_a_stop_is_said_once(make: Any, sleep: Sleep) -> None:
    site = await make(PLAIN, monotonic=sleep.now_s)
    site.send(0.001, 600.0)
    await until(lambda: site.wire.set_to() == [1000], "the setpoint")
    site.stop()
    await until(lambda: site.wire.set_to() == [1000, 0], "zero")
    sleep.slept_s = 60.0

    for _ in range(3):
        site.wire.says("box/state", {"p": 1000})
    said = [each.what for each in site.broker.stats.reports]
    assert said == ["an emergency stop is in force, and its power is not 0: the stop is sent again"]


async def test_a_power_measured_before_a_suspend_confirms_no_stop(make: Any, sleep: Sleep) -> None:
    site = await make(READ_ONLY, monotonic=sleep.now_s)
    confirmed: list[dict[str, Any]] = []
    site.broker.subscribe(topics.stop_confirm("MG1", "ess"), confirmed.append)
    site.wire.says("box/state", {"p": 0})
    sleep.slept_s = 7200.0
    site.stop()
    await until(lambda: confirmed, "what it says of the stop")
    assert confirmed[-1]["safe"] is False
    site.wire.says("box/state", {"p": 0})
    await until(lambda: confirmed[-1]["safe"], "it is at rest by what was measured since")


# -- what the box says ---------------------------------------------------------------------------------


async def test_the_last_word_of_a_dead_box_does_not_stay_fresh(make: Any) -> None:
    site = await make(PLAIN, stale_after_s=0.2)
    site.wire.says("box/state", {"p": 500})
    await until(lambda: site.status[-1]["state"] == "fault", "the fault")
    assert "box/state" in site.status[-1]["reason"]
    said = len(site.telemetry)
    assert said > 2
    await asyncio.sleep(0.1)  # five periods
    assert len(site.telemetry) == said
    assert [r.kind for r in site.broker.stats.reports] == ["device"]
    site.wire.says("box/state", {"p": 600})
    await until(lambda: site.status[-1]["state"] == "online", "the birth")
    await until(lambda: site.telemetry[-1]["p_mw"] == 0.0006, "telemetry")


async def test_a_mapping_that_matches_nothing_is_named(make: Any) -> None:
    site = await make(PLAIN, stale_after_s=0.1)
    await until(lambda: site.broker.stats.reports, "the report")
    assert "box/state" in site.broker.stats.reports[0].what
    assert "mapping" in site.broker.stats.reports[0].what
    assert site.telemetry == []


async def test_a_retained_value_is_not_telemetry(make: Any) -> None:
    site = await make(PLAIN, stale_after_s=0.15)
    site.wire.says("box/state", {"p": 500}, retained=True)
    await until(lambda: site.broker.stats.reports, "the report")
    assert site.telemetry == []


async def test_a_box_that_speaks_when_something_changes_may_wait_for_its_first_setpoint(make: Any) -> None:
    site = await make(PLAIN, stale_after_s=0.1, answer_within_s=10.0)
    await until(lambda: site.broker.stats.reports, "the report")
    assert [s["state"] for s in site.status] == ["online"]
    site.wire.answer = lambda topic, text: site.wire.says("box/state", {"p": json.loads(text)["p"]})
    assert (await site.answered(site.send(0.001)))["p_mw"] == 0.001


async def test_a_box_that_repeats_numbers_acknowledges_by_them_alone(make: Any) -> None:
    site = await make(ANSWERING, answer_within_s=10.0)
    site.wire.says("box/state", {"p": 0})
    seq = site.send(0.001)
    await until(lambda: site.wire.sent, "the setpoint")
    for word in (("box/state", {"p": 400}), ("box/answer", {"id": seq + 7}), ("box/state", {"p": 900})):
        site.wire.says(*word)
        await asyncio.sleep(0.03)
    assert all(t.get("ack_seq") is None for t in site.telemetry)
    site.wire.says("box/answer", {"id": seq})
    await asyncio.sleep(0.03)
    assert all(t.get("ack_seq") is None for t in site.telemetry), "its power is of before its answer"
    site.wire.says("box/state", {"p": 950})
    telemetry = await site.answered(seq)
    assert telemetry["p_mw"] == 0.00095
    assert "rejected" not in telemetry


async def test_a_box_that_settles_is_acknowledged_with_a_power_of_after_its_answer(
    make: Any, clock: Clock
) -> None:
    setpoint = {**ANSWERING["setpoint"], "settle_s": 0.5}
    site = await make({**ANSWERING, "setpoint": setpoint}, monotonic=clock, answer_within_s=10.0)
    site.wire.says("box/state", {"p": 0})
    seq = site.send(0.001, 60.0)
    await until(lambda: site.wire.sent, "the setpoint")
    site.wire.says("box/answer", {"id": seq})
    site.wire.says("box/state", {"p": 0})  # not settled yet
    await asyncio.sleep(0.03)
    assert all(t.get("ack_seq") is None for t in site.telemetry)
    clock.now_s += 0.5
    site.wire.says("box/state", {"p": 1000})
    telemetry = await site.answered(seq)
    assert telemetry["p_mw"] == 0.001
    assert "rejected" not in telemetry


async def test_a_box_that_answers_and_measures_nothing_new_is_acknowledged_all_the_same(make: Any) -> None:
    setpoint = {**ANSWERING["setpoint"], "settle_s": 0.05}
    site = await make({**ANSWERING, "setpoint": setpoint})
    site.wire.says("box/state", {"p": 400})
    seq = site.send(0.001)
    await until(lambda: site.wire.sent, "the setpoint")
    site.wire.says("box/answer", {"id": seq})
    telemetry = await site.answered(seq)
    assert telemetry["p_mw"] == 0.0004
    assert "rejected" not in telemetry


async def test_a_setpoint_that_the_box_does_not_acknowledge_counts_as_rejected_and_is_ended_all_the_same(
    make: Any,
) -> None:
    site = await make(ANSWERING)
    site.wire.says("box/state", {"p": 0})
    assert "not acknowledged" in (await site.answered(site.send(0.001, 0.3)))["rejected"]
    await until(lambda: site.wire.set_to() == [1000, 0], "rest: it may have arrived")


async def test_a_box_that_is_offline_from_the_start_is_never_born_online(make: Any) -> None:
    site = await make(KEPT)
    site.wire.says("box/lwt", "off", retained=True)
    await until(lambda: site.status[-1]["state"] == "offline", "offline")
    site.wire.says("box/state", {"p": 1})
    await until(lambda: site.telemetry, "telemetry")
    assert site.status[-1]["state"] == "offline"
    site.wire.says("box/lwt", "on")
    await until(lambda: site.status[-1]["state"] == "online", "online")


async def test_words_that_do_not_fit_are_counted_with_their_topic_and_change_nothing(make: Any) -> None:
    site = await make(PLAIN)
    site.wire.says("box/state", {"p": 500})
    await until(lambda: site.telemetry, "telemetry")
    for text in ("", "[", "{}", '{"p": "NaN"}', '{"p": 1e400}', '{"p": [1]}'):
        site.wire.says("box/state", text)
    assert {r.where for r in site.broker.stats.reports} <= {"box/state"}
    assert site.broker.stats.rejected >= 3


# -- presence at the start, and the end ----------------------------------------------------------------


@pytest.mark.parametrize("retained_first", [True, False])
async def test_a_device_that_says_offline_while_it_is_announced_is_offline_and_told_nothing(
    make: Any, monkeypatch: pytest.MonkeyPatch, retained_first: bool
) -> None:
    announce = InMemoryBroker.announce

    async def slow(self: Any, *args: Any, **kwargs: Any) -> Any:
        wire = wires[0]
        if retained_first:
            wire.says("box/lwt", "on", retained=True)
        presence = await announce(self, *args, **kwargs)
        wire.says("box/lwt", "off")  # live, and before the announcement is known to be done
        wire.says("box/lwt", "on", retained=True)  # the copy that the broker had kept comes late
        return presence

    wires: list[Wire] = []
    init = Wire.__init__

    def noted(self: Wire) -> None:
        init(self)
        wires.append(self)

    monkeypatch.setattr(Wire, "__init__", noted)
    monkeypatch.setattr(InMemoryBroker, "announce", slow)
    site = await make({**PLAIN, "availability": KEPT["availability"]})
    await until(lambda: site.status[-1]["state"] == "offline", "offline")
    assert site.status[-1]["reason"] == "box/lwt: off"
    site.wire.says("box/state", {"p": 5})
    assert "the device is offline" in (await site.answered(site.send(0.001)))["rejected"]
    assert site.wire.sent == []


RELEASED: dict[str, Any] = {
    **PLAIN,
    "setpoint": {**PLAIN["setpoint"], "release": [{"topic": "box/mode", "payload": "auto"}]},
}


async def test_a_device_that_is_held_by_a_stop_is_handed_back_when_the_stop_is_over(make: Any) -> None:
    site = await make(RELEASED)
    site.wire.says("box/state", {"p": 0})
    site.level("full")
    site.send(0.001)
    await until(lambda: site.wire.sent, "the setpoint")
    site.stop()
    await until(lambda: site.wire.set_to() == [1000, 0], "zero")
    site.stop(False)
    await until(lambda: site.wire.sent[-1] == ("box/mode", "auto"), "the release")
    await site.end()
    assert [topic for topic, _ in site.wire.sent].count("box/mode") == 1


@pytest.fixture
def claims() -> Iterator[tuple[PlaceClaim, PlaceClaim]]:
    """One box, claimed by another environment, and what would claim it for this one."""
    place = place_name(f"box-{uuid.uuid4().hex}", 1883, "box/set")
    theirs, ours = PlaceClaim([place], "other", "home:1"), PlaceClaim([place], "default", "home:1")
    theirs.take()
    with contextlib.closing(theirs), contextlib.closing(ours):
        yield theirs, ours


async def left_held(broker: InMemoryBroker) -> None:
    """Leave what a program leaves that was killed while it drove the box."""
    left = {"type": "lease", "state": "held", "holder": "MG1", "holder_boot": "old", "boot": "killed"}
    await broker.publish(topics.device("MG1", "ess", "lease"), left, retain=True)


async def test_what_a_killed_program_left_is_not_handed_back_while_another_environment_drives_the_box(
    make: Any, claims: tuple[PlaceClaim, PlaceClaim]
) -> None:
    async with InMemoryBroker() as broker:
        await left_held(broker)
        site = await make(RELEASED, broker, claim=claims[1])
        site.level("shadow")
        site.wire.says("box/state", {"p": 1000})
        await until(lambda: site.leases[-1]["state"] == "free", "the debt to be dropped")
        assert (site.wire.sent, site.device.is_driven, site.device.owes_safe_state) == ([], False, False)


async def test_what_a_killed_program_left_is_known_on_its_machine_where_the_broker_has_not_heard_of_it(
    make: Any,
) -> None:
    """Its connection was dead upwards when it drove the box."""
    kept = KeptLease("devices/MG1/ess/lease")
    async with OpenMemoryBroker() as broker:
        site = await make(RELEASED, broker)
        site.level("full")
        site.wire.says("box/state", {"p": 1000})
        told, publish_raw = [], site.wire.publish_raw

        def noting(topic: str, *args: Any, **how: Any) -> Any:
            [file] = (state_directory() / "leases").iterdir()
            told.append((topic, json.loads(file.read_text())["left"][""]["holder"]))
            return publish_raw(topic, *args, **how)

        site.wire.publish_raw = noting
        site.send(0.002)
        await until(lambda: told, "the setpoint")
        assert told == [("box/set", "MG1")], "kept before the box was told"
        await site.end()
        assert kept.load() == (None,), "it was handed back"
    kept.save(Holder("MG1", "g0"))
    kept.close()
    async with OpenMemoryBroker() as broker:
        site = await make(RELEASED, broker)
        await until(lambda: site.leases, "the lease")
        assert site.leases[-1]["state"] == "held"
        site.wire.says("box/state", {"p": 1000})
        await until(lambda: site.leases[-1]["state"] == "free", "handed back")
        assert site.wire.sent == [("box/mode", "auto")]


@pytest.mark.parametrize("known_by", ["broker", "machine", "nobody"])
async def test_a_program_that_ends_before_the_name_is_its_own_says_what_a_killed_one_left(
    monkeypatch: pytest.MonkeyPatch, known_by: str
) -> None:
    async def asks_on(ownership: NameOwnership) -> None:
        await asyncio.sleep(30.0)

    monkeypatch.setattr(NameOwnership, "acquire", asks_on)
    if known_by == "machine":
        kept = KeptLease("devices/MG1/ess/lease")
        kept.save(Holder("MG1", "g0"))
        kept.close()
    async with OpenMemoryBroker() as broker:
        if known_by == "broker":
            await left_held(broker)
        wire = Wire()
        plate: dict[str, Any] = {"kind": "battery", "power_range_mw": (-0.01, 0.01)}
        mapping = load_mapping(RELEASED, agent="MG1", device="ess", source="test")
        site = Site(VendorDevice(mapping, MqttLink(wire), "MG1", "ess", broker, **plate), wire, broker)
        await site.settled()
        await site.end()
        assert wire.sent == []
        assert site.device.left_undone == (None if known_by == "nobody" else EARLIER)


@pytest.mark.parametrize(("ceiling", "keeps"), [("shadow", False), (None, False), ("full", True)])
async def test_what_a_killed_program_left_is_handed_back_under_a_claim_that_ends_unless_it_rises(
    make: Any, claims: tuple[PlaceClaim, PlaceClaim], ceiling: Any, keeps: bool
) -> None:
    theirs, ours = claims
    theirs.close()
    async with InMemoryBroker() as broker:
        await left_held(broker)
        site = await make(RELEASED, broker, claim=ours)
        site.level("shadow", ceiling)
        site.wire.says("box/state", {"p": 1000})
        await until(lambda: site.leases[-1]["state"] == "free", "handed back")
        assert site.wire.sent == [("box/mode", "auto")]
        with pytest.raises(PlaceTaken) if keeps else contextlib.nullcontext():
            theirs.take()


async def test_a_stop_reaches_a_box_of_another_environment_and_its_release_does_not(
    make: Any, claims: tuple[PlaceClaim, PlaceClaim]
) -> None:
    site = await make(RELEASED, claim=claims[1])
    site.level("full")
    site.wire.says("box/state", {"p": 1000})
    told = await site.answered(site.send(0.002))
    assert "environment 'other' drives it already" in told["rejected"]
    site.stop()
    await until(lambda: site.wire.set_to() == [0], "zero")
    await until(lambda: site.telemetry[-1].get("stopped"), "stopped")
    assert site.telemetry[-1]["safe"] is False  # its power says that it is not at 0
    site.stop(False)
    await until(lambda: not site.telemetry[-1].get("stopped"), "the end of the stop")
    await site.end()
    assert site.wire.set_to() == [0]
    assert ("box/mode", "auto") not in site.wire.sent


async def test_a_box_whose_topic_is_learned_is_claimed_by_what_was_learned(make: Any) -> None:
    table = {
        **PLAIN,
        "parameters": {"id": {"learn": True}},
        "setpoint": {
            "values": {"p": {"quantity": "p_mw", "unit": "W"}, "n": {"quantity": "seq"}},
            "messages": [{"topic": "boxes/{id}/set/{n}", "payload": {"p": "{p}"}}],
        },
        "telemetry": [{**TELEMETRY[0], "topic": "boxes/{id}/state"}],
    }
    places = load_mapping(table, agent="MG1", device="ess", source="test").command_places()
    assert places == ("boxes/{id}/set/+",)
    at = uuid.uuid4().hex
    theirs = PlaceClaim([place_name(at, 1883, "boxes/7/set/+")], "other", "home:1")
    ours = PlaceClaim([place_name(at, 1883, each) for each in places], "default", "home:1")
    with contextlib.closing(theirs), contextlib.closing(ours):
        theirs.take()
        site = await make(table, claim=ours)
        for callback in site.wire.callbacks["boxes/+/state"]:
            callback("boxes/7/state", b'{"p": 0}', False)
        told = await site.answered(site.send(0.002))
        assert "boxes/7/set/+: environment 'other' drives it already" in told["rejected"]
        assert site.wire.sent == []
        theirs.close()
        await site.answered(site.send(0.002))
        assert [topic.rpartition("/")[0] for topic, _ in site.wire.sent] == ["boxes/7/set"]
        await site.end()


async def test_while_a_stop_is_in_force_the_end_does_not_hand_the_device_back(make: Any) -> None:
    site = await make(RELEASED)
    site.level("full")
    site.send(0.001)
    await until(lambda: site.wire.sent, "the setpoint")
    site.stop()
    await until(lambda: site.wire.set_to() == [1000, 0], "zero")
    await site.end()
    assert ("box/mode", "auto") not in site.wire.sent


async def test_a_device_that_cannot_be_handed_back_is_told_of(make: Any) -> None:
    site = await make(RELEASED)
    site.send(0.001)
    await until(lambda: site.wire.sent, "the setpoint")
    site.wire.connected = False
    await site.end()
    assert any("not handed back" in report.what for report in site.broker.stats.reports)
    assert site.device.left_undone == f"{NOT_HANDED_BACK}: no connection to the device's broker"


async def test_a_device_that_may_not_have_taken_its_end_is_told_of(make: Any) -> None:
    site = await make(RELEASED)
    site.send(0.001)
    await until(lambda: site.wire.sent, "the setpoint")
    site.wire.delivers = False
    await site.end()
    assert any("not sure that it was handed back" in report.what for report in site.broker.stats.reports)


async def test_one_that_is_cancelled_again_while_it_hands_the_device_back_does_so_all_the_same(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = await make(PLAIN)
    site.send(0.001)
    await until(lambda: site.wire.set_to() == [1000], "the setpoint")
    begun = asyncio.Event()

    def is_never_done(*_: Any, **__: Any) -> asyncio.Future[None]:
        begun.set()
        return asyncio.get_running_loop().create_future()

    with monkeypatch.context() as patched:
        patched.setattr(site.wire, "publish_raw", is_never_done)
        site.running.cancel()
        await begun.wait()
    await site.end()
    assert site.wire.set_to() == [1000, 0]


async def test_a_lease_that_runs_out_without_a_connection_is_ended_when_the_device_is_heard_again(
    make: Any,
) -> None:
    site = await make(RELEASED)
    site.send(0.001, 0.3)
    await until(lambda: site.wire.sent, "the setpoint")
    site.wire.connected = site.wire.delivers = False
    await until(lambda: site.device.is_safe, "the end of the lease")
    await site.settled()
    site.wire.connected = site.wire.delivers = True
    for back in list(site.wire.returns):
        back()
    await asyncio.sleep(0.05)
    assert ("box/mode", "auto") not in site.wire.sent  # it may not be there again yet
    site.wire.says("box/state", {"p": 1000})
    await until(lambda: ("box/mode", "auto") in site.wire.sent, "the release")
    assert not site.device.is_driven


@pytest.mark.parametrize(("stops", "pause_s"), [(True, 1.0), (False, 10.0)])
async def test_a_device_that_takes_no_end_is_told_again_after_a_pause_and_not_at_every_word_of_it(
    make: Any, stops: bool, pause_s: float
) -> None:
    now_s = [1000.0]
    site = await make(RELEASED, monotonic=lambda: now_s[0])
    site.send(0.001, 3000.0)
    await until(lambda: site.wire.sent, "the setpoint")
    site.wire.delivers = False
    tried: list[str] = []
    publish = site.wire.publish_raw

    def counted(topic: str, payload: bytes, **options: Any) -> asyncio.Future[None]:
        tried.append(topic)
        return publish(topic, payload, **options)

    site.wire.publish_raw = counted
    if stops:
        site.stop()
    else:
        site.publish(topics.device("MG1", "ess", "setpoint"), Setpoint(p_mw=0.0, lease_s=1.0, release=True))
    await until(lambda: tried and site.device.is_safe, "it was tried")

    async def words(count: int) -> int:
        before = len(tried)
        for _ in range(count):
            site.wire.says("box/state", {"p": 1000})
            await asyncio.sleep(0.005)
        return len(tried) - before

    await words(2)  # the first try again is at once
    assert await words(10) == 0
    now_s[0] += pause_s
    assert await words(10) > 0
    assert await words(10) == 0


async def test_what_could_not_be_handed_back_stays_held_until_a_later_program_has_done_so(make: Any) -> None:
    first = await make(RELEASED)
    first.send(0.001, 0.3)
    await until(lambda: first.wire.sent, "the setpoint")
    holder = first.stamper.boot
    first.wire.connected = first.wire.delivers = False
    await until(lambda: first.device.is_safe, "the end of the lease")
    await first.device.idle()
    assert (first.leases[-1]["state"], first.leases[-1]["holder_boot"]) == ("held", holder)
    await first.end()

    second = await make(RELEASED, first.broker)  # ends before it has heard of the box
    second.wire.connected = second.wire.delivers = False
    await second.device.idle()
    assert (second.leases[-1]["state"], second.leases[-1]["holder_boot"]) == ("held", holder)
    await second.end()

    third = await make(RELEASED, first.broker)
    third.wire.says("box/state", {"p": 1000})
    await until(lambda: ("box/mode", "auto") in third.wire.sent, "the release")
    await until(lambda: third.leases[-1]["state"] == "free", "free, now that it was handed back")
    await third.end()

    fourth = await make(RELEASED, first.broker)
    fourth.wire.says("box/state", {"p": 0})
    await fourth.device.idle()
    await fourth.end()
    assert fourth.wire.sent == []


async def test_one_that_ends_while_its_box_is_away_leaves_the_lease_held(make: Any) -> None:
    site = await make(RELEASED)
    site.send(0.001)
    await until(lambda: site.wire.sent, "the setpoint")
    site.wire.connected = False
    await site.end()
    assert [each["state"] for each in site.leases] == ["free", "held"]


@pytest.mark.parametrize("is_told_anything", [True, False])
async def test_a_box_that_a_stop_keeps_at_zero_is_held_until_it_is_handed_back(
    make: Any, is_told_anything: bool
) -> None:
    site = await make(RELEASED)
    site.wire.says("box/state", {"p": 0})
    site.level("full")
    await until(lambda: site.leases, "the first lease")
    if is_told_anything:
        site.send(0.001)
        await until(lambda: site.wire.sent, "the setpoint")
    site.stop()
    await until(lambda: site.leases[-1].get("holder") == "MG1/ess", "held by the device itself")
    site.stop(False)
    await until(lambda: site.leases[-1]["state"] == "free", "a free lease")
    assert site.wire.sent[-1] == ("box/mode", "auto")


@pytest.mark.parametrize("is_released_meanwhile", [True, False])
async def test_a_box_that_a_stop_keeps_at_zero_over_the_end_is_handed_back_after_the_stop(
    make: Any, is_released_meanwhile: bool
) -> None:
    first = await make(RELEASED)
    first.level("full")
    first.send(0.001)
    await until(lambda: first.wire.sent, "the setpoint")
    first.stop()
    await until(lambda: first.wire.set_to() == [1000, 0], "zero")
    await first.end()
    assert first.leases[-1]["state"] == "held"
    if is_released_meanwhile:
        first.stop(False)
        await asyncio.sleep(0)

    second = await make(RELEASED, first.broker)
    if not is_released_meanwhile:
        second.stop()  # the broker has kept it
    second.wire.says("box/state", {"p": 0})
    if not is_released_meanwhile:
        await until(lambda: second.wire.set_to() == [0], "zero again")
        assert ("box/mode", "auto") not in second.wire.sent
        second.stop(False)
    await until(lambda: ("box/mode", "auto") in second.wire.sent, "the release")
    await until(lambda: second.leases[-1]["state"] == "free", "free, now that it was handed back")


@pytest.mark.parametrize(
    ("mapping", "levels", "settable"),
    [
        (READ_ONLY, ["full"], False),
        (PLAIN, ["shadow"], False),
        (PLAIN, ["simulated"], False),
        (RELEASED, [], None),  # not known yet: it counts as one that could be set
        (RELEASED, ["limited"], None),
        (RELEASED, ["full"], None),
    ],
)
async def test_a_stop_is_confirmed_with_whether_anything_here_can_set_the_device(
    make: Any, mapping: Any, levels: list[str], settable: bool | None
) -> None:
    site = await make(mapping)
    confirmed: list[dict[str, Any]] = []
    site.broker.subscribe(topics.stop_confirm("MG1", "ess"), confirmed.append)
    for level in levels:
        site.level(level)
    site.wire.says("box/state", {"p": 1000})
    site.stop()
    await until(lambda: confirmed, "the confirmation")
    assert confirmed[-1].get("settable") is settable
    assert confirmed[-1]["safe"] is False, "its power is known, and is not 0"
    await site.settled()
    assert confirmed[-1]["safe"] is False, "also where it has taken the stop"
    site.wire.says("box/state", {"p": 0})
    await until(lambda: confirmed[-1]["safe"], "its power is 0")


async def test_a_stop_that_is_pressed_again_is_sent_again(make: Any) -> None:
    site = await make(RELEASED)
    confirmed: list[dict[str, Any]] = []
    site.broker.subscribe(topics.stop_confirm("MG1", "ess"), confirmed.append)
    site.level("full")
    site.wire.says("box/state", {"p": 0})
    site.stop()
    await until(lambda: site.wire.set_to() == [0], "zero")
    await site.settled()
    assert confirmed[-1]["safe"] is False, "what it said before the stop says nothing of now"
    site.wire.says("box/state", {"p": 0})
    await until(lambda: confirmed[-1]["safe"], "the first stop")
    site.wire.says("box/state", {"p": 3000})  # another one has set it, and a person sees it
    site.stop()
    await until(lambda: site.wire.set_to() == [0, 0], "zero again, at once")
    await site.settled()
    assert confirmed[-1]["safe"] is False, "its power is not 0 yet"
    site.wire.says("box/state", {"p": 0})
    await until(lambda: confirmed[-1]["safe"], "it has taken the second one")


async def test_power_of_before_a_setpoint_or_a_stop_confirms_no_stop(make: Any) -> None:
    site = await make(RELEASED)
    confirmed: list[dict[str, Any]] = []
    site.broker.subscribe(topics.stop_confirm("MG1", "ess"), confirmed.append)
    site.wire.says("box/state", {"p": 0})
    site.send(0.002)  # it follows, and says nothing of it
    await until(lambda: site.wire.set_to() == [2000], "the setpoint")
    site.stop()
    await until(lambda: site.wire.set_to() == [2000, 0], "zero")
    await site.settled()
    assert confirmed[-1]["safe"] is False
    assert site.telemetry[-1]["safe"] is False
    site.wire.says("box/state", {"p": 0})
    await until(lambda: confirmed[-1]["safe"], "a power of after the stop")


async def test_a_stop_that_the_device_answers_is_taken_only_once_it_has_accepted_it(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("heron_mqtt.field.vendor.device_release.STOP_AGAIN_S", 0.0)
    answers = [{"topic": "box/ack", "error": {"path": "error"}}]
    site = await make({**PLAIN, "setpoint": {**PLAIN["setpoint"], "answers": answers}})
    confirmed: list[dict[str, Any]] = []
    site.broker.subscribe(topics.stop_confirm("MG1", "ess"), confirmed.append)
    site.level("full")
    site.wire.says("box/state", {"p": 0})
    site.stop()
    await until(lambda: len(site.wire.sent) == 1, "zero")
    site.wire.says("box/state", {"p": 0})
    await site.settled()
    assert confirmed[-1]["safe"] is False, "it has not answered"
    await asyncio.sleep(0.1)  # as long as an answer may take
    site.wire.says("box/state", {"p": 0})
    await until(lambda: len(site.wire.sent) == 2, "zero again: no answer came")
    site.wire.says("box/ack", {"error": "locked"})
    await until(lambda: len(site.wire.sent) == 3, "zero again: it was refused")
    assert confirmed[-1]["safe"] is False
    site.wire.says("box/ack", {"error": None})
    site.wire.says("box/state", {"p": 0})
    await until(lambda: confirmed[-1]["safe"], "accepted, and at 0")
    # Whichever was noticed first is reported, once.
    refused = "an emergency stop is in force, and it has not accepted it: "
    reports = [each.what for each in site.broker.stats.reports]
    assert [what.startswith((f"{refused}no answer on box/ack", f"{refused}locked")) for what in reports] == [
        True
    ]


async def test_the_answer_to_a_stop_is_known_by_the_identifier_that_was_sent(make: Any) -> None:
    setpoint = {
        "values": {"p": PLAIN["setpoint"]["values"]["p"], "id": {"quantity": "uid"}},
        "messages": [{"topic": "box/set", "payload": {"p": "{p}", "id": "{id}"}}],
        "answers": [{"topic": "box/ack", "id": {"path": "id", "of": "id"}, "error": {"path": "error"}}],
    }
    site = await make({**PLAIN, "setpoint": setpoint})
    confirmed: list[dict[str, Any]] = []
    site.broker.subscribe(topics.stop_confirm("MG1", "ess"), confirmed.append)
    site.level("full")
    site.wire.says("box/state", {"p": 0})
    site.stop()
    await until(lambda: site.wire.sent, "zero")
    site.wire.says("box/ack", {"id": "another", "error": None})
    site.wire.says("box/state", {"p": 0})
    await site.settled()
    assert confirmed[-1]["safe"] is False, "that answer was of another message"
    site.wire.says("box/ack", {"id": json.loads(site.wire.sent[-1][1])["id"], "error": None})
    site.wire.says("box/state", {"p": 0})
    await until(lambda: confirmed[-1]["safe"], "accepted, and at 0")


QUIET: dict[str, Any] = {
    "telemetry": [{**TELEMETRY[0], "reports": "on_change"}],
    "liveness": {"by": "heartbeat", "topic": "box/alive"},
}


async def test_one_that_reports_what_changes_is_stopped_again_while_it_says_nothing_new(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("heron_mqtt.field.device.hardware_rest.LEAVES_POWER_S", 0.1)
    site = await make({**RELEASED, **QUIET})
    site.level("full")
    site.wire.says("box/state", {"p": 5000})
    site.wire.says("box/alive", "tick")
    site.send(0.005)
    await until(lambda: site.wire.set_to() == [5000], "the setpoint")
    site.wire.says("box/state", {"p": 5000})
    site.stop()
    await until(lambda: site.wire.set_to() == [5000, 0], "zero")

    def stopped_again() -> bool:
        site.wire.says("box/alive", "tick")
        return site.wire.set_to() == [5000, 0, 0]

    await until(stopped_again, "zero again: it lives, and its power is what it said last")


async def test_a_stop_that_could_not_be_told_to_one_that_was_never_driven_ends_with_its_release(
    make: Any,
) -> None:
    site = await make(RELEASED)
    site.level("full")
    site.wire.says("box/state", {"p": 0})
    site.wire.delivers = False
    site.stop()
    await until(lambda: site.telemetry and site.telemetry[-1].get("stopped"), "the stop")
    await site.settled()
    assert site.device.owes_safe_state
    site.wire.delivers = True
    site.stop(False)
    await until(lambda: ("box/mode", "auto") in site.wire.sent, "its release: it may have taken the stop")
    await until(lambda: not site.device.owes_safe_state, "nothing is owed")


async def test_one_that_reports_what_changes_and_refused_its_setpoint_is_at_rest_after_a_while(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("heron_mqtt.field.vendor.stop_proof.LEAVES_POWER_S", 0.3)
    site = await make({**RELEASED, **QUIET})
    site.wire.says("box/state", {"p": 0})
    sent_s = time.monotonic()
    site.send(0.002)  # it stays at 0, and has no change to report
    await until(lambda: site.wire.set_to() == [2000], "the setpoint")
    site.stop()
    await until(lambda: site.wire.set_to() == [2000, 0], "zero")

    def rests() -> bool:
        site.wire.says("box/alive", "tick")
        return not site.device.owes_safe_state

    await until(rests, "a power of the setpoint would have been reported by now")
    assert time.monotonic() - sent_s >= 0.3


async def test_a_box_that_settles_for_a_good_part_of_its_lease_is_acknowledged_at_once(make: Any) -> None:
    setpoint = {**ANSWERING["setpoint"], "settle_s": 4.0}
    site = await make({**ANSWERING, "setpoint": setpoint}, answer_within_s=1.0)
    site.wire.says("box/state", {"p": 0})
    seq = site.send(0.001, 10.0)
    await until(lambda: site.wire.sent, "the setpoint")
    site.wire.says("box/answer", {"id": seq})
    telemetry = await site.answered(seq)
    assert "rejected" not in telemetry, "renewals would wait behind it until the lease is over"


IN_TWO: dict[str, Any] = {
    **RELEASED["setpoint"],
    "messages": [
        {"topic": "box/mode", "payload": "remote"},
        {**RELEASED["setpoint"]["messages"][0], "pause_s": 0.6},
    ],
    "min_interval_s": 1.0,
}


@pytest.mark.parametrize("ends", ["lease", "shadow", "stop"])
async def test_a_setpoint_that_waited_and_is_being_sent_ends_with_its_lease(make: Any, ends: str) -> None:
    site = await make({**RELEASED, "setpoint": IN_TWO}, answer_within_s=1.0)
    site.level("full")
    site.wire.says("box/state", {"p": 0})
    site.send(0.0)
    await until(lambda: site.wire.set_to() == [0], "the first")
    site.wire.says("box/state", {"p": 0})
    await until(lambda: any(t.get("ack_seq") is not None for t in site.telemetry), "its answer")
    site.send(0.005, 0.7 if ends == "lease" else 30.0)
    await until(lambda: site.wire.sent.count(("box/mode", "remote")) == 2, "its first message")
    assert site.device._commander.deferred == 1
    if ends == "shadow":
        site.level("shadow")
    elif ends == "stop":
        site.stop()
    await until(lambda: site.device.is_safe and len(site.wire.sent) > 3, "its end")
    await asyncio.sleep(0.8)
    last = ("box/set", json.dumps({"p": 0, "t": 1.0}, separators=(",", ":"))) if ends == "stop" else None
    assert site.wire.sent[-1] == (last or ("box/mode", "auto")), site.wire.sent


async def test_a_setpoint_that_waited_in_vain_gives_the_one_before_no_more_time(
    make: Any,
) -> None:
    setpoint = {**RELEASED["setpoint"], "min_interval_s": 0.2}
    site = await make({**RELEASED, "setpoint": setpoint})
    site.wire.says("box/state", {"p": 0})
    site.send(0.001, 0.5)
    await until(lambda: site.wire.set_to() == [1000], "the first")
    site.wire.says("box/state", {"p": 1000})
    assert "sent in" in (await site.answered(site.send(0.009)))["rejected"]
    site.wire.delivers = False
    rejected = site.broker.stats.rejected
    await until(lambda: site.broker.stats.rejected > rejected, "the one that is not sent is counted")
    site.wire.delivers = True
    site.send(0.009, renewal=True)
    await until(lambda: ("box/mode", "auto") in site.wire.sent, "the end of the first one's lease")
    assert site.wire.set_to() == [1000]


ONLINE = [{"topic": "box/status", "online": ["on"], "offline": ["off"]}]
WAITING: dict[str, Any] = {**RELEASED["setpoint"], "min_interval_s": 0.3}


async def waiting_site(make: Any, lease_s: float = 0.9, **more: Any) -> Site:
    """Return a site whose box holds 1 kW, and for which 9 kW waits."""
    site: Site = await make({**RELEASED, "setpoint": {**WAITING, **more}, "availability": ONLINE})
    site.wire.says("box/status", "on")
    site.wire.says("box/state", {"p": 0})
    await site.answered(site.send(0.001, lease_s))
    assert "sent in" in (await site.answered(site.send(0.009, 40.0)))["rejected"]
    return site


async def test_a_setpoint_that_waits_is_not_sent_to_a_box_that_is_away_when_it_is_due(make: Any) -> None:
    site = await waiting_site(make)
    rejected = site.broker.stats.rejected
    site.wire.says("box/status", "off")
    await until(lambda: site.broker.stats.rejected > rejected, "it is counted")
    site.send(0.009, 40.0, renewal=True)
    await until(lambda: ("box/mode", "auto") in site.wire.sent, "the end of the first one's lease")
    assert site.wire.set_to() == [1000]


@pytest.mark.parametrize("says", [{"error": "locked"}, None])
async def test_a_setpoint_that_waited_and_is_not_accepted_gives_the_one_before_no_more_time(
    make: Any, says: dict[str, Any] | None
) -> None:
    answers = [{"topic": "box/answer", "error": {"path": "error"}}]
    setpoint = {**WAITING, "confirm": "answer", "answers": answers}
    site = await make({**RELEASED, "setpoint": setpoint})
    site.wire.says("box/state", {"p": 0})
    site.wire.answer = lambda topic, payload: site.wire.says("box/answer", {"error": None})
    await site.answered(site.send(0.001, 1.2))
    assert "sent in" in (await site.answered(site.send(0.009, 40.0)))["rejected"]
    rejected = site.broker.stats.rejected
    site.wire.answer = None
    if says is not None:
        site.wire.answer = lambda topic, payload: site.wire.says("box/answer", says)
    await until(lambda: site.broker.stats.rejected > rejected, "it is counted")
    site.send(0.009, 40.0, renewal=True)
    await until(lambda: ("box/mode", "auto") in site.wire.sent, "the end of the first one's lease")
    assert site.wire.set_to() == [1000, 9000]


async def test_a_setpoint_that_waited_and_is_taken_in_part_is_taken_back(make: Any) -> None:
    mode = {"topic": "box/mode", "payload": "remote"}
    site = await waiting_site(make, messages=[mode, *RELEASED["setpoint"]["messages"]], lease_s=30.0)
    half_open(site)
    await until(lambda: ("box/mode", "auto") in site.wire.sent, "its release")
    assert site.wire.set_to() == [1000, 9000]


async def test_a_setpoint_that_waited_is_renewed_as_any_other(make: Any) -> None:
    site = await waiting_site(make)
    await until(lambda: site.wire.set_to() == [1000, 9000], "the one that waited")
    await site.settled()
    site.send(0.009, 40.0, renewal=True)
    await until(lambda: site.wire.set_to() == [1000, 9000, 9000], "its renewal, which waits, too")
    await asyncio.sleep(0.6)
    assert ("box/mode", "auto") not in site.wire.sent, "it has its own lease"


@pytest.mark.parametrize("comes", ["setpoint", "stop", "release", "shadow", "end"])
async def test_what_waits_is_replaced_by_what_comes_first(make: Any, comes: str) -> None:
    site = await waiting_site(make, lease_s=30.0)
    if comes == "setpoint":
        site.send(0.002)
    elif comes == "stop":
        site.stop()
    elif comes == "release":
        release = Setpoint(p_mw=0.0, lease_s=1.0, release=True)
        site.publish(topics.device("MG1", "ess", "setpoint"), release)
    elif comes == "shadow":
        site.level("shadow")
    else:
        await site.end()
    await asyncio.sleep(0.5)
    assert 9000 not in site.wire.set_to()
    assert len(site.wire.sent) == 2, "the one that came first"


async def test_a_newer_setpoint_replaces_one_that_waits_also_where_it_is_rejected(make: Any) -> None:
    site = await waiting_site(make, lease_s=30.0)
    site.wire.says("box/status", "off")
    assert "offline" in (await site.answered(site.send(0.002)))["rejected"]
    site.wire.says("box/status", "on")
    site.wire.says("box/state", {"p": 1000})
    await asyncio.sleep(0.5)
    assert site.wire.set_to() == [1000]


async def test_one_whose_timer_is_early_waits_on(make: Any, sleep: Sleep) -> None:
    site = await make({**RELEASED, "setpoint": WAITING}, monotonic=sleep.now_s)
    site.wire.says("box/state", {"p": 0})
    await site.answered(site.send(0.001))
    assert "sent in" in (await site.answered(site.send(0.009)))["rejected"]
    sleep.slept_s = -0.1  # its clock is behind the loop's
    rejected = site.broker.stats.rejected
    await until(lambda: site.wire.set_to() == [1000, 9000], "the one that waited")
    assert site.device._commander.deferred == 2, "once more"
    assert site.broker.stats.rejected == rejected


async def test_setpoints_that_replace_one_that_waits_do_not_prolong_what_the_box_holds(make: Any) -> None:
    site = await waiting_site(make)
    for _ in range(2):
        assert "sent in" in (await site.answered(site.send(0.009, 40.0)))["rejected"]
    site.wire.says("box/status", "off")
    await until(lambda: ("box/mode", "auto") in site.wire.sent, "the end of the first one's lease")
    assert site.wire.set_to() == [1000]


async def test_one_that_waits_while_an_end_is_owed_does_not_put_it_off_when_it_fails(make: Any) -> None:
    site = await make({**RELEASED, "setpoint": {**WAITING, "min_interval_s": 0.6}, "availability": ONLINE})
    site.wire.says("box/status", "on")
    site.wire.says("box/state", {"p": 0})
    await site.answered(site.send(0.001, 0.7))
    site.wire.delivers = False
    await until(lambda: site.device.is_safe and site.device.owes_safe_state, "an end that it was not told of")
    site.wire.delivers = True
    assert "sent in" in (await site.answered(site.send(0.009, 40.0)))["rejected"]
    site.wire.says("box/status", "off")
    await until(lambda: site.device.is_safe, "its lease is over")
    site.wire.says("box/status", "on")
    site.wire.says("box/state", {"p": 1000})
    await until(lambda: not site.device.owes_safe_state, "the end that is owed")
    assert site.wire.sent[-1] == ("box/mode", "auto")
    assert site.wire.set_to() == [1000]


async def test_a_setpoint_that_was_rejected_is_sent_again_on_change_and_carried_by_no_keepalive(
    make: Any,
) -> None:
    setpoint = {
        **ANSWERING["setpoint"],
        "send": "change",
        "release": [{"topic": "box/mode", "payload": "auto"}],
    }
    setpoint["answers"] = [{"topic": "box/answer", "error": {"path": "error"}}]
    hold = {"topic": "box/hold", "payload": "{p}", "period_s": 0.1, "while": "driven"}
    site = await make({**PLAIN, "setpoint": setpoint, "keepalive": [hold]})
    site.wire.says("box/state", {"p": 0})

    def answering(error: str | None) -> Callable[[str, str], None]:
        return lambda topic, payload: site.wire.says("box/answer", {"error": error})

    site.wire.answer = answering(None)
    await site.answered(site.send(0.001))
    site.wire.answer = answering("locked")
    assert "locked" in (await site.answered(site.send(0.009)))["rejected"]
    before = len(site.wire.sent)
    await until(lambda: len(site.wire.sent) > before + 1, "keepalives")
    assert {float(payload) for topic, payload in site.wire.sent[before:]} == {1000.0}
    assert "locked" in (await site.answered(site.send(0.009)))["rejected"], "it is not held already"


async def test_a_release_to_a_box_that_is_away_is_owed_until_it_is_there(make: Any) -> None:
    online = {"topic": "box/status", "online": ["on"], "offline": ["off"]}
    site = await make({**RELEASED, "availability": [online]})
    site.wire.says("box/status", "on")
    site.wire.says("box/state", {"p": 0})
    await site.answered(site.send(0.003, lease_s=0.3))
    site.wire.says("box/status", "off")
    await until(lambda: ("box/mode", "auto") in site.wire.sent, "a release that only the broker took")
    await site.device.idle()
    await until(lambda: site.telemetry[-1]["safe"] is False, "not safe")
    assert site.leases[-1]["state"] == "held"
    before = len(site.wire.sent)
    site.wire.says("box/status", "on")
    site.wire.says("box/state", {"p": 3000})
    await until(lambda: ("box/mode", "auto") in site.wire.sent[before:], "the release once more")
    await until(lambda: site.leases[-1]["state"] == "free", "a free lease")
    await site.end()
    assert site.device.left_undone is None


async def test_a_box_that_goes_on_after_its_release_is_sent_it_once_more(make: Any, clock: Clock) -> None:
    site = await make(RELEASED, monotonic=clock)
    site.wire.says("box/state", {"p": 0})
    await site.answered(site.send(0.003, lease_s=3.0))

    async def auto(at_s: float, p_w: float) -> int:
        clock.now_s = 1000.0 + at_s
        site.wire.says("box/state", {"p": p_w})
        await site.settled()
        return [topic for topic, _ in site.wire.sent].count("box/mode")

    site.publish(
        topics.device("MG1", "ess", "setpoint"), Setpoint(p_mw=0.0, lease_s=1.0, release=True, sender="MG1")
    )
    await until(lambda: site.wire.sent[-1] == ("box/mode", "auto"), "the release")
    await site.settled()
    assert await auto(0.9, 3000) == 1, "what it says may be of before"
    assert await auto(1.0, 2900) == 2, "it was away for a moment"
    assert await auto(1.5, 2900) == 2
    assert await auto(5.0, 2900) == 3
    assert await auto(60.0, 2900) == 3, "its own control wants the same"
    await site.answered(site.send(0.003, lease_s=3.0))
    site.publish(
        topics.device("MG1", "ess", "setpoint"), Setpoint(p_mw=0.0, lease_s=1.0, release=True, sender="MG1")
    )
    await until(lambda: site.wire.sent[-1] == ("box/mode", "auto"), "the second release")
    await site.settled()
    assert await auto(61.5, 500) == 4, "it has heard it"
    assert await auto(70.0, 3000) == 4


async def test_a_box_that_fell_silent_before_its_release_is_told_again_when_it_is_heard(make: Any) -> None:
    site = await make(RELEASED, stale_after_s=1.0)
    site.wire.says("box/state", {"p": 0})
    await site.answered(site.send(0.003, lease_s=0.3))
    await until(lambda: site.leases[-1]["state"] == "free", "a free lease: it was heard a moment ago")
    await until(lambda: site.leases[-1]["state"] == "held", "it has said nothing since")
    before = len(site.wire.sent)
    site.wire.says("box/state", {"p": 3000})
    await until(lambda: ("box/mode", "auto") in site.wire.sent[before:], "the release once more")
    site.wire.says("box/state", {"p": 0})
    await until(lambda: site.leases[-1]["state"] == "free", "a free lease")
    await asyncio.sleep(1.5)
    assert site.leases[-1]["state"] == "free"


async def test_a_release_that_its_broker_does_not_acknowledge_is_owed(make: Any) -> None:
    site = await make({**RELEASED, "setpoint": {**RELEASED["setpoint"], "answer_within_s": 0.1}})
    site.wire.says("box/state", {"p": 0})
    await site.answered(site.send(0.003, lease_s=0.5))
    published, qos = site.wire.publish_raw, []

    def half_open(topic: str, payload: bytes, **options: Any) -> asyncio.Future[None]:
        published(topic, payload, **options)
        qos.append(options.get("qos"))
        return asyncio.get_running_loop().create_future()

    site.wire.publish_raw = half_open
    await until(lambda: qos, "the release")
    await until(lambda: site.telemetry[-1].get("safe") is False, "not safe")
    assert site.leases[-1]["state"] == "held"
    site.wire.publish_raw = published
    site.wire.says("box/state", {"p": 3000})
    await until(lambda: site.leases[-1]["state"] == "free", "a free lease")
    assert site.wire.sent[-1] == ("box/mode", "auto")
    assert all(each >= 1 for each in qos)


@pytest.mark.parametrize("says", [{"error": "locked"}, {"error": None}, None])
async def test_a_release_that_the_box_rejects_is_owed(make: Any, says: dict[str, Any] | None) -> None:
    answers = [{"topic": "box/answer", "error": {"path": "error"}}]
    setpoint = {**RELEASED["setpoint"], "confirm": "answer", "answers": answers, "answer_within_s": 0.2}
    site = await make({**RELEASED, "setpoint": setpoint})
    site.wire.says("box/state", {"p": 0})
    seq = site.send(0.003, lease_s=0.6)
    await until(lambda: site.wire.sent, "the setpoint")
    site.wire.says("box/answer", {"error": None})
    await site.answered(seq)
    await until(lambda: ("box/mode", "auto") in site.wire.sent, "the release")
    if says is not None:
        site.wire.says("box/answer", says)
    state = "held" if says == {"error": "locked"} else "free"
    safe = says != {"error": "locked"}
    await until(lambda: site.telemetry[-1].get("safe") is safe and site.leases[-1]["state"] == state, state)


async def test_a_rejected_release_is_owed_also_where_its_id_is_a_counter(make: Any) -> None:
    answer = {"topic": "box/answer", "id": {"path": "id"}, "error": {"path": "error"}}
    release = {"topic": "box/mode", "payload": {"auto": 1, "id": "{counter}"}}
    values = {**PLAIN["setpoint"]["values"], "id": {"quantity": "seq"}}
    messages = [{"topic": "box/set", "payload": {"p": "{p}", "t": "{t}", "id": "{id}"}}]
    setpoint = {"values": values, "messages": messages, "release": [release], "answers": [answer]}
    site = await make({**PLAIN, "setpoint": setpoint})
    site.wire.says("box/state", {"p": 0})
    seq = site.send(0.003, lease_s=0.6)
    await until(lambda: site.wire.sent, "the setpoint")
    site.wire.says("box/answer", {"id": seq, "error": None})
    await site.answered(seq)
    await until(lambda: any(topic == "box/mode" for topic, _ in site.wire.sent), "the release")
    site.wire.says("box/answer", {"id": seq, "error": None})  # once more, of the setpoint
    number = json.loads(site.wire.sent[-1][1])["id"]
    site.wire.says("box/answer", {"id": number, "error": "locked"})
    await until(lambda: site.leases[-1]["state"] == "held" and site.device.owes_safe_state, "owed")


async def test_an_answer_long_after_its_release_is_of_another_ones_command(make: Any) -> None:
    answers = [{"topic": "box/answer", "error": {"path": "error"}}]
    setpoint = {**RELEASED["setpoint"], "confirm": "answer", "answers": answers, "answer_within_s": 0.2}
    site = await make({**RELEASED, "setpoint": setpoint})
    site.wire.says("box/state", {"p": 0})
    seq = site.send(0.003, lease_s=0.6)
    await until(lambda: site.wire.sent, "the setpoint")
    site.wire.says("box/answer", {"error": None})
    await site.answered(seq)
    await until(lambda: site.leases[-1]["state"] == "free", "a free lease")
    await asyncio.sleep(0.25)
    site.wire.says("box/answer", {"error": "locked"})
    await site.settled()
    assert not site.device.is_driven
    assert site.leases[-1]["state"] == "free"


async def test_an_instance_that_holds_a_setpoint_is_told_of_its_end_before_another_is_learned(
    make: Any,
) -> None:
    mapping = {**RELEASED, "telemetry": [{**RELEASED["telemetry"][0], "topic": "N/{inst}/state"}]}
    mapping["setpoint"] = {
        **RELEASED["setpoint"],
        "values": {"p": PLAIN["setpoint"]["values"]["p"]},
        "messages": [{"topic": "W/{inst}/set", "payload": "{p}"}],
        "release": [{"topic": "W/{inst}/mode", "payload": "auto"}],
    }
    mapping["parameters"] = {"inst": {"learn": True, "relearn_after_s": 1.0}}
    site = await make(mapping)

    def speak(instance: str, p_w: int) -> None:
        for callback in site.wire.callbacks["N/+/state"]:
            callback(f"N/{instance}/state", json.dumps({"p": p_w}).encode(), False)

    speak("1", 0)
    await site.answered(site.send(0.003, lease_s=60.0))
    await asyncio.sleep(1.1)
    speak("2", 7)
    assert site.device.state.learned == {"inst": "1"}
    site.stop()
    await until(lambda: ("W/1/set", "0") in site.wire.sent, "the stop at the one that is driven")
    speak("2", 7)
    assert site.device.state.learned == {"inst": "1"}, "it may have been away"
    speak("1", 0)
    await asyncio.sleep(1.1)
    speak("2", 7)
    assert site.device.state.learned == {"inst": "2"}
    site.wire.delivers = False  # its broker is away when the stop is released
    site.stop(False)
    await site.settled()
    assert site.device.owes_safe_state
    site.wire.delivers = True
    for callback in tuple(site.wire.returns):
        callback()

    def is_released() -> bool:
        speak("2", 7)
        return ("W/2/mode", "auto") in site.wire.sent

    await until(is_released, "the release of the one that is there")
    assert ("W/1/mode", "auto") in site.wire.sent, "the one that the stop kept at 0 is handed back, too"


@pytest.mark.parametrize("has_stop", [False, True])
async def test_in_shadow_a_box_that_was_handed_back_with_0_is_left_to_who_drives_it_then(
    make: Any, monkeypatch: pytest.MonkeyPatch, has_stop: bool
) -> None:
    monkeypatch.setattr("heron_mqtt.field.device.hardware_rest.LEAVES_POWER_S", 0.1)
    monkeypatch.setattr("heron_mqtt.field.device.safe_state.GO_SAFE_AGAIN_S", 0.1)
    site = await make({**PLAIN, "setpoint": {**PLAIN["setpoint"], "release": "zero"}})
    site.wire.says("box/state", {"p": 0})
    site.level("full")
    site.send(0.001)
    await until(lambda: site.wire.set_to() == [1000], "the setpoint")
    site.level("shadow")
    await until(lambda: site.wire.set_to() == [1000, 0], "its release")
    if has_stop:
        site.stop()
        site.wire.says("box/state", {"p": 3000})
        await until(lambda: site.telemetry and site.telemetry[-1].get("stopped") is True, "the stop")
        site.stop(False)
    before = len(site.telemetry)
    site.wire.says("box/state", {"p": 3000})
    await until(lambda: len(site.telemetry) > before + 25, "half a second of its power")
    assert site.wire.set_to() == [1000, 0]
    await site.end()
    assert site.device.left_undone is None


def half_open(site: Site) -> None:
    """Let the connection to the box's broker be gone without a sign: what is sent is never acknowledged."""

    def unacknowledged(topic: str, payload: bytes, **options: Any) -> asyncio.Future[None]:
        site.wire.sent.append((topic, payload.decode()))
        return asyncio.get_running_loop().create_future()

    site.wire.publish_raw = unacknowledged


async def test_a_setpoint_that_its_broker_does_not_acknowledge_gives_the_one_before_no_more_time(
    make: Any,
) -> None:
    site = await make(RELEASED)
    site.wire.says("box/state", {"p": 0})
    await site.answered(site.send(0.001, 0.6))
    half_open(site)
    rejected = (await site.answered(site.send(0.009, 40.0)))["rejected"]
    assert rejected == "the broker has not acknowledged it within 0.1 s"
    site.send(0.009, 40.0, renewal=True)
    await until(lambda: ("box/mode", "auto") in site.wire.sent, "the end of the first one's lease")
    assert site.wire.set_to() == [1000, 9000]


async def test_of_several_messages_that_its_broker_does_not_acknowledge_a_part_is_taken_back(
    make: Any,
) -> None:
    messages = [{"topic": "box/mode", "payload": "remote"}, *RELEASED["setpoint"]["messages"]]
    site = await make({**RELEASED, "setpoint": {**RELEASED["setpoint"], "messages": messages}})
    site.wire.says("box/state", {"p": 0})
    await site.answered(site.send(0.001))
    half_open(site)
    rejected = (await site.answered(site.send(0.009)))["rejected"]
    assert rejected.startswith("the broker has not acknowledged it within 0.1 s; it may have taken a part")
    assert site.wire.sent[-1] == ("box/mode", "auto")


async def test_a_renewal_that_its_broker_does_not_acknowledge_takes_nothing_back(make: Any) -> None:
    messages = [{"topic": "box/mode", "payload": "remote"}, *RELEASED["setpoint"]["messages"]]
    site = await make({**RELEASED, "setpoint": {**RELEASED["setpoint"], "messages": messages}})
    site.wire.says("box/state", {"p": 0})
    await site.answered(site.send(0.001))
    half_open(site)
    site.send(0.001, renewal=True)
    await until(lambda: len(site.wire.sent) == 4, "the renewal")
    await site.settled()
    await asyncio.sleep(0.15)
    await site.settled()
    assert ("box/mode", "auto") not in site.wire.sent
    assert not site.device.is_safe


async def test_a_keepalive_carries_no_setpoint_that_was_not_sent(make: Any) -> None:
    setpoint = {**RELEASED["setpoint"], "min_interval_s": 5.0}
    hold = {"topic": "box/hold", "payload": "{p}", "period_s": 0.1, "while": "driven"}
    site = await make({**RELEASED, "setpoint": setpoint, "keepalive": [hold]})
    site.wire.says("box/state", {"p": 0})
    site.send(0.001)
    await until(lambda: site.wire.set_to() == [1000], "the setpoint")
    site.wire.says("box/state", {"p": 1000})
    answer = await site.answered(site.send(0.009))
    assert "sent in 5 s" in answer["rejected"]
    before = len(site.wire.sent)
    await until(lambda: len(site.wire.sent) > before + 2, "keepalives")
    assert {payload for topic, payload in site.wire.sent if topic == "box/hold"} == {"1000"}


@pytest.mark.parametrize(("driven", "last_w"), [(True, 5000), (True, 0), (False, 0)])
async def test_one_that_went_offline_with_power_is_not_at_rest_in_a_stop(
    make: Any, driven: bool, last_w: int
) -> None:
    """``offline = 0`` says what a box is that sleeps, not what one holds that has lost its connection."""
    telemetry = [{"topic": "box/state", "fields": {"p_mw": {"path": "p", "unit": "W", "offline": 0}}}]
    lwt = [{"topic": "box/lwt", "online": ["on"], "offline": ["off"]}]
    site = await make({**RELEASED, "telemetry": telemetry, "availability": lwt})
    site.level("full")
    site.wire.says("box/lwt", "on")
    site.wire.says("box/state", {"p": 0})
    if driven:
        site.send(0.005)
        await until(lambda: site.device._commander.moved_at > 0.0, "the setpoint, taken by the broker")
        assert site.wire.set_to() == [5000]
        site.wire.says("box/state", {"p": 5000})
        site.wire.says("box/state", {"p": last_w})  # 0: its sun has gone
    site.wire.says("box/lwt", "off")
    site.stop()
    await until(lambda: site.telemetry and site.telemetry[-1].get("stopped"), "the stop")
    await site.settled()
    assert site.device.owes_safe_state is (last_w > 0)
    if last_w == 0:
        assert "age_s" not in site.telemetry[-1], "what it is while it is offline is of now, and confirms"
    site.wire.says("box/lwt", "on")
    site.wire.says("box/state", {"p": 0})
    await until(lambda: site.wire.set_to().count(0) == 2, "zero again: it was away")
    await site.settled()
    site.wire.says("box/state", {"p": 0})
    await until(lambda: not site.device.owes_safe_state, "at rest")


async def test_a_renewal_that_sends_nothing_moves_nothing(make: Any) -> None:
    once = {**RELEASED["setpoint"], "send": "setpoint"}
    site = await make({**RELEASED, "setpoint": once, **QUIET})
    confirmed: list[dict[str, Any]] = []
    site.broker.subscribe(topics.stop_confirm("MG1", "ess"), confirmed.append)
    site.send(0.001)
    await until(lambda: site.wire.set_to() == [1000], "the setpoint")
    site.wire.says("box/state", {"p": 0})  # it went to 0 by itself, and has nothing new to say
    site.send(0.001, renewal=True)
    await site.settled()
    site.stop()
    await until(lambda: site.wire.set_to() == [1000, 0], "zero")

    def confirms() -> bool:
        site.wire.says("box/alive", "tick")
        return bool(confirmed) and confirmed[-1]["safe"]

    await until(confirms, "its last report was 0, and it lives")


async def test_a_lease_that_cannot_be_told_at_the_end_holds_up_no_goodbye(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = await make(RELEASED)
    site.send(0.001)
    await until(lambda: site.wire.sent, "the setpoint")
    publish = site.broker.publish

    def without_leases(channel: str, *args: Any, **kwargs: Any) -> Any:
        if channel.endswith("/lease"):
            raise ConnectionError("gone")
        return publish(channel, *args, **kwargs)

    monkeypatch.setattr(site.broker, "publish", without_leases)
    site.running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await site.running
    assert site.status[-1]["state"] == "offline"


async def test_the_same_problem_of_every_payload_is_counted_always_and_reported_once(make: Any) -> None:
    site = await make(PLAIN)
    for number in range(20):
        site.wire.says("box/state", {"p": f"bad {number}"})
    assert site.broker.stats.rejected == 20
    assert len(site.broker.stats.reports) == 1


# -- with a clock that stands still --------------------------------------------------------------------


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    monkeypatch.setattr(moving_deadline, "LOOK_S", 0.01)
    return Clock()


async def test_what_it_measures_has_an_age_and_ends_with_it(make: Any, clock: Clock) -> None:
    site = await make(READ_ONLY, monotonic=clock)
    assert site.device.measure() is None
    site.wire.says("box/state", {"p": 500})
    for later_s, age_s in ((0.0, None), (0.5, 0.5), (1.23456, 1.235), (5.0, 5.0), (5.001, -1.0)):
        clock.now_s = 1000.0 + later_s
        measured = site.device.measure()
        assert (-1.0 if measured is None else measured.age_s) == age_s
    assert site.device.state.inputs == {"p_mw": 0.0005 * 1e6}


async def test_while_it_is_offline_its_power_has_no_age(make: Any, clock: Clock) -> None:
    field = {"p_mw": {"path": "p", "unit": "W", "offline": 0.0}}
    site = await make(
        {"name": "sleeper", "telemetry": [{"topic": "box/state", "fields": field}], "availability": LWT},
        monotonic=clock,
    )
    assert site.device.measure() is None
    site.wire.says("box/lwt", "off")
    measured = site.device.measure()
    assert measured is not None
    assert (measured.p_mw, measured.age_s) == (0.0, None)
    await until(lambda: site.status[-1]["state"] == "online", "what it is taken as")
    assert site.status[-1]["reason"] == "box/lwt: off; taken as p_mw = 0"


async def test_online_and_connected_its_last_power_is_of_now_at_any_time(make: Any, clock: Clock) -> None:
    site = await make(quiet("availability", availability=LWT), monotonic=clock)
    site.wire.says("box/lwt", "on")
    site.wire.says("box/state", {"p": 500})
    clock.now_s += 3600.0
    site.wire.connected = False
    assert site.device.measure() is None
    site.wire.connected = True
    measured = site.device.measure()
    assert measured is not None
    assert (measured.p_mw, measured.age_s) == (0.0005, None)


async def test_what_a_device_is_stands_in_its_nameplate(make: Any) -> None:
    site = await make(PLAIN, kind="pv", power_range_mw=(0.0, 0.02))
    assert site.device.nameplate() == {"p_min_mw": 0.0, "p_max_mw": 0.02, "kind": "pv"}
    assert site.status[-1]["p_max_mw"] == 0.02


@pytest.mark.parametrize(
    ("table", "confirm"),
    [
        (PLAIN, "sent"),
        (READ_ONLY, "sent"),
        (ANSWERING, "answer"),
        ({**ANSWERING, "setpoint": {**ANSWERING["setpoint"], "confirm": "power"}}, "power"),
        ({**PLAIN, "setpoint": {**PLAIN["setpoint"], "answers": [{"topic": "box/ack"}]}}, "answer"),
    ],
)
async def test_what_confirms_a_setpoint_is_said_by_the_mapping(
    make: Any, table: dict[str, Any], confirm: str
) -> None:
    assert (await make(table)).device.confirm == confirm


async def test_at_rest_is_a_twentieth_of_the_larger_bound(make: Any) -> None:
    site = await make(READ_ONLY, power_range_mw=(-0.01, 0.002))
    assert not site.device.owes_safe_state
    site.stop()
    await until(lambda: site.device.stopped, "the stop")
    assert site.device.owes_safe_state, "its power is not known"
    for p_w, owes in ((0, False), (500, False), (-500, False), (501, True), (-501, True)):
        site.wire.says("box/state", {"p": p_w})
        assert site.device.owes_safe_state is owes


async def test_a_device_that_does_not_rest_is_told_again_ever_more_seldom(make: Any, clock: Clock) -> None:
    site = await make(RELEASED, monotonic=clock)
    site.send(0.001, 80_000.0)
    await until(lambda: site.wire.set_to() == [1000], "the setpoint")
    site.stop()
    await until(lambda: site.wire.set_to() == [1000, 0], "zero")
    await site.device.idle()

    async def zeros(at_s: float, p_w: float = 1000) -> int:
        clock.now_s = 1000.0 + at_s
        site.wire.says("box/state", {"p": p_w})
        for _ in range(5):
            await asyncio.sleep(0)
        await site.device.idle()
        return site.wire.set_to().count(0)

    assert await zeros(4.9) == 1
    assert site.device.owes_safe_state, "it has taken the stop, and has power"
    assert not site.broker.stats.reports
    told = 1
    for at_s in (5.0, 15.0, 35.0, 75.0, 135.0, 195.0):  # after 5 s, 10, 20, 40, and then every 60
        assert await zeros(at_s - 0.1) == told
        told += 1
        assert await zeros(at_s) == told
        assert site.device.owes_safe_state
    assert len(site.broker.stats.reports) == 1
    assert await zeros(196.0, 0) == told
    assert not site.device.owes_safe_state
    assert await zeros(201.0, 0) == told, "it stays at rest"
    assert await zeros(202.0) == told + 1, "it left rest: as at the beginning"
    assert len(site.broker.stats.reports) == 2
    site.stop(False)
    await until(lambda: site.wire.sent[-1] == ("box/mode", "auto"), "the release")
    assert not site.device.owes_safe_state
    site.wire.answer = lambda topic, text: site.wire.says("box/state", {"p": 0})
    site.send(0.002, 80_000.0)
    await site.settled()
    site.stop()
    await site.settled()
    assert site.wire.set_to()[-2:] == [2000, 0]
    assert not site.device.owes_safe_state, "that it did not rest was in another stop"


async def test_a_device_that_takes_time_to_rest_is_told_again_only_then(make: Any, clock: Clock) -> None:
    site = await make({**PLAIN, "setpoint": {**PLAIN["setpoint"], "settle_s": 3.0}}, monotonic=clock)
    site.level("full")
    site.stop()
    await until(lambda: site.wire.set_to() == [0], "zero")
    for later_s, told in ((7.9, 1), (8.0, 2)):
        clock.now_s = 1000.0 + later_s
        site.wire.says("box/state", {"p": 1000})
        assert site.device.owes_safe_state
        await site.settled()
        assert site.wire.set_to() == [0] * told


async def test_power_of_the_very_moment_confirms(make: Any, clock: Clock) -> None:
    setpoint = {**PLAIN["setpoint"], "confirm": "power"}
    site = await make({**PLAIN, "setpoint": setpoint}, monotonic=clock, answer_within_s=10.0)
    site.wire.says("box/state", {"p": 0})
    site.wire.answer = lambda topic, text: site.wire.says("box/state", {"p": 1000})
    assert "rejected" not in await site.answered(site.send(0.001))


async def test_the_same_problem_is_reported_once_a_minute(make: Any, clock: Clock) -> None:
    site = await make(PLAIN, monotonic=clock)
    for at_s, reports in ((0.0, 1), (59.9, 1), (60.0, 2), (119.9, 2), (120.0, 3)):
        clock.now_s = 1000.0 + at_s
        site.wire.says("box/state", {"p": "bad"})
        assert len(site.broker.stats.reports) == reports
    assert site.broker.stats.rejected == 5
    assert site.broker.stats.reports[0].what == "MG1/ess: box/state: p_mw: p gave 'bad', expected a number"


# -- what is confirmed, and what is refused --------------------------------------------------------------


async def test_why_a_setpoint_is_not_done_is_told(make: Any) -> None:
    site = await make({**ANSWERING, "availability": LWT})

    async def rejected() -> str:
        return str((await site.answered(site.send(0.001)))["rejected"])

    site.wire.says("box/state", {"p": 0})
    assert await rejected() == "not acknowledged: nothing on box/answer within 0.1 s"
    site.wire.connected = False
    assert await rejected() == "there is no connection to the device's broker"
    site.wire.connected = True
    site.wire.says("box/lwt", "off")
    assert await rejected() == "the device is offline: box/lwt: off"
    site.wire.says("box/lwt", "on")
    assert (await rejected()).startswith("not acknowledged")


async def test_power_confirms_once_it_has_settled_and_the_time_for_both_is_waited(make: Any) -> None:
    setpoint = {**PLAIN["setpoint"], "confirm": "power", "settle_s": 0.2}
    site = await make({**PLAIN, "setpoint": setpoint})
    site.wire.says("box/state", {"p": 0})
    site.wire.answer = lambda topic, text: site.wire.says("box/state", {"p": 1000})  # at once: of before
    told = await site.answered(site.send(0.001))
    assert told["rejected"] == "not acknowledged: nothing on box/state within 0.3 s"
    patient = await make({**PLAIN, "setpoint": setpoint}, answer_within_s=10.0)
    patient.wire.says("box/state", {"p": 0})
    patient.wire.answer = lambda topic, text: asyncio.get_running_loop().call_later(
        0.25, patient.wire.says, "box/state", {"p": 1000}
    )
    assert "rejected" not in await patient.answered(patient.send(0.002))


async def test_without_a_confirmation_a_setpoint_that_was_sent_counts(make: Any) -> None:
    site = await make(PLAIN)
    site.wire.says("box/state", {"p": 0})
    assert "rejected" not in await site.answered(site.send(0.001))


@pytest.mark.parametrize("is_silent", [False, True])
async def test_of_several_messages_a_rejected_one_or_none_answered_has_the_rest_taken_back(
    make: Any, is_silent: bool
) -> None:
    messages = [{"topic": "box/mode", "payload": "forced"}, *PLAIN["setpoint"]["messages"]]
    setpoint = {
        **PLAIN["setpoint"],
        "messages": messages,
        "release": [{"topic": "box/mode", "payload": "auto"}],
    }
    site = await make(
        {**PLAIN, "setpoint": {**setpoint, "answers": [{"topic": "box/ack", "error": {"path": "e"}}]}}
    )
    site.wire.says("box/state", {"p": 0})
    if not is_silent:
        site.wire.answer = lambda topic, text: site.wire.says(
            "box/ack", {"e": "no"} if topic == "box/set" else {}
        )
    told = await site.answered(site.send(0.001))
    why = "not acknowledged: nothing on box/ack within 0.1 s" if is_silent else "rejected by the device: no"
    assert told["rejected"] == f"{why}; it may have taken a part of the setpoint: it was sent its release"
    assert site.wire.sent[-1] == ("box/mode", "auto")
    assert told["safe"] is True
    count = len(site.wire.sent)
    assert "none is sent" in (await site.answered(site.send(0.001)))["rejected"]
    assert len(site.wire.sent) == count


@pytest.mark.parametrize("first_accepts", [True, False])
async def test_of_several_answers_a_rejection_stands(make: Any, first_accepts: bool) -> None:
    answers = [{"topic": "box/ack", "error": {"path": key}} for key in ("a", "b")]
    site = await make({**PLAIN, "setpoint": {**PLAIN["setpoint"], "answers": answers}})
    site.wire.says("box/state", {"p": 0})
    key = "b" if first_accepts else "a"
    site.wire.answer = lambda topic, text: site.wire.says("box/ack", {key: "too hot"})
    told = await site.answered(site.send(0.001))
    assert told["rejected"] == "rejected by the device: too hot"
    site.wire.answer = lambda topic, text: site.wire.says("box/ack", {})
    assert "rejected" not in await site.answered(site.send(0.002))
    site.wire.answer = lambda topic, text: site.wire.says("box/ack", {}, retained=True)
    told = await site.answered(site.send(0.003))
    assert told["rejected"] == "not acknowledged: nothing on box/ack, box/ack within 0.1 s"
    site.wire.answer = lambda topic, text: site.wire.says("box/ack", "what")
    assert "not acknowledged" in (await site.answered(site.send(0.004)))["rejected"]
    assert "MG1/ess: box/ack: not JSON" in site.broker.stats.reports[0].what


async def test_a_renewal_is_sent_only_where_it_can_arrive_and_is_one(make: Any) -> None:
    site = await make(PLAIN)
    site.wire.says("box/state", {"p": 0})
    await site.answered(site.send(0.001))
    site.wire.connected = False
    site.send(0.001, renewal=True)
    await asyncio.sleep(0.01)
    await site.device.idle()
    site.wire.connected = True
    assert site.wire.set_to() == [1000]
    site.send(0.001, renewal=True)
    await until(lambda: site.wire.set_to() == [1000, 1000], "the renewal")
    other = await make({**PLAIN, "setpoint": {**PLAIN["setpoint"], "send": "setpoint"}})
    other.wire.says("box/state", {"p": 0})
    await other.answered(other.send(0.001))
    other.send(0.001, renewal=True)
    await asyncio.sleep(0.01)
    await other.device.idle()
    assert other.wire.set_to() == [1000], "told at setpoints alone"
    meter = await make(READ_ONLY)
    await meter.device.renew(Setpoint(p_mw=0.001, lease_s=1.0))
    assert meter.wire.sent == []


@pytest.mark.parametrize(("answer_within_s", "within_s"), [(0.1, 2.0), (10.0, 10.0)])
async def test_what_is_sent_arrives_soon_or_not_at_all(
    make: Any, answer_within_s: float, within_s: float
) -> None:
    site = await make(PLAIN, answer_within_s=answer_within_s)
    site.send(0.001)
    await until(lambda: site.wire.sent, "the setpoint")
    assert site.wire.within_s[0] == pytest.approx(within_s, abs=0.5)


async def test_a_device_that_comes_back_is_told_all_again(make: Any) -> None:
    site = await make({**PLAIN, "setpoint": {**PLAIN["setpoint"], "send": "change"}, "availability": LWT})
    site.wire.says("box/lwt", "on")
    site.wire.says("box/state", {"p": 0})

    async def told() -> list[float]:
        await site.answered(site.send(0.001))
        return list(site.wire.set_to())

    assert await told() == await told() == [1000]
    site.wire.says("box/lwt", "on")
    assert await told() == [1000]
    site.wire.says("box/lwt", "off")
    site.wire.says("box/lwt", "on")
    assert await told() == [1000, 1000]


# -- who may tell it, and when ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stands_alone", "level", "told"),
    [
        (True, None, [0]),
        (True, "shadow", []),
        (True, "full", [0]),
        (False, None, []),
        (False, "simulated", []),
        (False, "limited", [0]),
    ],
)
async def test_a_stop_is_sent_by_who_is_in_charge_or_stands_alone(
    make: Any, stands_alone: bool, level: Any, told: list[float]
) -> None:
    site = await make(PLAIN, **({"stands_alone": True} if stands_alone else {}))
    if level is not None:
        site.level(level)
    site.stop()
    await until(lambda: site.device.stopped, "the stop")
    for _ in range(5):
        await asyncio.sleep(0)
    await site.device.idle()
    assert site.wire.set_to() == told


@pytest.mark.parametrize(("stands_alone", "told"), [(True, []), (False, [])])
async def test_an_authority_that_the_broker_has_kept_counts_for_a_program_of_its_own(
    make: Any, stands_alone: bool, told: list[float]
) -> None:
    async with InMemoryBroker() as broker:
        channel = topics.device("MG1", "ess", "authority_state")
        kept = MessageStamper("MG1", "default").stamp(channel, AuthorityState(level="shadow"))
        await broker.publish(channel, kept, retain=True)
        site = await make(PLAIN, broker, stands_alone=stands_alone)
        assert site.device.is_settable is not stands_alone
        site.level("full")
        await until(lambda: site.device.is_settable, "the level of this run")
        await broker.publish(channel, kept, retain=True)
        await asyncio.sleep(0.01)
        assert site.device.is_settable


async def test_a_demotion_hands_the_device_back_and_ends_its_lease_but_not_in_a_stop(make: Any) -> None:
    site = await make(RELEASED)
    site.wire.says("box/state", {"p": 0})
    site.level("shadow")
    site.level("full")
    await site.settled()
    assert site.wire.sent == [], "nothing is handed back that was told nothing"
    site.wire.answer = lambda topic, text: site.wire.says("box/state", {"p": 0})
    await site.answered(site.send(0.001))
    site.level("limited")
    await site.settled()
    assert [topic for topic, _ in site.wire.sent] == ["box/set"]
    assert (site.leases[-1]["state"], site.device.left_undone) == ("held", NOT_HANDED_BACK)
    site.level("shadow")
    await site.settled()
    assert site.wire.sent[-1] == ("box/mode", "auto")
    assert site.leases[-1]["state"] == "free"
    assert (site.device.is_safe, site.device.is_driven, site.device.left_undone) == (True, False, None)
    site.level("full")
    await site.answered(site.send(0.002))
    site.stop()
    await site.settled()
    assert site.wire.set_to() == [1000, 2000, 0]
    assert (site.device.is_driven, site.device.left_undone) == (True, None)
    before = len(site.wire.sent)
    site.level("shadow")
    await site.settled()
    assert len(site.wire.sent) == before
    site.level("full")
    await site.settled()
    assert ("box/mode", "auto") not in site.wire.sent[before:]
    site.stop(False)
    await site.settled()
    assert site.wire.sent[-1] == ("box/mode", "auto")


async def test_an_end_that_did_not_reach_it_is_owed(make: Any) -> None:
    site = await make(RELEASED)
    site.wire.says("box/state", {"p": 0})
    site.wire.answer = lambda topic, text: site.wire.says("box/state", {"p": 0})
    await site.answered(site.send(0.001))
    assert not site.device.owes_safe_state
    site.wire.delivers = False
    site.publish(topics.device("MG1", "ess", "setpoint"), Setpoint(p_mw=0.0, lease_s=1.0, release=True))
    await site.settled()
    assert site.device.is_safe
    assert site.device.owes_safe_state is True
    assert site.device.left_undone == NOT_HANDED_BACK


async def test_a_stop_that_could_not_be_sent_is_sent_at_the_end(make: Any) -> None:
    site = await make(RELEASED)
    site.send(0.001)
    await until(lambda: site.wire.set_to() == [1000], "the setpoint")
    site.wire.delivers = False
    site.stop()
    await until(lambda: site.device.stopped and site.device.is_safe, "the stop")
    await site.device.idle()
    refused = "an emergency stop is in force that it has not accepted"
    assert site.device.left_undone == f"{refused}, and its power is not known"
    site.wire.says("box/state", {"p": 0})
    assert site.device.left_undone == f"{refused}, and it gave 0 kW when it was measured last"
    site.wire.delivers = True
    await site.end()
    assert site.wire.set_to() == [1000, 0]
    assert ("box/mode", "auto") not in site.wire.sent


@pytest.mark.parametrize(
    ("p_w", "says"),
    [
        (0, f"{STAYS} (0 kW when it was measured last)"),
        (2_000, "it gave 2 kW when it was measured last"),
        (None, "its power is not known"),
    ],
)
async def test_at_its_end_in_a_stop_it_says_what_is_known_of_the_power(
    make: Any, caplog: pytest.LogCaptureFixture, p_w: int | None, says: str
) -> None:
    site = await make(RELEASED)
    site.send(0.001)
    await until(lambda: site.wire.set_to() == [1000], "the setpoint")
    site.stop()
    await until(lambda: site.wire.set_to() == [1000, 0], "zero")
    if p_w is not None:
        site.wire.says("box/state", {"p": p_w})
    await site.end()
    is_good = p_w == 0
    left = f"an emergency stop is in force, and {says}"
    assert site.device.left_undone == (None if is_good else left)
    told = says if is_good else f"device on MG1/ess: nothing watches it any more: {left}"
    assert [r.getMessage() for r in caplog.records].count(told) == 1
    assert site.wire.set_to() == [1000, 0]


async def test_after_a_new_connection_or_an_absence_the_stop_is_said_again(make: Any) -> None:
    site = await make({**RELEASED, "availability": LWT})
    site.wire.says("box/lwt", "on")
    site.send(0.001)
    await until(lambda: site.wire.set_to() == [1000], "the setpoint")
    site.stop()
    await until(lambda: site.wire.set_to() == [1000, 0], "zero")
    site.wire.says("box/state", {"p": 0})
    await site.settled()
    assert site.wire.set_to() == [1000, 0]
    for back in list(site.wire.returns):
        back()
    site.wire.says("box/state", {"p": 0})
    await until(lambda: site.wire.set_to() == [1000, 0, 0], "zero again")
    site.device._release._tried_at = -1e9  # a second ago
    site.wire.says("box/lwt", "off")
    site.wire.says("box/lwt", "on")
    site.wire.says("box/state", {"p": 0})
    await until(lambda: site.wire.set_to() == [1000, 0, 0, 0], "zero again")


async def test_a_stop_that_is_not_sent_is_not_owed_after_a_new_connection(make: Any) -> None:
    site = await make(PLAIN)
    site.level("shadow")
    site.wire.says("box/state", {"p": 0})
    site.stop()
    await site.settled()
    for back in list(site.wire.returns):
        back()
    site.wire.says("box/state", {"p": 0})
    await site.settled()
    assert not site.device.owes_safe_state
    assert site.wire.sent == []


async def test_after_a_new_connection_a_kept_word_of_presence_counts_again(make: Any) -> None:
    site = await make({**READ_ONLY, "availability": LWT})
    site.wire.says("box/state", {"p": 0})
    site.wire.says("box/lwt", "on")
    site.wire.says("box/lwt", "off", retained=True)
    await site.settled()
    assert site.status[-1]["state"] == "online"
    for back in list(site.wire.returns):
        back()
    site.wire.says("box/lwt", "off", retained=True)
    await until(lambda: site.status[-1]["state"] == "offline", "offline")


async def test_a_lease_that_is_told_live_or_of_a_device_that_is_only_read_leaves_nothing_to_hand_back(
    make: Any,
) -> None:
    left = {"type": "lease", "state": "held", "holder": "MG1", "holder_boot": "old", "boot": "killed"}
    site = await make(RELEASED)
    await site.broker.publish(topics.device("MG1", "ess", "lease"), left)
    await asyncio.sleep(0.01)
    assert not site.device.is_driven
    async with InMemoryBroker() as broker:
        await left_held(broker)
        meter = await make(READ_ONLY, broker)
        assert not meter.device.is_driven
    async with InMemoryBroker() as broker:
        await broker.publish(topics.device("MG1", "ess", "lease"), {**left, "state": "free"}, retain=True)
        assert not (await make(RELEASED, broker)).device.is_driven
    async with InMemoryBroker() as broker:
        await left_held(broker)
        assert (await make(RELEASED, broker)).device.is_driven


async def test_a_device_that_does_not_answer_at_the_end_is_told_of(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("heron_mqtt.field.vendor.release_at_end.TELL_END_S", 0.02)
    site = await make(RELEASED, answer_within_s=10.0)
    site.wire.says("box/state", {"p": 0})
    site.wire.answer = lambda topic, text: site.wire.says("box/state", {"p": 1000})
    await site.answered(site.send(0.001))
    monkeypatch.setattr(site.wire, "publish_raw", lambda *_, **__: asyncio.get_running_loop().create_future())
    await site.end()
    said = {report.what for report in site.broker.stats.reports}
    assert said == {"it is not sure that it was handed back: the device's broker does not answer"}


async def test_power_that_swings_after_its_last_release_is_not_at_rest_when_it_is_0(make: Any) -> None:
    site = await make({**RELEASED, "setpoint": {**PLAIN["setpoint"], "release": "zero"}})
    site.wire.says("box/state", {"p": 0})
    await site.answered(site.send(0.005, 0.1))
    await until(lambda: site.device.is_safe, "the end of the lease")
    site.wire.says("box/state", {"p": 3000})
    await until(lambda: site.leases[-1]["state"] == "held", "power that it should not have")

    async def swings() -> None:
        for watts in [0, 3000] * 20:
            site.wire.says("box/state", {"p": watts})
            await asyncio.sleep(0.07)

    loop = asyncio.get_running_loop()
    tasks: list[asyncio.Task[None]] = []
    site.wire.answer = lambda topic, text: tasks.append(loop.create_task(swings()))
    await site.end()
    for task in tasks:
        task.cancel()
    assert site.device.left_undone == "it was handed back with 0, and it gave 3 kW when it was measured last"
    assert site.leases[-1]["state"] == "held"


@pytest.mark.parametrize(
    ("quiet_s", "left"),
    [
        (0.05, "it was handed back with 0, and it has not reported its power since then, and may have some"),
        (
            0.6,
            "it was not handed back, and may hold its last setpoint: its release was sent while it was not "
            "there: no power from it for 0.5 s",
        ),
    ],
)
async def test_one_that_falls_silent_before_its_last_release_has_its_power_still(
    make: Any, quiet_s: float, left: str
) -> None:
    """Its 0 was acknowledged by its broker, and nothing shows that it has it."""
    site = await make({**RELEASED, "setpoint": {**PLAIN["setpoint"], "release": "zero"}}, stale_after_s=0.5)
    site.wire.says("box/state", {"p": 0})
    await site.answered(site.send(0.003, 30.0))
    site.wire.says("box/state", {"p": 3000})
    await until(lambda: site.telemetry[-1]["p_mw"] == 0.003, "its power")
    await asyncio.sleep(quiet_s)
    await site.end()
    assert site.device.left_undone == left
    assert site.leases[-1]["state"] == "held"


async def test_one_that_reports_changes_alone_may_be_on_its_way_to_its_setpoint(make: Any) -> None:
    site = await make(quiet("heartbeat"), stale_after_s=5.0)
    site.wire.says("box/state", {"p": 0})
    site.wire.says("box/alive", "tick")
    await said(site, 1, "telemetry")
    site.send(0.003, 30.0)
    await until(lambda: site.wire.sent, "its setpoint")

    async def beats() -> None:
        while True:
            site.wire.says("box/alive", "tick")
            await asyncio.sleep(0.05)

    beating = asyncio.get_running_loop().create_task(beats())
    await site.end()
    beating.cancel()
    assert site.device.left_undone == (
        "it was handed back with 0, and it has not reported its power since then, and may have some"
    )
    assert site.leases[-1]["state"] == "held"


async def test_one_that_speaks_seldom_has_the_time_that_it_takes_to_show_its_last_release(make: Any) -> None:
    site = await make({**RELEASED, "setpoint": {**PLAIN["setpoint"], "release": "zero"}})
    site.wire.says("box/state", {"p": 0})
    await site.answered(site.send(0.003, 30.0))
    for _ in range(5):
        site.wire.says("box/state", {"p": 3000})
        await asyncio.sleep(0.75)
    site.wire.says("box/state", {"p": 3000})
    loop = asyncio.get_running_loop()

    def answer(topic: str, text: str) -> None:
        loop.call_later(0.75, site.wire.says, "box/state", {"p": 0})

    site.wire.answer = answer
    await site.end()
    assert site.device.left_undone is None
    assert site.leases[-1]["state"] == "free"


def quickly_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let it be known of a box within a moment how often it speaks."""
    known = {"LEAST_HEARD_S": 0.1, "BURST_S": 0.0, "REGULAR": 1.0, "LATE": 0.0, "LEAST_LATE_S": 0.3}
    for name, value in known.items():
        monkeypatch.setattr(f"heron_mqtt.field.vendor.heard_intervals.{name}", value)


async def speaks(site: Site, times: int = 20, every_s: float = 0.02) -> None:
    """Have the box say its power as it always does."""
    for _ in range(times):
        site.wire.says("box/state", {"p": 1000})
        await asyncio.sleep(every_s)


@pytest.mark.parametrize("is_released_before", [False, True])
async def test_a_box_that_is_late_at_the_end_is_not_known_to_have_taken_its_release(
    make: Any, monkeypatch: pytest.MonkeyPatch, is_released_before: bool
) -> None:
    """Its broker acknowledges to nobody. What has been released a moment before, as by a gateway, as well."""
    quickly_known(monkeypatch)
    site = await make(RELEASED)
    await speaks(site)
    await site.answered(site.send(0.001))
    if is_released_before:
        channel = topics.device("MG1", "ess", "setpoint")
        site.publish(channel, Setpoint(p_mw=0.0, lease_s=1.0, release=True))
        await until(lambda: site.wire.sent[-1] == ("box/mode", "auto"), "the release")
    await site.end()
    assert site.wire.sent.count(("box/mode", "auto")) == 1
    left = site.device.left_undone
    assert left is not None
    assert left.startswith(
        f"{NOT_HANDED_BACK}: it is not known whether it accepted its release: it has sent nothing for 0."
    )
    assert site.leases[-1]["state"] == "held"


async def test_a_box_that_is_heard_after_its_last_release_or_seldom_speaks_is_handed_back(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for times, every_s in ((3, 0.2), (20, 0.02)):
        async with InMemoryBroker() as broker:
            site = await make(RELEASED, broker)
            await speaks(site, times, every_s)
            await site.answered(site.send(0.001))
            if every_s < 0.1:
                quickly_known(monkeypatch)
                site.wire.answer = lambda topic, text, wire=site.wire: asyncio.get_running_loop().call_later(
                    0.02, wire.says, "box/state", {"p": 800}
                )
            await site.end()
            assert site.device.left_undone is None
            assert site.leases[-1]["state"] == "free"


async def test_a_box_that_goes_offline_right_after_its_last_release_is_not_known_to_have_taken_it(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    quickly_known(monkeypatch)
    site = await make({**RELEASED, "availability": LWT})
    site.wire.says("box/lwt", "on")
    await speaks(site)
    await site.answered(site.send(0.001))
    site.wire.answer = lambda topic, text: asyncio.get_running_loop().call_later(
        0.1, site.wire.says, "box/lwt", "off"
    )
    await site.end()
    assert (
        site.device.left_undone
        == f"{NOT_HANDED_BACK}: it is not known whether it accepted its release: box/lwt: off"
    )


async def test_a_box_that_goes_offline_long_after_it_was_heard_again_was_handed_back(make: Any) -> None:
    site = await make({**RELEASED, "availability": LWT})
    site.wire.says("box/lwt", "on")
    await speaks(site)
    await site.answered(site.send(0.001, 0.1))
    await until(lambda: site.device.is_safe, "the end of the lease")
    await speaks(site)
    site.wire.says("box/lwt", "off")
    await site.end()
    assert site.device.left_undone is None


async def test_a_box_that_was_gone_when_it_was_left_to_shadow_is_released_once_it_is_heard(make: Any) -> None:
    site = await make(RELEASED, stale_after_s=0.3)
    site.level("full", "full")
    await speaks(site)
    await site.answered(site.send(0.001))
    site.level("shadow", "shadow")
    await until(lambda: site.wire.sent[-1] == ("box/mode", "auto"), "the release, which its broker takes")
    await until(lambda: site.leases[-1]["state"] == "free", "a free lease")
    await until(lambda: site.leases[-1]["state"] == "held", "silence since then")
    assert site.device.owes_safe_state
    await speaks(site, 1)
    await until(lambda: site.wire.sent.count(("box/mode", "auto")) == 2, "the release once more")
    await until(lambda: site.leases[-1]["state"] == "free", "a free lease again")


async def test_on_change_the_setpoint_that_a_silent_box_may_have_missed_is_sent_again(make: Any) -> None:
    table = {**PLAIN, "setpoint": {**PLAIN["setpoint"], "send": "change"}}
    site = await make(table, stale_after_s=1.5)
    for _ in range(2):
        site.wire.says("box/state", {"p": 0})
        await site.answered(site.send(0.001))
    assert site.wire.set_to() == [1000]
    await until(lambda: site.status[-1]["state"] == "fault", "silence")
    site.wire.says("box/state", {"p": 0})
    await site.answered(site.send(0.001))
    assert site.wire.set_to() == [1000, 1000]


async def test_a_box_that_is_late_when_its_adapter_is_replaced_is_not_given_up(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    quickly_known(monkeypatch)
    site = await make(RELEASED)
    await speaks(site)
    await site.answered(site.send(0.001))
    why = await site.device.give_up()
    assert why is not None
    assert why.startswith("it is not known whether it accepted its release: it has sent nothing for 0.")
    await until(lambda: site.leases[-1]["state"] == "held", "a lease that says so")
    await speaks(site)
    await until(lambda: site.wire.sent.count(("box/mode", "auto")) == 2, "its release once more")
    await until(lambda: site.leases[-1]["state"] == "free", "a free lease")
    assert await site.device.give_up() is None


async def test_a_mapping_that_nobody_has_checked_is_checked_where_it_is_driven(make: Any) -> None:
    """A program of one's own loads it without the nameplate."""
    sizes = {**PLAIN["setpoint"]["values"], "p": {**PLAIN["setpoint"]["values"]["p"], "absolute": True}}
    with pytest.raises(ConfigError, match="would send the device the same as"):
        await make({**PLAIN, "setpoint": {**PLAIN["setpoint"], "values": sizes}})


@pytest.mark.parametrize("is_noticed", [False, True])
async def test_a_quiet_box_that_goes_offline_long_after_its_release_was_handed_back(
    make: Any, is_noticed: bool
) -> None:
    quiet = [{**TELEMETRY[0], "reports": "on_change"}]
    table = {**RELEASED, "telemetry": quiet, "availability": LWT, "liveness": {"by": "availability"}}
    site = await make(table, stale_after_s=0.1)
    site.wire.says("box/lwt", "on")
    site.wire.says("box/state", {"p": 0})
    site.send(0.001, 0.5)
    await until(lambda: site.wire.sent[-1:] == [("box/mode", "auto")], "the release")
    await until(lambda: site.leases[-1]["state"] == "free", "a free lease")
    await asyncio.sleep(0.15)  # it is there, and has nothing to say
    count = len(site.telemetry)
    await until(lambda: len(site.telemetry) > count, "telemetry of that time")
    site.wire.says("box/lwt", "off")
    if is_noticed:
        silence = "nothing has proven for 0.1 s that the device is there"
        await until(lambda: any(silence in r.what for r in site.broker.stats.reports), "the silence")
        await site.settled()
        assert not site.device.owes_safe_state
    await site.end()
    assert site.device.left_undone is None
    assert site.leases[-1]["state"] == "free"


# -- what it says, and what is said of it ----------------------------------------------------------------


async def test_before_any_word_of_presence_a_device_is_offline_unless_its_power_is_heard(make: Any) -> None:
    long = "box/" + "x" * 600
    site = await make({**READ_ONLY, "availability": [*LWT, {**LWT[0], "topic": long}]})
    assert site.status[-1]["state"] == "offline"
    assert site.status[-1]["reason"] == f"nothing has come yet on box/lwt, {long}"[:500]
    site.wire.says("box/state", {"p": 5})
    await until(lambda: site.status[-1]["state"] == "online", "it is there")
    site.wire.says("box/lwt", "off")
    await until(lambda: site.status[-1]["state"] == "offline", "its word")
    assert site.status[-1]["reason"] == "box/lwt: off"


async def test_silence_is_named_with_what_was_heard_last_or_what_may_be_wrong(make: Any) -> None:
    site = await make(PLAIN, stale_after_s=0.05)
    await until(lambda: site.broker.stats.reports, "the report")
    silence = "no power from the device for 0.05 s on box/state"
    why = "p_mw (box/state): nothing has come"
    assert site.broker.stats.reports[0].what == f"{silence}: {why} (its mapping is plain box)"
    assert site.status[-1]["state"] == "online", "it has said nothing yet"
    site.wire.says("box/state", {"p": 5})
    await until(lambda: site.status[-1]["state"] == "fault", "the fault")
    assert site.status[-1]["reason"] == silence
    assert site.status[-1]["kind"] == "battery"
    said = [report.what for report in site.broker.stats.reports]
    assert said[1:] == [f"{silence}: is it on, does its mapping fit? (its mapping is plain box)"]


async def test_a_program_that_stood_still_reads_what_waited_before_it_calls_its_device_silent(
    make: Any,
) -> None:
    site = await make(PLAIN, stale_after_s=0.3)
    site.wire.says("box/state", {"p": 5})
    await site.settled()
    loop = asyncio.get_running_loop()
    read, waits = socket.socketpair()
    with read, waits:
        read.setblocking(False)

        def takes_in() -> None:
            read.recv(99)
            loop.call_soon(loop.call_soon, site.wire.says, "box/state", {"p": 5})

        loop.add_reader(read, takes_in)
        waits.send(b"its power")
        time.sleep(0.4)
        await asyncio.sleep(0.1)
        loop.remove_reader(read)
    assert [status["state"] for status in site.status] == ["online"]
    assert not site.broker.stats.reports
    await until(lambda: site.status[-1]["state"] == "fault", "the fault of one that is silent")


@pytest.mark.parametrize("is_displaced", [True, False])
async def test_an_adapter_that_is_ended_after_it_stood_still_says_offline_only_if_nobody_has_its_name(
    make: Any, is_displaced: bool
) -> None:
    site = await make(PLAIN)
    await site.settled()
    loop = asyncio.get_running_loop()
    read, waits = socket.socketpair()
    with read, waits:
        read.setblocking(False)

        def takes_in() -> None:
            read.recv(99)
            if is_displaced:
                loop.call_later(0.01, site.device._on_displaced, Displaced("by its successor"))

        loop.add_reader(read, takes_in)
        waits.send(b"its successor")
        time.sleep(0.4)
        site.running.cancel()
        await asyncio.wait([site.running])
        loop.remove_reader(read)
    assert [status["state"] for status in site.status] == ["online", *([] if is_displaced else ["offline"])]


async def test_the_reason_of_a_status_is_cut_to_its_limit(make: Any) -> None:
    long = "box/" + "x" * 600
    field = {"p_mw": {"path": "p", "unit": "W", "offline": 0.0}}
    sleeper = {
        "name": "sleeper",
        "telemetry": [{"topic": "box/state", "fields": field}],
        "availability": [{**LWT[0], "topic": long}],
    }
    site = await make(sleeper)
    site.wire.says(long, "off")
    await until(lambda: site.status[-1]["state"] == "online", "what it is taken as")
    assert site.status[-1]["reason"] == f"{long}: off"[:500]
    silent = await make(
        {"name": "silent", "telemetry": [{**TELEMETRY[0], "topic": long}]}, stale_after_s=0.05
    )
    silent.wire.says(long, {"p": 5})
    await until(lambda: silent.status[-1]["state"] == "fault", "the fault")
    assert silent.status[-1]["reason"] == f"no power from the device for 0.05 s on {long}"[:500]


async def test_a_word_of_presence_is_no_power(make: Any) -> None:
    site = await make({**READ_ONLY, "availability": LWT}, stale_after_s=0.05)
    site.wire.says("box/lwt", "on")
    await until(lambda: site.broker.stats.reports, "the report")
    site.wire.says("box/lwt", "on")
    await asyncio.sleep(0.12)
    assert site.status[-1]["state"] == "online", "its power was never heard"
    assert len(site.broker.stats.reports) == 1


async def test_another_instance_beside_the_learned_one_is_reported(make: Any) -> None:
    table = {
        "name": "boxes",
        "parameters": {"id": {"learn": True}},
        "telemetry": [{**TELEMETRY[0], "topic": "boxes/{id}/state"}],
    }
    site = await make(table)
    [callback] = site.wire.callbacks["boxes/+/state"]
    callback("boxes/7/state", b'{"p": 5}', False)
    assert not site.broker.stats.reports
    callback("boxes/8/state", b'{"p": 9}', False)
    said = [report.what for report in site.broker.stats.reports]
    assert said == ["id is 7, but 8 is there too and not read: give the parameter"]
    await until(lambda: site.telemetry, "telemetry")
    assert site.telemetry[-1]["p_mw"] == 5e-6


async def test_changes_that_belong_together_are_told_together(make: Any) -> None:
    inputs = [{"topic": f"box/{n}", "format": "text", "inputs": {n: {"on_change": True}}} for n in "ab"]
    table = {
        "name": "pair",
        "telemetry": inputs,
        "quantities": {"p_mw": {"formula": "a - b", "unit": "W"}},
    }
    site = await make(table)
    site.wire.says("box/a", "7")
    site.wire.says("box/b", "2")
    assert site.device.measure() is None
    await until(lambda: site.telemetry, "telemetry")
    assert site.telemetry[-1]["p_mw"] == 5e-6
    site.wire.says("box/a", "9")
    due_s = site.device.state.due_s
    assert due_s is not None
    await site.end()
    await asyncio.sleep(0.25)
    assert site.device.state.due_s == due_s, "nothing goes on after the end"


async def test_a_sparkplug_node_whose_birth_was_missed_is_asked_for_it_while_connected(make: Any) -> None:
    topic = "spBv1.0/g/DDATA/n/d"
    table = {
        "name": "node",
        "telemetry": [
            {"topic": topic, "format": "sparkplug", "fields": {"p_mw": {"metric": "P", "unit": "W"}}}
        ],
    }
    for connected, count in ((True, 1), (False, 0)):
        site = await make(table, utc_s=lambda: 0.0)
        site.wire.connected = connected
        [callback] = site.wire.callbacks["spBv1.0/g/+/n/+"]
        callback(topic, b"\x12\x04\x10\x01\x50\x07", False)  # a metric by its alias alone
        assert [topic for topic, _ in site.wire.sent] == ["spBv1.0/g/NCMD/n"] * count
        assert all("Node Control/Rebirth" in payload for _, payload in site.wire.sent)
        assert all(payload.endswith("p\x01") for _, payload in site.wire.sent), "true"
        assert site.wire.qos == [0] * count


async def test_keepalives_begin_anew_with_each_connection_and_end_with_the_device(make: Any) -> None:
    site = await make(KEPT)

    def running() -> int:
        return sum(task.get_name() == "keepalive MG1/ess" for task in asyncio.all_tasks())

    await until(lambda: site.wire.sent == [("box/poll", "first")], "the first")
    for _ in range(2):
        site.wire.sent.clear()
        for back in list(site.wire.returns):
            back()
        await until(lambda: site.wire.sent == [("box/poll", "first")], "the first again")
        assert running() == 1
    await site.end()
    await asyncio.sleep(0)
    assert running() == 0


async def test_a_keepalive_that_holds_a_setpoint_is_sent_while_one_holds(make: Any) -> None:
    keepalive = [{"topic": "box/again", "payload": "{p}", "period_s": 0.1}]
    site = await make({**RELEASED, "keepalive": keepalive})
    await asyncio.sleep(0.12)
    assert site.wire.sent == []
    site.send(0.001)
    await until(lambda: ("box/again", "1000") in site.wire.sent, "a keepalive")
    site.publish(topics.device("MG1", "ess", "setpoint"), Setpoint(p_mw=0.0, lease_s=1.0, release=True))
    await until(lambda: site.wire.sent[-1] == ("box/mode", "auto"), "the release")
    before = len(site.wire.sent)
    await asyncio.sleep(0.12)
    assert len(site.wire.sent) == before
    site.send(0.001)
    await until(lambda: site.wire.sent[-1][0] == "box/again", "a keepalive")
    site.stop()
    await until(lambda: site.wire.set_to()[-1] == 0, "zero")
    await site.settled()
    before = len(site.wire.sent)
    await asyncio.sleep(0.12)
    assert len(site.wire.sent) == before, "the stop is no setpoint that holds"


LWT = [{"topic": "box/lwt", "online": ["on"], "offline": ["off"]}]


# -- a box that reports only what changes -------------------------------------------------------------


def quiet(by: str, **more: Any) -> dict[str, Any]:
    """Return the mapping of a box that reports only what changes."""
    return {
        "name": "quiet box",
        "setpoint": {**PLAIN["setpoint"], "release": "zero"},
        "telemetry": [{**TELEMETRY[0], "reports": "on_change"}],
        "liveness": {"by": by, **({"topic": "box/alive"} if by == "heartbeat" else {})},
        **more,
    }


async def said(site: Any, count: int, what: str) -> None:
    """Wait until telemetry was published so many times more."""
    before = len(site.telemetry)
    await until(lambda: len(site.telemetry) >= before + count, what)


async def test_while_its_heart_beats_its_last_power_is_of_now(make: Any) -> None:
    site = await make(quiet("heartbeat"), stale_after_s=0.3)
    site.wire.says("box/state", {"p": 1000})
    for _ in range(8):  # longer than its power would count by itself
        await asyncio.sleep(0.1)
        site.wire.says("box/alive", "tick")
    await said(site, 2, "telemetry")
    assert site.telemetry[-1]["p_mw"] == 0.001
    assert site.status[-1]["state"] == "online"
    await until(lambda: site.status[-1]["state"] == "fault", "its heart has stopped")
    reason = "nothing has proven for 0.3 s that the device is there (heartbeat: box/alive)"
    assert site.status[-1]["reason"] == reason
    told = len(site.telemetry)
    site.wire.says("box/alive", "tick")  # a report may have been missed in between
    await asyncio.sleep(0.2)
    assert len(site.telemetry) == told
    assert "not reported, because no message was received" in site.device.state.why("p_mw", 0.0)
    site.wire.says("box/state", {"p": 1200})
    await until(lambda: site.telemetry[-1]["p_mw"] == 0.0012, "that it is back")
    assert site.status[-1]["state"] == "online"


async def test_other_topics_are_no_heartbeat(make: Any) -> None:
    site = await make(quiet("heartbeat", availability=LWT), stale_after_s=0.3)
    site.wire.says("box/state", {"p": 1000})
    await said(site, 1, "telemetry")
    for _ in range(10):
        await asyncio.sleep(0.1)
        site.wire.says("box/lwt", "on")
    await until(lambda: site.status[-1]["state"] == "fault", "the fault")


async def test_while_it_is_online_and_we_are_connected_its_last_power_is_of_now(make: Any) -> None:
    site = await make(quiet("availability", availability=LWT), stale_after_s=0.2)
    site.wire.says("box/lwt", "on", retained=True)
    site.wire.says("box/state", {"p": 1000})
    await asyncio.sleep(0.7)
    await said(site, 2, "telemetry")
    site.wire.says("box/lwt", "off")
    await until(lambda: site.status[-1]["state"] == "offline", "its will")
    site.wire.says("box/lwt", "on")  # it is back, and has not said what it does now
    told = len(site.telemetry)
    await asyncio.sleep(0.3)
    assert len(site.telemetry) == told
    site.wire.says("box/state", {"p": 0})
    await said(site, 1, "telemetry")
    assert site.telemetry[-1]["p_mw"] == 0.0


async def test_a_lost_connection_proves_nothing_and_what_was_missed_is_not_believed(make: Any) -> None:
    site = await make(quiet("availability", availability=LWT), stale_after_s=0.2)
    site.wire.says("box/lwt", "on", retained=True)
    site.wire.says("box/state", {"p": 1000})
    await said(site, 2, "telemetry")
    site.wire.connected = False
    await until(lambda: site.status[-1]["state"] == "fault", "the fault")
    site.wire.connected = True
    for back in list(site.wire.returns):
        back()
    told = len(site.telemetry)
    await asyncio.sleep(0.3)
    assert len(site.telemetry) == told
    site.wire.says("box/lwt", "on", retained=True)
    site.wire.says("box/state", {"p": 700}, retained=True)  # as the broker has kept it
    await said(site, 1, "telemetry")
    assert site.telemetry[-1]["p_mw"] == 0.0007


async def test_its_answers_to_a_poll_prove_it(make: Any) -> None:
    poll = [{"topic": "box/poll", "payload": "?", "period_s": 0.1}]
    site = await make(quiet("poll", keepalive=poll), stale_after_s=0.4)

    def answer(topic: str, payload: str) -> None:
        if topic == "box/poll":
            site.wire.says("box/state", {"p": 1000})

    site.wire.answer = answer
    await asyncio.sleep(1.0)
    await said(site, 2, "telemetry")
    site.wire.answer = None
    await until(lambda: site.status[-1]["state"] == "fault", "the fault")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"liveness": None}, "telemetry[0].reports: 'on_change' needs [liveness]"),
        ({"liveness": {"by": "heartbeat"}}, "topic: missing; say on which topic the heartbeat comes"),
        ({"liveness": {"by": "poll"}}, "liveness.by: 'poll' needs a [[keepalive]] that asks"),
        ({"liveness": {"by": "availability"}}, "liveness.by: 'availability' needs [[availability]]"),
        (
            {"liveness": {"by": "availability"}, "availability": [{"topic": "box/lwt", "online": ["on"]}]},
            "availability[0]: must list the words of both online and offline",
        ),
        ({"telemetry": TELEMETRY}, "liveness: p_mw is reported always, which proves it"),
        (
            {"setpoint": {**PLAIN["setpoint"], "confirm": "power"}},
            "setpoint.confirm: 'power': a power that stays as it is is not reported",
        ),
    ],
)
def test_what_would_prove_nothing_is_refused(changes: dict[str, Any], why: str) -> None:
    table = {key: value for key, value in {**quiet("heartbeat"), **changes}.items() if value is not None}
    with pytest.raises(ConfigError) as caught:
        load_mapping(table, agent="MG1", device="ess", source="test")
    assert any(why in problem for problem in caught.value.problems), caught.value.problems


def test_a_poll_must_come_before_the_power_is_too_old() -> None:
    poll = [{"topic": "box/poll", "payload": "?", "period_s": 10.0}]
    with pytest.raises(ConfigError) as caught:
        load_mappings(loaded(mapping=quiet("poll", keepalive=poll)))
    assert "gateway.stale_after_s = 5: it is polled only every 10 s" in caught.value.problems[0]
    slow = {"gateway": {"stale_after_s": 25.0}}
    assert load_mappings(loaded(mapping=quiet("poll", keepalive=poll), **slow))


# -- what a scenario may ask of it ---------------------------------------------------------------------


def loaded(**device: Any) -> Any:
    battery = {
        "kind": "battery",
        "max_e_mwh": 0.03,
        "max_p_charge_mw": 0.008,
        "max_p_discharge_mw": 0.01,
        **device,
    }
    microgrid = {"buses": [2], "devices": {"ess": battery}}
    return scenario_from_dict({"name": "boxes", "microgrids": {"MG1": microgrid}})


def two_devices(first: dict[str, Any], second: dict[str, Any], at: tuple[Any, Any] = (None, None)) -> Any:
    """Return a scenario with two devices of these mappings, and the URLs of brokers of their own."""
    plate = {"kind": "battery", "max_e_mwh": 0.01, "max_p_charge_mw": 0.01, "max_p_discharge_mw": 0.01}
    devices = {
        name: {**plate, "mapping": mapping, **({} if url is None else {"broker": {"url": url}})}
        for name, mapping, url in zip(("ess", "ess2"), (first, second), at, strict=True)
    }
    microgrid = {"buses": [2], "devices": devices}
    return scenario_from_dict({"name": "boxes", "microgrids": {"MG1": microgrid}})


def of_id(number: int) -> dict[str, Any]:
    """Return a mapping of one of several boxes behind one topic."""
    message = {"topic": "box/set", "payload": {"id": number, "p": "{w}"}}
    values = {"w": {"quantity": "p_mw", "unit": "W"}}
    return {**READ_ONLY, "setpoint": {"values": values, "messages": [message]}}


RENAMED = {
    **PLAIN,
    "setpoint": {
        "values": {"w": {"quantity": "p_mw", "unit": "kW"}, "s": {"quantity": "lease_s", "unit": "s"}},
        "messages": [{"topic": "box/set", "payload": {"t": "{s}", "p": "{w}"}}],
    },
}
BARE = {
    **PLAIN,
    "setpoint": {
        "values": {"w": {"quantity": "p_mw", "unit": "W"}, "n": {"quantity": "seq"}},
        "messages": [{"topic": "box/set", "payload": {"p": "{w}", "number": "{n}"}}],
    },
}
"""It differs beside the power, and sets the same."""
ONE, OTHER = "mqtt://box-one:1883", "mqtt://box-two:1883"


@pytest.mark.parametrize(
    ("first", "second"), [(PLAIN, PLAIN), (PLAIN, RENAMED), (PLAIN, BARE), (of_id(1), of_id(1))]
)
@pytest.mark.parametrize("at", [(None, None), (ONE, ONE)])
def test_two_devices_of_a_scenario_that_set_one_box_are_refused(first: Any, second: Any, at: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        load_mappings(two_devices(first, second, at))
    (problem,) = caught.value.problems
    assert "microgrids.MG1.devices.ess2.mapping: " in problem
    assert "box/set" in problem
    assert "microgrids.MG1.devices.ess sets its power there already" in problem


@pytest.mark.parametrize(
    ("first", "second", "at"),
    [
        (PLAIN, READ_ONLY, (None, None)),
        (of_id(1), of_id(2), (None, None)),
        (PLAIN, PLAIN, (ONE, OTHER)),
        (PLAIN, PLAIN, (None, OTHER)),
    ],
)
def test_what_is_only_read_or_told_apart_may_share_a_place(first: Any, second: Any, at: Any) -> None:
    assert len(load_mappings(two_devices(first, second, at))) == 2


BAND = {"band": {"p_min_mw": -0.005, "p_max_mw": 0.005}}


@pytest.mark.parametrize("mapping", [READ_ONLY, PLAIN])
def test_a_mapped_device_is_real_and_refused_the_authority_of_emulators(mapping: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        loaded(mapping=mapping, authority="emulated")
    (problem,) = caught.value.problems
    assert "microgrids.MG1.devices.ess" in problem
    assert "authority = 'emulated'" in problem
    assert "shadow" in problem


def test_limited_authority_over_a_mapped_device_needs_a_band() -> None:
    with pytest.raises(ConfigError) as caught:
        loaded(mapping=PLAIN, authority="limited")
    (problem,) = caught.value.problems
    assert "microgrids.MG1.devices.ess" in problem
    assert "gateway.band" in problem


@pytest.mark.parametrize("authority", [None, "simulated", "shadow", "limited", "full"])
def test_what_can_only_be_read_may_have_any_authority(authority: str | None) -> None:
    given = {"authority": authority} if authority else {}
    assert load_mappings(loaded(mapping=READ_ONLY, gateway=BAND, **given))["MG1", "ess"].sets == frozenset()


@pytest.mark.parametrize("authority", ["limited", "full"])
def test_a_mapping_that_does_not_say_how_the_device_is_handed_back_gets_no_authority_that_sends(
    authority: str,
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_mappings(loaded(mapping=PLAIN, gateway=BAND, authority=authority))
    (problem,) = caught.value.problems
    assert "microgrids.MG1.devices.ess.mapping.setpoint.release: missing" in problem
    assert 'release = "zero"' in problem
    assert load_mappings(loaded(mapping=PLAIN, authority="shadow"))


def test_reactive_power_needs_a_mapping_that_sets_it() -> None:
    released = {**PLAIN, "setpoint": {**PLAIN["setpoint"], "release": "zero"}}
    with pytest.raises(ConfigError) as caught:
        load_mappings(loaded(mapping=released, authority="limited", gateway=BAND, control_q=True))
    (problem,) = caught.value.problems
    assert "control_q" in problem


async def test_an_adapter_that_was_displaced_hands_nothing_back_under_its_successor(make: Any) -> None:
    """It was paused, its successor drives the device, or a stop keeps it at 0."""
    site = await make(RELEASED)
    site.level("full")
    site.wire.says("box/state", {"p": 0})
    site.send(0.005, 0.5)
    await until(lambda: site.wire.set_to() == [5000], "it is driven")
    before = list(site.wire.sent)
    site.device._on_displaced(Displaced("by its successor"))
    await asyncio.wait([site.running])
    await asyncio.sleep(0.6)
    assert site.wire.sent == before
