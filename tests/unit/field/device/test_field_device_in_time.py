"""FieldDevice by the clock: when it speaks, when it goes safe, and what ends while something is under way."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, ClassVar

import pytest

from heron_mqtt.errors import Displaced, NameTaken
from heron_mqtt.field.device import FieldDevice, SetpointRejected
from heron_mqtt.field.device.presence import leaving_others_alone
from heron_mqtt.messages import RunState, Setpoint, Telemetry
from heron_mqtt.messaging.stamping import MessageStamper
from support.field_rig import OpenMemoryBroker
from support.virtual import run_virtual, virtual_now

ESS = "devices/MG1/ess"


class Hardware(FieldDevice):
    """Does at once what it is told; what it does besides is the test's."""

    kind = "battery"

    def __init__(self, broker: OpenMemoryBroker, **options: Any) -> None:
        stamper = MessageStamper("MG1/ess", "default", boot=options.pop("boot", "d1"))
        self.slept_s = 0.0
        super().__init__(
            *("MG1", "ess", broker),
            **{"monotonic": lambda: virtual_now() + self.slept_s, "stamper": stamper, **options},
        )
        self.done: list[tuple[str, Any]] = []
        self.measured: Any = Telemetry(p_mw=0.0)
        self.fails: dict[str, Exception] = {}
        self.takes_s = 0.0
        self.is_owing = False
        self.settable = True
        self.is_heeding = True

    async def _do(self, what: str, value: Any) -> None:
        if self.takes_s:
            await asyncio.sleep(self.takes_s)
        if what in self.fails:
            raise self.fails[what]
        self.done.append((what, value))

    async def apply(self, setpoint: Setpoint) -> None:
        await self._do("apply", setpoint.p_mw)

    async def renew(self, setpoint: Setpoint) -> None:
        await self._do(
            "renew", (setpoint.p_mw, setpoint.lease_s, setpoint.seq, setpoint.boot, setpoint.renewal)
        )

    async def measure(self) -> Any:
        if "measure" in self.fails:
            raise self.fails["measure"]
        return self.measured

    async def go_safe(self, reason: str) -> None:
        await self._do("safe", reason)

    @property
    def owes_safe_state(self) -> bool:
        return self.is_owing

    @property
    def is_settable(self) -> bool:
        return self.settable

    def heeds(self, setpoint: Setpoint) -> bool:
        return self.is_heeding

    def nameplate(self) -> dict[str, Any]:
        return {"p_min_mw": -1.0, "p_max_mw": 2.0}


class Site:
    """A device that serves, and whoever talks to it."""

    def __init__(self, broker: OpenMemoryBroker, device: Hardware) -> None:
        self.broker, self.device = broker, device
        self.begun_s = virtual_now()
        self.said: dict[str, list[dict[str, Any]]] = {}
        self.times: dict[str, list[float]] = {}
        for leaf, channel in (
            *((leaf, f"{ESS}/{leaf}") for leaf in ("telemetry", "status", "lease")),
            ("confirm", "estop/confirm/MG1/ess"),
        ):
            self.said[leaf], self.times[leaf] = [], []
            broker.subscribe(channel, lambda m, leaf=leaf: self._note(leaf, m))
        self.seq = -1
        self.running: asyncio.Task[None] | None = None

    def _note(self, leaf: str, message: dict[str, Any]) -> None:
        self.said[leaf].append(dict(message))
        self.times[leaf].append(round(virtual_now() - self.begun_s, 6))

    @property
    def last(self) -> dict[str, Any]:
        return self.said["telemetry"][-1]

    def send(self, p_mw: float, lease_s: float = 30.0, **fields: Any) -> int:
        self.seq += 1
        told = {"p_mw": p_mw, "lease_s": lease_s, "sender": "MG1", "boot": "g1", "seq": self.seq, **fields}
        self.broker.publish(f"{ESS}/setpoint", {"type": "setpoint", **told})
        return self.seq

    def stop(self, active: bool = True, **fields: Any) -> None:
        self.broker.publish("estop", {"type": "estop", "active": active, "who": "ann", **fields})


def serve(
    test: Callable[[Site], Coroutine[Any, Any, None]],
    kind: type[Hardware] = Hardware,
    broker_kind: type[OpenMemoryBroker] = OpenMemoryBroker,
    **options: Any,
) -> None:
    """Run a test in virtual time with a device that serves."""

    async def main() -> None:
        broker = broker_kind()
        site = Site(broker, kind(broker, **options))
        online = asyncio.Event()
        site.running = asyncio.create_task(site.device.run(on_online=online.set))
        await online.wait()
        site.begun_s = virtual_now()
        for times in site.times.values():
            times[:] = [0.0] * len(times)
        await test(site)
        site.running.cancel()
        await asyncio.gather(site.running, return_exceptions=True)

    run_virtual(main())


# -- when it speaks ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("period_s", "lease_s", "times"),
    [
        (1.0, None, [0.0, 1.0, 2.0, 3.0]),
        (0.0, None, [0.0, 2.0, 4.0]),  # so that a gateway can begin
        (5.0, None, [0.0, 2.0, 4.0]),
        (5.0, 4.0, [0.0, 0.0, 1.0, 2.0, 3.0]),  # four times a lease, the answer first
        (0.5, 4.0, [0.0, 0.0, 0.5, 1.0, 1.5]),
        (0.0, 4.0, [0.0, 0.0, 1.0, 2.0, 3.0]),
    ],
)
def test_it_speaks_at_its_period_and_as_often_as_a_lease_needs(
    period_s: float, lease_s: float | None, times: list[float]
) -> None:
    async def listened(site: Site) -> None:
        if lease_s is not None:
            site.send(0.5, lease_s)
        await asyncio.sleep(max(times) + 0.1)
        assert site.times["telemetry"][: len(times)] == pytest.approx(times)

    serve(listened, period_s=period_s)


def test_what_was_measured_waits_two_seconds_for_a_connection_unless_the_broker_keeps_it() -> None:
    class Keeping(OpenMemoryBroker):
        kept: ClassVar[bool] = False
        limits: ClassVar[list[float | None]] = []

        def keeps(self, channel: str) -> bool:
            return self.kept and channel.endswith("/telemetry")

        def publish(self, channel: str, message: Any, **options: Any) -> Any:
            if channel.endswith("/telemetry"):
                limit = options.get("not_after")
                self.limits.append(None if limit is None else limit - virtual_now())
            return super().publish(channel, message, **options)

    async def listened(site: Site) -> None:
        assert Keeping.limits == pytest.approx([2.0])
        Keeping.kept = True
        site.send(0.5)
        await asyncio.sleep(0.1)
        assert Keeping.limits[1:] == [None]

    serve(listened, broker_kind=Keeping, period_s=0.0)


def test_a_device_that_stood_still_goes_safe_before_it_speaks() -> None:
    async def slept(site: Site) -> None:
        site.send(0.5, 60.0)
        await asyncio.sleep(1.05)  # it has just spoken
        assert site.last["safe"] is False
        count = len(site.said["telemetry"])
        site.device.slept_s = 100.0
        await asyncio.sleep(1.0)
        news = site.said["telemetry"][count:]
        assert [m["safe"] for m in news] == [True] * len(news)
        assert news
        assert site.device.done[-1][0] == "safe"

    serve(slept, period_s=1.0)


# -- the end of a lease --------------------------------------------------------------------------------


def test_when_its_lease_is_over_it_goes_safe_once_and_says_after_how_long_until_it_was_heard(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def ran_out(site: Site) -> None:
        site.send(0.5, 3.0)
        await asyncio.sleep(2.9)
        assert site.device.done == [("apply", 0.5)]
        await asyncio.sleep(0.2)
        assert site.device.done[1:] == [("safe", "no setpoint for 3 s")]
        assert (site.last["safe"], site.last["safe_after_s"]) == (True, 3.0)
        assert [m["state"] for m in site.said["lease"]] == ["free", "held", "free"]
        assert (site.said["lease"][1]["holder"], site.said["lease"][1]["holder_boot"]) == ("MG1", "g1")
        assert site.said["lease"][1]["lease_s"] == 3.0
        await asyncio.sleep(2.0)
        assert site.last["safe_after_s"] == 3.0, "nobody has asked"
        site.send(0.25, 30.0)
        await asyncio.sleep(0.1)
        assert site.last["safe_after_s"] == 3.0, "told to who asks"
        await asyncio.sleep(8.0)
        assert "safe_after_s" not in site.last
        assert len(site.device.done) == 3

    with caplog.at_level(logging.INFO, "heron_mqtt.device"):
        serve(ran_out, period_s=1.0)
    assert [(r.levelname, r.getMessage()) for r in caplog.records][:1] == [
        ("WARNING", "MG1/ess: no setpoint for 3 s, going to the safe state")
    ]


def test_a_lease_that_is_given_back_is_over_at_once_and_that_is_no_alarm(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def given_back(site: Site) -> None:
        site.send(0.5)
        await asyncio.sleep(0.1)
        seq = site.send(0.0, release=True)
        await asyncio.sleep(0.1)
        assert site.device.done[1:] == [("safe", "released by MG1")]
        assert (site.last["safe"], site.last["ack_seq"], site.last["ack_boot"]) == (True, seq, "g1")
        site.send(0.0, release=True, sender=None, boot=None, seq=None)
        await asyncio.sleep(0.1)
        assert len(site.device.done) == 2
        assert site.last["ack_seq"] == seq, "one without a number is not acknowledged"
        assert site.device.refused == 0

    with caplog.at_level(logging.INFO, "heron_mqtt.device"):
        serve(given_back, period_s=0.0)
    assert [(r.levelname, r.getMessage()) for r in caplog.records] == [
        ("INFO", "MG1/ess: released by MG1, going to the safe state")
    ]


def test_a_renewal_reaches_the_hardware_with_what_it_holds_and_a_failed_one_is_a_fault() -> None:
    async def renewed(site: Site) -> None:
        site.send(0.5, 10.0)
        await asyncio.sleep(1.0)
        seq = site.send(0.7, 20.0, renewal=True)
        await asyncio.sleep(0.1)
        assert site.device.done[1:] == [("renew", (0.5, 20.0, seq, "g1", True))]
        site.device.fails["renew"] = OSError("bus")
        site.send(0.5, 20.0, renewal=True)
        await asyncio.sleep(0.1)
        told = site.said["status"][-1]
        assert (told["state"], told["reason"], told["kind"]) == (
            "fault",
            "renew failed: OSError: bus",
            "battery",
        )
        assert site.device.refused == 0
        await asyncio.sleep(5.0)
        assert site.said["status"][-1]["state"] == "online", "it measures"

    serve(renewed, period_s=0.0)


def test_a_setpoint_that_is_refused_is_answered_and_counted_and_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def refused(site: Site) -> None:
        for fields in ({}, {"renewal": True}, {"release": True}):
            site.send(0.5, heard_boot="d0", heard_seq=0, **fields)
            await asyncio.sleep(0.1)
        assert site.device.done == []
        assert site.device.refused == 2, "a release of nothing is nothing"
        answers = [m for m in site.said["telemetry"] if "rejected" in m]
        assert [(m["ack_seq"], m["rejected"]) for m in answers] == [
            (0, "stale: it echoes telemetry of another boot of this device")
        ]

    serve(refused, period_s=0.0)
    assert caplog.records[0].getMessage() == (
        "MG1/ess: setpoint refused: stale: it echoes telemetry of another boot of this device"
    )


def test_a_rejection_that_could_not_be_told_is_told_with_the_next_measurement() -> None:
    async def rejected(site: Site) -> None:
        site.device.measured = None
        site.device.fails["apply"] = SetpointRejected("too hot")
        seq = site.send(0.5)
        await asyncio.sleep(0.1)
        assert len(site.said["telemetry"]) == 1, "nothing is known"
        site.device.measured = Telemetry(p_mw=0.125)
        await asyncio.sleep(8.0)
        told = site.said["telemetry"][1]
        assert (told["ack_seq"], told["rejected"], told["p_mw"]) == (seq, "too hot", 0.125)
        assert all("rejected" not in m for m in site.said["telemetry"][2:]), "once"
        site.device.fails.clear()
        site.send(0.25)
        await asyncio.sleep(0.1)
        assert "rejected" not in site.last

    serve(rejected, period_s=0.0)


def test_a_setpoint_that_is_not_heeded_counts_as_never_heard() -> None:
    async def unheeded(site: Site) -> None:
        site.device.is_heeding = False
        site.send(0.5)
        await asyncio.sleep(0.1)
        assert (site.device.done, len(site.said["telemetry"])) == ([], 1)
        assert site.device.is_safe

    serve(unheeded, period_s=0.0)


def test_a_device_shows_what_it_likes_of_its_telemetry() -> None:
    class Shy(Hardware):
        showing: Any = None

        def shown(self, telemetry: Telemetry) -> Any:
            return self.showing

    async def shown(site: Site) -> None:
        assert site.said["telemetry"] == []
        Shy.showing = {"type": "telemetry", "p_mw": 0.75}
        site.send(0.5)
        await asyncio.sleep(0.1)
        assert site.said["telemetry"] == [{"type": "telemetry", "p_mw": 0.75}], "as it is"

    serve(shown, Shy, period_s=0.0)


# -- a stop --------------------------------------------------------------------------------------------


def test_a_stop_does_not_wait_for_what_is_being_done_and_says_what_came_of_it() -> None:
    async def stopped(site: Site) -> None:
        site.device.takes_s = 10.0
        seq = site.send(0.5)
        await asyncio.sleep(1.0)
        site.device.takes_s = 0.5
        site.stop(boot="o1", seq=4)
        await asyncio.sleep(0.1)
        assert site.said["confirm"] == [], "it is not there yet"
        await asyncio.sleep(0.5)
        assert site.device.done == [("safe", "emergency stop by ann")], "it was broken off"
        (told,) = site.said["confirm"]
        assert (told["active"], told["safe"], told["stop_boot"], told["stop_seq"]) == (True, True, "o1", 4)
        assert "settable" not in told
        rejections = [(m["ack_seq"], m["rejected"]) for m in site.said["telemetry"] if "rejected" in m]
        assert rejections == [(seq, "emergency stop")]
        site.device.takes_s = 0.0
        site.send(0.5)
        await asyncio.sleep(0.1)
        assert site.last["rejected"] == "emergency stop"
        assert len(site.device.done) == 1
        site.stop(False, who=None)
        await asyncio.sleep(0.1)
        assert site.said["confirm"][-1]["active"] is False
        site.send(0.25)
        await asyncio.sleep(0.1)
        assert site.device.done[-1] == ("apply", 0.25)

    serve(stopped, period_s=0.0)


def test_who_stops_without_a_name_is_unknown_and_who_releases_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def stopped(site: Site) -> None:
        site.send(0.5)
        await asyncio.sleep(0.1)
        site.stop(who=None)
        await asyncio.sleep(0.1)
        assert site.device.done[-1] == ("safe", "emergency stop by unknown")
        site.stop(False, who="bob")
        site.stop()
        site.stop(False, who=None)
        await asyncio.sleep(0.1)

    serve(stopped, period_s=0.0)
    released = [r.getMessage() for r in caplog.records if "released" in r.getMessage()]
    assert released == [f"MG1/ess: emergency stop released by {who}" for who in ("bob", "unknown")]


def test_a_safe_state_that_is_still_owed_is_not_said_to_be_reached() -> None:
    async def owed(site: Site) -> None:
        site.send(0.5)
        await asyncio.sleep(0.1)
        site.device.is_owing = True
        site.stop()
        await asyncio.sleep(0.1)
        assert (site.said["confirm"][-1]["safe"], site.last["safe"]) == (False, False)
        site.device.is_owing = False
        count = len(site.said["confirm"])
        for _ in range(2):
            site.device.rest_reached()
        assert [m["safe"] for m in site.said["confirm"][count:]] == [True], "once"
        for _ in range(2):
            site.device.rest_lost()
        assert [m["safe"] for m in site.said["confirm"][count + 1 :]] == [False]
        site.device.rest_reached()
        site.stop(False)
        await asyncio.sleep(0.1)
        count = len(site.said["confirm"])
        site.device.rest_lost()
        site.device.rest_reached()
        assert len(site.said["confirm"]) == count, "without a stop there is nothing to confirm"

    serve(owed, period_s=0.0)


def test_of_what_can_only_be_read_a_stop_is_confirmed_as_not_settable() -> None:
    async def stopped(site: Site) -> None:
        site.device.settable = False
        site.stop()
        await asyncio.sleep(0.1)
        assert site.said["confirm"][-1]["settable"] is False

    serve(stopped, period_s=0.0)


def test_hardware_that_cannot_be_brought_to_rest_is_faulty_and_not_safe() -> None:
    async def failed(site: Site) -> None:
        site.send(0.5)
        await asyncio.sleep(0.1)
        site.device.fails["safe"] = OSError("bus")
        site.stop()
        await asyncio.sleep(0.1)
        assert site.said["confirm"][-1]["safe"] is False
        faults = [m["reason"] for m in site.said["status"] if m["state"] == "fault"]
        assert faults == ["go_safe failed: OSError: bus"]

    serve(failed, period_s=0.0)


# -- birth, episodes, end --------------------------------------------------------------------------------


class Follower(Hardware):
    """Begins afresh with each episode."""

    follows_episodes = True

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.heard: list[str] = []

    def begin_episode(self, run_state: RunState) -> None:
        self.done.append(("episode", run_state.episode))

    async def on_run_state(self, run_state: RunState) -> None:
        self.heard.append(run_state.state)


def test_a_device_that_follows_episodes_is_born_for_each_and_speaks() -> None:
    async def followed(site: Site) -> None:
        def state(state: str, **fields: Any) -> None:
            told = {"type": "run_state", "state": state, "boot": "e1", "episode": 3, **fields}
            site.broker.publish("run/state", told)

        (birth,) = site.said["status"]
        assert (birth["state"], birth["run"], birth.get("episode")) == ("online", "none", None)
        seq = site.send(0.5, sender=None)  # of one that names no sender the broker drops no repetition
        site.send(0.75, sender=None, seq=seq)
        await asyncio.sleep(0.1)
        assert (site.device.done, site.device.ignored) == ([("apply", 0.5)], 1)
        for told in ({"env_id": "another"}, {}, {}, {"state": "running"}, {"state": "finished"}):
            state(**{"state": "reset", **told})
            await asyncio.sleep(0.1)
        assert [value for what, value in site.device.done if what == "episode"] == [3]
        assert [(m["run"], m["episode"]) for m in site.said["status"][1:]] == [("e1", 3)]
        assert site.device.heard == ["reset", "reset", "running", "finished"]
        assert (site.last["episode"], "step" in site.last, "ack_seq" in site.last) == (3, False, False)
        state("running", boot="e2")
        await asyncio.sleep(0.1)
        assert len(site.said["status"]) == 3, "another run counts from its own beginning"
        site.broker.publish("run/state", {"type": "run_state", "state": "?"})
        await asyncio.sleep(0.1)
        assert site.broker.stats.rejected == 1
        site.send(0.25, sender=None, seq=seq)
        await asyncio.sleep(0.1)
        assert site.device.done[-1] == ("apply", 0.25), "what was heard in another episode is forgotten"

    serve(followed, Follower, period_s=0.0)


def test_a_device_that_follows_no_episodes_hears_of_them_all_the_same() -> None:
    class Listening(Hardware):
        heard: ClassVar[list[int | None]] = []

        def on_run_state(self, run_state: RunState) -> None:
            self.heard.append(run_state.episode)

    async def heard(site: Site) -> None:
        site.broker.publish("run/state", {"type": "run_state", "state": "reset", "boot": "e1", "episode": 3})
        await asyncio.sleep(0.1)
        assert Listening.heard == [3]
        (birth,) = site.said["status"]
        assert "run" not in birth
        assert (birth["p_min_mw"], birth["p_max_mw"], birth["kind"]) == (-1.0, 2.0, "battery")

    serve(heard, Listening, period_s=0.0)


def test_one_that_takes_the_name_over_ends_the_other_which_says_nothing_of_it() -> None:
    async def displaced(site: Site) -> None:
        with pytest.raises(NameTaken, match="device MG1/ess in environment 'default'"):
            await Hardware(site.broker, boot="d2").run()
        site.send(0.5)
        await asyncio.sleep(0.1)
        second = Hardware(site.broker, boot="d3", take_over=True)
        serving = asyncio.create_task(second.run())
        assert site.running is not None
        with pytest.raises(Displaced):
            await site.running
        await asyncio.sleep(0.1)
        assert site.device.done[-1] == ("safe", "the program ends")
        assert [m["state"] for m in site.said["status"]] == ["online", "online"]
        assert [m["state"] for m in site.said["lease"] if m["boot"] == "d1"][-1] == "held", "not in its name"
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
        assert site.said["status"][-1]["state"] == "offline"

    serve(displaced, period_s=0.0)


def test_hardware_that_does_not_come_to_rest_is_given_a_second_at_the_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def ended(site: Site) -> None:
        site.send(0.5)
        await asyncio.sleep(0.1)
        site.device.takes_s = 60.0
        assert site.running is not None
        begun_s = virtual_now()
        site.running.cancel()
        await asyncio.gather(site.running, return_exceptions=True)
        assert virtual_now() - begun_s == 1.0
        assert site.said["status"][-1]["state"] == "offline"
        assert site.said["lease"][-1]["state"] == "free"

    serve(ended, period_s=0.0)
    assert "could not go to the safe state at the end" in caplog.text


def test_what_a_reconnection_has_begun_ends_with_the_device() -> None:
    async def ended(site: Site) -> None:
        await site.device._busy.acquire()
        site.device._on_reconnect()
        (task,) = site.device._tasks
        await asyncio.sleep(0.1)
        assert not task.done()
        site.device._busy.release()
        await asyncio.sleep(0.1)
        assert (task.done(), site.device._tasks) == (True, set())
        assert len(site.said["telemetry"]) == 2, "it speaks again"
        await site.device._busy.acquire()
        site.device._on_reconnect()
        (task,) = site.device._tasks
        assert site.running is not None
        site.running.cancel()
        await asyncio.gather(site.running, return_exceptions=True)
        await asyncio.sleep(0)
        assert task.cancelled()

    serve(ended, period_s=0.0)


def test_a_device_ends_after_its_time_or_its_first_answer() -> None:
    async def main() -> None:
        broker = OpenMemoryBroker()
        begun_s = virtual_now()
        await Hardware(broker).run(duration_s=7.0)
        took_s = virtual_now() - begun_s
        assert 7.0 <= took_s < 8.5, "and what taking the name takes"
        site = Site(broker, Hardware(broker, boot="d2"))
        site.running = asyncio.create_task(site.device.run(once=True))
        await asyncio.sleep(5.0)
        assert not site.running.done()
        site.send(0.5, heard_boot="x", heard_seq=0)
        await site.running
        assert site.said["telemetry"][-1]["rejected"].startswith("stale"), "an answer all the same"

    run_virtual(main())


def test_a_fault_that_lasts_is_said_once_and_what_is_said_before_the_birth_is_said_after_it() -> None:
    async def main() -> None:
        broker = OpenMemoryBroker()
        device = Hardware(broker, period_s=0.5)
        site = Site(broker, device)
        await device._failed("measure", OSError("bus"))
        assert device._unsaid is not None
        device.fails["measure"] = OSError("bus")
        site.running = asyncio.create_task(device.run())
        await asyncio.sleep(5.0)
        assert [m["state"] for m in site.said["status"]] == ["online"]
        device.fails["measure"] = OSError("x" * 600)
        await asyncio.sleep(2.0)
        assert [m["state"] for m in site.said["status"]] == ["online", "fault"]
        assert site.said["status"][-1]["reason"] == f"measure failed: OSError: {'x' * 600}"[:500]
        device.fails.clear()
        await asyncio.sleep(1.0)
        assert [m["state"] for m in site.said["status"]] == ["online", "fault", "online"]
        site.running.cancel()
        await asyncio.gather(site.running, return_exceptions=True)

    run_virtual(main())


@pytest.mark.parametrize("error", [NameTaken("taken"), asyncio.CancelledError()])
def test_who_leaves_a_name_to_another_says_goodbye_to_the_broker_first(error: BaseException) -> None:
    async def main() -> None:
        broker = OpenMemoryBroker()
        with pytest.raises(type(error)):
            async with leaving_others_alone(broker):
                raise error
        assert broker._closed

    run_virtual(main())
