"""FieldDevice, the base of a device of one's own: what it promises to the gateway and to its author."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from heron_mqtt.field.device import FieldDevice, SetpointRejected
from heron_mqtt.messages import RunState, Setpoint, Telemetry
from heron_mqtt.messaging import topics
from heron_mqtt.messaging.base import MessageBroker
from heron_mqtt.messaging.memory import InMemoryBroker
from heron_mqtt.messaging.stamping import MessageStamper
from support.waiting import until

AT = ("MG1", "ess")


class Inverter(FieldDevice):
    """Hardware that writes down what it is told."""

    kind = "battery"

    def __init__(self, broker: MessageBroker, **options: Any) -> None:
        super().__init__(*AT, broker, env_id="default", **{"period_s": 0.0, **options})
        self.applied: list[float] = []
        self.safe: list[str] = []
        self.p_mw = 0.0

    def apply(self, setpoint: Setpoint) -> Any:
        self.applied.append(setpoint.p_mw)
        self.p_mw = setpoint.p_mw

    def measure(self) -> Any:
        return Telemetry(p_mw=self.p_mw)

    def go_safe(self, reason: str) -> Any:
        self.safe.append(reason)
        self.p_mw = 0.0

    def nameplate(self) -> dict[str, Any]:
        return {"p_min_mw": -1.0, "p_max_mw": 2.0, "max_e_mwh": 3.0}


class Follower(Inverter):
    """One that starts afresh with every episode."""

    follows_episodes = True

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.episodes: list[int | None] = []

    def begin_episode(self, run_state: RunState) -> None:
        self.episodes.append(run_state.episode)


class Gateway:
    """The other end: sends setpoints, keeps what comes back."""

    def __init__(self, broker: MessageBroker) -> None:
        self.broker = broker
        self.stamper = MessageStamper("MG1", "default", boot="gateway")
        self.telemetry: list[dict[str, Any]] = []
        self.statuses: list[dict[str, Any]] = []

    async def listen(self) -> None:
        await self.broker.subscribe(topics.device(*AT, "telemetry"), self.telemetry.append)
        await self.broker.subscribe(topics.device(*AT, "status"), self.statuses.append)

    @property
    def answers(self) -> list[dict[str, Any]]:
        """The telemetry that acknowledges something; the one that follows the birth does not."""
        return [t for t in self.telemetry if "ack_seq" in t]

    async def send(self, p_mw: float, lease_s: float = 60.0, **fields: Any) -> None:
        channel = topics.device(*AT, "setpoint")
        setpoint = Setpoint(p_mw=p_mw, lease_s=lease_s, **fields)
        await self.broker.publish(channel, self.stamper.stamp(channel, setpoint, episode=1, step=2))

    async def say(self, channel: str, message: dict[str, Any]) -> None:
        await self.broker.publish(channel, message)


@asynccontextmanager
async def served(
    make: Callable[[MessageBroker], Inverter] = Inverter,
) -> AsyncIterator[tuple[Any, Gateway]]:
    """A device that serves, and the gateway it serves."""
    async with InMemoryBroker() as broker:
        gateway = Gateway(broker)
        await gateway.listen()
        device = make(broker)
        online = asyncio.Event()
        serving = asyncio.create_task(device.run(on_online=online.set))
        await asyncio.wait_for(online.wait(), 5.0)
        yield device, gateway
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


# -- birth and death -----------------------------------------------------------------------------------


async def test_it_is_born_with_its_nameplate_and_dies_with_a_word() -> None:
    async with served() as (_, gateway):
        await until(lambda: gateway.statuses, "the birth")
        birth = gateway.statuses[0]
        assert (birth["state"], birth["kind"]) == ("online", "battery")
        assert (birth["p_min_mw"], birth["p_max_mw"], birth["max_e_mwh"]) == (-1.0, 2.0, 3.0)
        assert birth["sender"] == "MG1/ess"
    assert gateway.statuses[-1]["state"] == "offline"


async def test_a_late_subscriber_is_told_the_birth() -> None:
    async with served() as (_, gateway):
        late: list[dict[str, Any]] = []
        await gateway.broker.subscribe(topics.device(*AT, "status"), late.append)
        await until(lambda: late, "the retained birth")
        assert late[0]["state"] == "online"


async def test_it_ends_after_its_duration_or_the_first_answer() -> None:
    async with InMemoryBroker() as broker:
        gateway = Gateway(broker)
        await gateway.listen()
        await asyncio.wait_for(Inverter(broker).run(duration_s=0.05), 5.0)
        once = asyncio.create_task(Inverter(broker).run(once=True))
        await until(lambda: [s["state"] for s in gateway.statuses].count("online") == 2, "the second birth")
        await gateway.send(1.0)
        await asyncio.wait_for(once, 5.0)
        assert [s["state"] for s in gateway.statuses] == ["online", "offline", "online", "offline"]
        assert ["ack_seq" in t for t in gateway.telemetry] == [False, False, True]  # after each birth


async def test_telemetry_follows_the_birth_so_that_a_setpoint_can_echo_it() -> None:
    async with served() as (device, gateway):
        assert [(t["p_mw"], t["safe"], t["seq"]) for t in gateway.telemetry] == [(0.0, True, 0)]
        boot = gateway.telemetry[0]["boot"]
        await gateway.send(1.0, heard_boot=boot, heard_seq=0)
        await until(lambda: device.applied, "the setpoint that echoes it")
        await until(lambda: gateway.answers, "the answer")
        assert "rejected" not in gateway.answers[0]


async def test_it_speaks_at_its_period() -> None:
    async with served(lambda broker: Inverter(broker, period_s=0.01)) as (_, gateway):
        await until(lambda: len(gateway.telemetry) >= 3, "telemetry without a setpoint")
        assert all("ack_seq" not in t and t["safe"] for t in gateway.telemetry)


# -- setpoints -----------------------------------------------------------------------------------------


async def test_telemetry_acknowledges_the_setpoint_and_names_its_step() -> None:
    async with served() as (device, gateway):
        await gateway.send(1.5)
        await until(lambda: gateway.answers, "the answer")
        answer = gateway.answers[0]
        assert (answer["p_mw"], answer["ack_boot"], answer["ack_seq"]) == (1.5, "gateway", 0)
        assert (answer["episode"], answer["step"]) == (1, 2)
        assert answer["safe"] is False
        assert device.is_safe is False


async def test_copies_and_old_setpoints_are_ignored() -> None:
    """Without a sender they are not removed elsewhere, so the device does it."""
    async with served() as (device, gateway):
        channel = topics.device(*AT, "setpoint")
        for seq in (3, 3, 1, 4, 2):
            await gateway.say(channel, {"p_mw": float(seq), "lease_s": 60.0, "seq": seq, "boot": "b"})
        await until(lambda: len(device.applied) + device.ignored == 5, "all five")
        assert device.applied == [3.0, 4.0]
        assert [t["ack_seq"] for t in gateway.answers] == [3, 4]


async def test_copies_that_arrive_while_it_works_are_ignored() -> None:
    class Slow(Inverter):
        async def apply(self, setpoint: Setpoint) -> None:
            await asyncio.sleep(0.05)
            super().apply(setpoint)

    async with served(Slow) as (device, gateway):
        channel = topics.device(*AT, "setpoint")
        for seq in (1, 2, 2, 2, 1):
            await gateway.say(channel, {"p_mw": float(seq), "lease_s": 60.0, "seq": seq, "boot": "b"})
        await until(lambda: len(device.applied) + device.ignored == 5, "all five")
        assert device.applied == [1.0, 2.0]


async def test_a_sender_that_started_anew_is_followed() -> None:
    async with served() as (device, gateway):
        channel = topics.device(*AT, "setpoint")
        for boot, seq, release in (("first", 9, False), ("first", 10, True), ("second", 0, False)):
            told = {"p_mw": 0.0 if release else 1.0, "lease_s": 60.0, "release": release}
            await gateway.say(channel, {**told, "seq": seq, "boot": boot})
        await gateway.say(channel, {"p_mw": 2.0, "lease_s": 60.0, "seq": 1, "boot": "second"})
        await until(lambda: device.p_mw == 2.0, "all of them")
        assert device.applied == [1.0, 1.0, 2.0]
        assert device.safe == ["released by its owner"]
        assert device.ignored == device.refused == 0


async def test_setpoints_of_another_environment_are_ignored() -> None:
    async with served() as (device, gateway):
        channel = topics.device(*AT, "setpoint")
        await gateway.say(channel, {"p_mw": 1.0, "lease_s": 60.0, "env_id": "elsewhere"})
        await until(lambda: device.ignored == 1, "the other environment's")
        assert device.applied == []


async def test_what_is_no_setpoint_is_counted_and_stops_nothing() -> None:
    async with served() as (device, gateway):
        channel = topics.device(*AT, "setpoint")
        for wrong in ({"p_mw": "much", "lease_s": 1.0}, {"p_mw": 1.0}, {"p_mw": 1.0, "lease_s": 0.0}, {}):
            await gateway.say(channel, wrong)
        await gateway.send(1.0)
        await until(lambda: device.applied, "the good one")
        assert device.applied == [1.0]
        assert gateway.broker.stats.rejected == 4
        assert all(report.where == channel for report in gateway.broker.stats.reports)


async def test_a_refused_setpoint_is_answered_with_the_reason() -> None:
    class Stubborn(Inverter):
        def apply(self, setpoint: Setpoint) -> None:
            raise SetpointRejected("contactor open")

    async with served(Stubborn) as (_, gateway):
        await gateway.send(1.0)
        await until(lambda: gateway.answers, "the answer")
        assert gateway.answers[0]["rejected"] == "contactor open"
        assert gateway.answers[0]["ack_seq"] == 0
        assert [s["state"] for s in gateway.statuses] == ["online"]


async def test_calls_into_the_hardware_never_overlap() -> None:
    class Bus(Inverter):
        busy = False

        async def _exclusively(self) -> None:
            assert not self.busy
            self.busy = True
            await asyncio.sleep(0.002)
            self.busy = False

        async def apply(self, setpoint: Setpoint) -> None:
            await self._exclusively()
            super().apply(setpoint)

        async def measure(self) -> Telemetry:
            await self._exclusively()
            return Telemetry(p_mw=self.p_mw)

        async def go_safe(self, reason: str) -> None:
            await self._exclusively()
            super().go_safe(reason)

    async with served(lambda broker: Bus(broker, period_s=0.001)) as (device, gateway):
        for _ in range(10):
            await gateway.send(1.0, lease_s=0.01)
            await asyncio.sleep(0.012)  # about when the lease runs out
        await until(lambda: device.safe and len(device.applied) == 10, "all of it")
        assert [s["state"] for s in gateway.statuses] == ["online"]  # an overlap would be a fault


# -- leases --------------------------------------------------------------------------------------------


async def test_a_lease_that_runs_out_makes_it_safe_and_it_says_after_how_long() -> None:
    async with served() as (device, gateway):
        await gateway.send(1.0, lease_s=0.1)
        await until(lambda: device.safe, "the safe state")
        await until(lambda: "safe_after_s" in gateway.telemetry[-1], "the telemetry of it")
        said = gateway.telemetry[-1]
        assert (said["p_mw"], said["safe"]) == (0.0, True)
        assert 0.1 <= said["safe_after_s"] < 5.0
        assert device.is_safe
        await gateway.send(1.0)
        await until(lambda: not device.is_safe, "the next setpoint")
        assert len(device.safe) == 1


async def test_a_newer_setpoint_renews_the_lease() -> None:
    async with served() as (device, gateway):
        await gateway.send(1.0, lease_s=0.2)
        await gateway.send(1.0, lease_s=60.0)
        await until(lambda: len(device.applied) == 2, "both")
        await asyncio.sleep(0.3)  # past the first lease
        assert device.safe == []


async def test_a_renewal_extends_and_does_nothing_else() -> None:
    async with served() as (device, gateway):
        await gateway.send(1.0, lease_s=0.2)
        await gateway.send(1.0, lease_s=60.0, renewal=True)
        await asyncio.sleep(0.3)  # past the first lease
        assert device.applied == [1.0]
        assert device.safe == []


async def test_a_renewal_after_the_lease_brings_nothing_back() -> None:
    async with served() as (device, gateway):
        await gateway.send(1.0, lease_s=0.02)
        await until(lambda: device.safe, "the safe state")
        await gateway.send(1.0, lease_s=60.0, renewal=True)
        await gateway.send(0.5)
        await until(lambda: len(device.applied) == 2, "the next setpoint")
        assert device.applied == [1.0, 0.5]


async def test_before_the_first_setpoint_it_is_safe() -> None:
    async with served() as (device, _):
        assert device.is_safe
        assert device.applied == device.safe == []


# -- emergency stop ------------------------------------------------------------------------------------


async def test_an_emergency_stop_holds_until_it_is_released() -> None:
    async with served() as (device, gateway):
        await gateway.send(1.0)
        await until(lambda: device.applied, "the setpoint")
        await gateway.say(topics.ESTOP, {"type": "estop", "active": True, "who": "anna"})
        await until(lambda: device.safe, "the safe state")
        assert "anna" in device.safe[0]
        await gateway.send(1.0)
        await until(lambda: gateway.telemetry[-1].get("rejected"), "the refusal")
        assert gateway.telemetry[-1]["rejected"] == "emergency stop"
        await gateway.say(topics.ESTOP, {"type": "estop", "active": False, "who": "anna"})
        await gateway.send(0.5)
        await until(lambda: len(device.applied) == 2, "the setpoint after the release")
        assert device.applied == [1.0, 0.5]


async def test_a_stop_that_was_pressed_before_it_connected_holds() -> None:
    async with InMemoryBroker() as broker:
        await broker.publish(topics.ESTOP, {"type": "estop", "active": True}, retain=True)
        device, gateway = Inverter(broker), Gateway(broker)
        await gateway.listen()
        online = asyncio.Event()
        serving = asyncio.create_task(device.run(on_online=online.set))
        await asyncio.wait_for(online.wait(), 5.0)
        await until(lambda: device.stopped, "the stop")
        await gateway.send(1.0)
        await until(lambda: gateway.telemetry and gateway.telemetry[-1].get("rejected"), "the refusal")
        assert device.applied == []
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


# -- faults --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("broken", ["apply", "measure"])
async def test_hardware_that_fails_is_a_fault_until_it_works_again(
    broken: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Flaky(Inverter):
        works = False

        def _use(self, what: str) -> None:
            if what == broken and not self.works:
                raise RuntimeError("Modbus timeout")

        def apply(self, setpoint: Setpoint) -> None:
            self._use("apply")
            super().apply(setpoint)

        def measure(self) -> Telemetry:
            self._use("measure")
            return Telemetry(p_mw=self.p_mw)

    async with served(Flaky) as (device, gateway):
        with caplog.at_level(logging.ERROR):
            await gateway.send(1.0)
            await until(lambda: gateway.statuses[-1]["state"] == "fault", "the fault")
        assert gateway.statuses[-1]["reason"] == f"{broken} failed: RuntimeError: Modbus timeout"
        assert "Traceback" in caplog.text
        assert gateway.answers == []  # nothing is acknowledged that was not done
        device.works = True
        await gateway.send(1.0)
        await until(lambda: gateway.statuses[-1]["state"] == "online", "the recovery")
        assert gateway.answers[-1]["ack_seq"] == 1


# -- episodes ------------------------------------------------------------------------------------------


async def test_an_emulator_starts_afresh_with_each_episode_of_each_run() -> None:
    async with served(Follower) as (device, gateway):
        assert gateway.statuses[0]["run"] == "none"
        for boot, episode, state in (
            ("a", 1, "reset"), ("a", 1, "running"), ("a", 2, "reset"), ("b", 1, "reset"),
            ("b", 1, "finished"),
        ):  # fmt: skip
            told = {"type": "run_state", "state": state, "episode": episode, "boot": boot, "sender": "op"}
            await gateway.say(topics.RUN_STATE, told)
        await until(lambda: len(gateway.statuses) == 4, "a birth each")
        assert device.episodes == [1, 2, 1]
        assert [(s["run"], s["episode"]) for s in gateway.statuses[1:]] == [("a", 1), ("a", 2), ("b", 1)]


async def test_hardware_takes_no_notice_of_episodes() -> None:
    async with served() as (_, gateway):
        told = {"type": "run_state", "state": "reset", "episode": 1, "boot": "a"}
        await gateway.say(topics.RUN_STATE, told)
        await gateway.send(1.0)
        await until(lambda: gateway.answers, "an answer")
        assert len(gateway.statuses) == 1
        assert "run" not in gateway.statuses[0]
