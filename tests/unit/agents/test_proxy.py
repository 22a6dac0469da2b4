"""The proxy of an agent: what it waits for, counts, sends and says, and with which devices it begins."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Coroutine
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from heron_mqtt.agents import Deadlines, Proxy
from heron_mqtt.agents.proxy import RELEASES
from heron_mqtt.end_times import LET_GO_S, SELDOM_S
from heron_mqtt.errors import Displaced, NameTaken
from heron_mqtt.field.gateway.device_link import SetpointRequest
from heron_mqtt.field.gateway.settings import DeviceSettings, GatewayTable
from heron_mqtt.field.gateway.succession import Succession
from heron_mqtt.messages import Level, Telemetry
from heron_mqtt.messaging import topics
from heron_mqtt.messaging.stamping import MessageStamper
from powergrid.agents import GridAgent
from powergrid.devices import Battery
from support.field_rig import BAND, DT_S, ESS, OpenMemoryBroker
from support.virtual import run_virtual, virtual_now


@pytest.mark.parametrize("is_heard", [True, False])
def test_an_episode_begins_without_a_real_device_that_was_heard_too_little_and_says_so(
    is_heard: bool,
) -> None:
    async def main() -> None:
        broker = OpenMemoryBroker()
        told: list[str] = []
        broker.stats.listeners.append(lambda report: told.append(f"{report.where}: {report.what}"))
        said: list[dict[str, Any]] = []
        broker.subscribe(topics.agent("MG1", "status"), said.append)
        proxy = Proxy(
            "p",
            GridAgent("MG1", {"ess": Battery(ESS)}, step_s=DT_S),
            broker,
            devices={
                "ess": DeviceSettings(authority="limited", is_real=True, gateway=GatewayTable(band=BAND))
            },
            env_id="test",
            deadlines=Deadlines(ready_s=5.0),
        )
        running = asyncio.create_task(proxy.run())
        await asyncio.sleep(0.1)
        meta = {"env_id": "test", "sender": "MG1/ess", "boot": "d1"}
        if is_heard:
            birth = {"type": "status", "state": "online", **meta, "seq": 1}
            broker.publish(topics.device("MG1", "ess", "status"), birth)
            news = {"type": "telemetry", "p_mw": 0.0, "soc": 0.5, **meta, "seq": 1}
            broker.publish(topics.device("MG1", "ess", "telemetry"), news)
        state = {"type": "run_state", "state": "reset", "env_id": "test", "boot": "b1", "episode": 1}
        broker.publish(topics.RUN_STATE, {**state, "sender": "operator"})
        await asyncio.sleep(6.0)
        shadow = [line for line in told if line.startswith("MG1/ess: begins in shadow: ")]
        assert len(shadow) == is_heard
        assert said[-1]["state"] == ("online" if is_heard else "fault")
        if not is_heard:
            assert "devices not ready: MG1/ess (" in said[-1]["reason"]
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await proxy.close()

    run_virtual(main())


# -- one proxy, and all that comes to it ---------------------------------------------------------------

NOW = {"episode": 1, "step": 0, "boot": "env1"}


class Site:
    """The proxy of MG1 with the battery ``ess``; the test is the environment, its peers and its device."""

    def __init__(
        self,
        broker: OpenMemoryBroker | None = None,
        *,
        level: Level = "simulated",
        peers: tuple[str, ...] = (),
        is_real: bool = False,
        **options: Any,
    ) -> None:
        self.broker = broker or OpenMemoryBroker()
        self.agent = GridAgent("MG1", {"ess": Battery(ESS)}, peers=peers, step_s=DT_S)
        settings = DeviceSettings(authority=level, is_real=is_real, gateway=GatewayTable(band=BAND))
        self.proxy = Proxy(
            "p1",
            self.agent,
            self.broker,
            devices={"ess": settings},
            env_id="test",
            deadlines=Deadlines(upstream_s=1.0, peer_s=2.0, device_s=3.0, action_s=20.0, ready_s=10.0),
            lease_s=60.0,
            **options,
        )
        self.said: list[dict[str, Any]] = []
        self.broker.subscribe("agents/MG1/+", lambda m: self.said.append({"on": m.channel[11:], **m}))
        self.sent: list[dict[str, Any]] = []
        self.broker.subscribe("devices/MG1/ess/setpoint", lambda m: self.sent.append(dict(m)))

    def of(self, leaf: str) -> list[dict[str, Any]]:
        return [message for message in self.said if message["on"] == leaf]

    def say(self, channel: str, type_: str, **fields: Any) -> None:
        self.broker.publish(channel, {"type": type_, **fields})

    def upstream(self, *leaves: str, **fields: Any) -> None:
        """Say what the environment says of a step: observation, price, command, clearance."""
        told = {
            "observation": ("agents/MG1/observation", {"dt_s": DT_S, "commanded": "command" in leaves}),
            "price": ("operators/system_operator/price", {"value": 50.0}),
            "command": ("agents/MG1/command", {"p_ess": 0.02}),
            "clearance": ("agents/MG1/clearance", {}),
        }
        for leaf in leaves:
            channel, own = told[leaf]
            self.say(channel, leaf, **{**own, **NOW, **fields})

    def born(self) -> None:
        meta = {"sender": "MG1/ess", "boot": "d1"}
        self.say("devices/MG1/ess/status", "status", state="online", **meta)
        self.measure()

    def measure(self, **fields: Any) -> None:
        self.say("devices/MG1/ess/telemetry", "telemetry", **{"p_mw": 0.0, "soc": 0.5, **fields})


def serve(
    test: Callable[[Site], Coroutine[Any, Any, None]],
    before: Callable[[Site], None] = lambda site: None,
    **options: Any,
) -> None:
    """Run a test in virtual time with a proxy that has started."""

    async def main() -> None:
        site = Site(**options)
        before(site)
        await site.proxy.start()
        await test(site)
        await site.proxy.close()

    run_virtual(main())


def test_a_proxy_is_online_from_its_start_to_its_close_and_each_is_said_once() -> None:
    async def main() -> None:
        site = Site()
        for _ in range(2):
            await site.proxy.start()
        assert [m["state"] for m in site.of("status")] == ["online"]
        for _ in range(2):
            await site.proxy.close()
        assert [m["state"] for m in site.of("status")] == ["online", "offline"]
        assert site.proxy.deadline_misses == 0

    run_virtual(main())


def test_a_step_that_nobody_has_started_the_proxy_for_starts_it() -> None:
    async def main() -> None:
        site = Site()
        site.say("run/state", "run_state", state="running", **NOW)
        report = await site.proxy.step_distributed()
        assert [m["state"] for m in site.of("status")] == ["online"]
        assert report.missed == 1, "no observation came"
        await site.proxy.close()

    run_virtual(main())


@pytest.mark.parametrize(
    ("leaves", "commanded", "missed", "took_s"),
    [
        ((), False, 1, 1.0),
        (("observation",), False, 1, 1.0),
        (("observation", "price"), False, 0, 0.0),
        (("observation", "price"), True, 1, 1.0),
        (("observation", "price", "command"), True, 0, 0.0),
        (("observation", "command"), True, 1, 1.0),
    ],
)
def test_what_upstream_does_not_say_is_waited_for_once_and_counted(
    leaves: tuple[str, ...], commanded: bool, missed: int, took_s: float
) -> None:
    async def step(site: Site) -> None:
        site.upstream(*leaves, commanded=commanded)
        begun_s = virtual_now()
        report = await site.proxy.step_distributed()
        assert (report.missed, site.proxy.deadline_misses) == (missed, missed)
        assert virtual_now() - begun_s == pytest.approx(took_s)
        (action,) = site.of("action")
        # without an observation it is the step after the one before
        assert (action["missed"], action["episode"], action["step"]) == (missed, 1 if leaves else 0, 0)
        assert (report.p_mw["ess"] == 0.02) is ("command" in leaves)

    serve(step)


def test_misses_are_summed_over_the_steps() -> None:
    async def steps(site: Site) -> None:
        for _ in range(3):
            await site.proxy.step_distributed()
        assert site.proxy.deadline_misses == 3
        assert [m["step"] for m in site.of("action")] == [0, 1, 2]

    serve(steps)


def test_a_start_is_known_to_the_next_one_before_anything_is_sent(tmp_path: Path) -> None:
    with closing(Succession(tmp_path, "test", "MG1", "here")) as succession:

        async def nothing(site: Site) -> None:
            pass

        serve(nothing, succession=succession, stamper=MessageStamper("MG1", "test", boot="g1"))
    with closing(Succession(tmp_path, "test", "MG1", "here")) as later:
        assert later.predecessors == {"g1"}


def test_a_proxy_that_is_displaced_gives_the_device_back_and_leaves_the_name_to_the_other() -> None:
    async def main() -> None:
        broker = OpenMemoryBroker()
        first = Site(broker, level="full")
        await first.proxy.start()
        first.proxy.gateway.authority._held["ess"].level = "full"
        first.proxy.gateway.environment.serve("env1")
        first.born()
        second = Site(broker, level="full", take_over=True)
        with pytest.raises(NameTaken, match="agent MG1 in environment 'test'"):
            await Site(broker, level="full").proxy.start()
        first.upstream("observation", "price", "command")
        await first.proxy.step_distributed()
        assert [s["p_mw"] for s in first.sent] == [0.02]
        await second.proxy.start()
        assert first.sent[-1]["release"] is True
        with pytest.raises(Displaced):
            await first.proxy.step_distributed()
        before = len(first.of("status"))
        await first.proxy.close()
        assert [m["state"] for m in first.of("status")[before:]] == [], "the other one speaks"
        await second.proxy.close()
        assert first.of("status")[-1]["state"] == "offline"

    run_virtual(main())


def subscriptions(broker: OpenMemoryBroker) -> int:
    return sum(map(len, broker._dispatcher._subscriptions.values()))


def test_what_a_proxy_has_begun_ends_with_its_close() -> None:
    async def main() -> None:
        site = Site(level="full")
        before = subscriptions(site.broker)
        kept: list[dict[str, Any]] = []
        site.say("estop", "estop", active=True, who="ann")
        await site.proxy.start()
        site.broker.subscribe("devices/MG1/ess/authority_state", kept.append)()
        assert [m["level"] for m in kept] == ["shadow"], "which level is in force is said at the start"
        assert site.broker.stats.callback_errors == 0
        await site.proxy.close()
        assert subscriptions(site.broker) == before
        owners: list[dict[str, Any]] = []
        site.broker.subscribe("agents/MG1/owner", owners.append)
        assert [m["state"] for m in owners] == ["free"]

    run_virtual(main())


def test_a_setpoint_holds_for_half_a_minute_unless_told_otherwise() -> None:
    proxy = Proxy("p", GridAgent("MG1", {}), OpenMemoryBroker())
    assert proxy.gateway.environment.why_silent.endswith("longer than 30 s")


def test_a_proxy_that_runs_goes_through_episodes_and_steps() -> None:
    async def ran(site: Site) -> None:
        running = asyncio.create_task(site.proxy.run())
        site.agent.reseed("ess", Telemetry(p_mw=0.0, soc=0.8))
        site.say("run/state", "run_state", state="reset", boot="env1", episode=1)
        await asyncio.sleep(0.1)
        assert site.agent.devices["ess"].state.soc == 0.5, "as it is at the beginning"  # type: ignore[attr-defined]
        for step in range(2):
            site.upstream("price", "observation", step=step)
            await asyncio.sleep(0.1)
        assert [(m["episode"], m["step"]) for m in site.of("action")] == [(1, 0), (1, 1)]
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    serve(ran)


def test_an_episode_begins_where_a_real_device_is() -> None:
    async def began(site: Site) -> None:
        running = asyncio.create_task(site.proxy.run())
        site.born()
        for _ in range(4):
            site.measure(soc=0.3)
        site.say("run/state", "run_state", state="reset", boot="env1", episode=1)
        await asyncio.sleep(0.1)
        assert site.proxy.gateway.authority.level("ess") == "limited"
        assert site.agent.devices["ess"].state.soc == 0.3  # type: ignore[attr-defined]
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    serve(began, level="full", is_real=True)


def test_an_overlong_list_of_what_is_missing_is_cut() -> None:
    async def main() -> None:
        broker = OpenMemoryBroker()
        names = [letter * 100 for letter in "abcd"]
        proxy = Proxy(
            "p",
            GridAgent("MG1", {name: Battery(ESS) for name in names}),
            broker,
            devices={name: DeviceSettings(authority="emulated") for name in names},
            env_id="test",
            deadlines=Deadlines(ready_s=1.0),
        )
        said: list[dict[str, Any]] = []
        broker.subscribe(topics.agent("MG1", "status"), said.append)
        running = asyncio.create_task(proxy.run())
        await asyncio.sleep(0.1)
        broker.publish(topics.RUN_STATE, {"type": "run_state", "state": "reset", "boot": "b", "episode": 1})
        await asyncio.sleep(2.0)
        whole = ", ".join(
            f"MG1/{name} (no birth for this episode on devices/MG1/{name}/status)" for name in names
        )
        assert said[-1]["reason"] == f"devices not ready: {whole}"[:500]
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await proxy.close()

    run_virtual(main())


def test_what_is_waited_for_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    for level in ("emulated", "simulated"):

        async def prepared(site: Site) -> None:
            running = asyncio.create_task(site.proxy.run())
            site.say("run/state", "run_state", state="reset", boot="env1", episode=1)
            await asyncio.sleep(0.1)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

        with caplog.at_level("INFO", "heron_mqtt.proxy"):
            serve(prepared, level=level)
    assert [r.getMessage() for r in caplog.records if r.name == "heron_mqtt.proxy"] == [
        "p1 waits for ess (no birth for this episode on devices/MG1/ess/status)"
    ]


def test_a_step_goes_on_as_soon_as_the_device_has_answered() -> None:
    async def driven(site: Site) -> None:
        site.proxy.gateway.authority._held["ess"].level = "full"
        site.proxy.gateway.environment.serve("env1")
        site.born()

        async def answer(setpoint: dict[str, Any]) -> None:
            await asyncio.sleep(1.0)
            site.measure(ack_seq=setpoint["seq"], ack_boot=setpoint["boot"])

        site.broker.subscribe("devices/MG1/ess/setpoint", answer)
        begun_s = virtual_now()
        site.upstream("observation", "price", "command")
        report = await site.proxy.step_distributed()
        assert (report.missed, virtual_now() - begun_s) == (0, 1.0)

    serve(driven, level="full")


async def test_after_a_standstill_a_stop_that_waited_is_read_before_a_setpoint_leaves() -> None:
    """Stopped in mid-step (SIGSTOP), and a stop meanwhile: it is in the socket, the setpoint is computed."""
    site = Site(level="full")
    await site.proxy.start()
    site.proxy.gateway.authority._held["ess"].level = "full"
    site.proxy.gateway.environment.serve("env1")
    site.born()
    concluded = site.agent.conclude

    def stand_still() -> Collection[str]:
        time.sleep(0.3)
        stop = {"type": "estop", "active": True}
        asyncio.get_running_loop().call_later(0.01, lambda: site.broker.publish("estop", stop))
        return concluded()

    site.agent.conclude = stand_still  # type: ignore[method-assign]
    site.broker.subscribe(
        "devices/MG1/ess/setpoint", lambda m: site.measure(ack_seq=m["seq"], ack_boot=m["boot"])
    )
    site.upstream("observation", "price", "command")
    await site.proxy.step_distributed()
    assert [setpoint["p_mw"] for setpoint in site.sent] == [0.0]
    await site.proxy.close()


def test_what_a_peer_says_after_the_trading_is_late() -> None:
    async def traded(site: Site) -> None:
        site.upstream("observation", "price")
        await site.proxy.step_distributed()
        meta = {"env_id": "test", "sender": "MG2", **NOW}
        site.say("p2p/MG2/MG1", "confirm", quantity=0.0, price=0.0, **meta)
        assert site.proxy.dropped == 0, "nobody has looked at it"
        site.upstream("observation", "price", step=1)
        await site.proxy.step_distributed()
        assert site.proxy.dropped == 1

    serve(traded, peers=("MG2",))


def test_a_proxy_that_may_not_start_listens_to_nothing() -> None:
    async def main() -> None:
        broker = OpenMemoryBroker()
        first, second = Site(broker), Site(broker)
        await first.proxy.start()
        before = subscriptions(broker)
        with pytest.raises(NameTaken):
            await second.proxy.start()
        assert subscriptions(broker) == before
        second.upstream("observation", env_id="another")
        assert (first.proxy.dropped, second.proxy.dropped) == (1, 0)
        await first.proxy.close()

    run_virtual(main())


@pytest.mark.parametrize(("episode", "is_put_back"), [(4, True), (5, False)])
def test_an_interrupted_episode_is_gone_on_with_and_no_other(episode: int, is_put_back: bool) -> None:
    async def resumed(site: Site) -> None:
        calls: list[int] = []
        site.proxy.resume(4, lambda: calls.append(1))
        running = asyncio.create_task(site.proxy.run())
        site.say("run/state", "run_state", state="reset", boot="env1", episode=episode)
        await asyncio.sleep(0.5)
        assert calls == [1] * is_put_back
        (ready,) = site.of("status")[1:]
        assert (ready["state"], ready["run"], ready["episode"]) == ("online", "env1", episode)
        assert "stopped" not in ready
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    serve(resumed)


def test_a_device_that_is_missing_is_waited_for_nine_tenths_of_the_time_and_named() -> None:
    async def prepared(site: Site) -> None:
        running = asyncio.create_task(site.proxy.run())
        site.say("run/state", "run_state", state="reset", boot="env1", episode=1)
        await asyncio.sleep(8.9)
        assert len(site.of("status")) == 1
        await asyncio.sleep(0.2)
        told = site.of("status")[-1]
        assert (told["state"], told["reason"]) == (
            "fault",
            "devices not ready: MG1/ess (no birth for this episode on devices/MG1/ess/status)",
        )
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    serve(prepared, level="emulated")


def test_an_episode_that_is_overtaken_by_the_next_is_not_said_to_be_ready() -> None:
    async def prepared(site: Site) -> None:
        running = asyncio.create_task(site.proxy.run())
        for episode in (1, 2):
            site.say("run/state", "run_state", state="reset", boot="env1", episode=episode)
            await asyncio.sleep(1.0)
        await asyncio.sleep(9.0)
        assert [m["episode"] for m in site.of("status")[1:]] == [2]
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    serve(prepared, level="emulated")


def test_a_stop_and_its_release_are_said_with_the_status_of_the_episode() -> None:
    async def stopped(site: Site) -> None:
        site.say("estop", "estop", active=True, who="ann")
        await asyncio.sleep(0.1)
        assert len(site.of("status")) == 1, "no episode has begun"
        site.say("estop", "estop", active=False, who="ann")
        running = asyncio.create_task(site.proxy.run())
        site.say("run/state", "run_state", state="reset", boot="env1", episode=6)
        await asyncio.sleep(0.1)
        for active in (True, True, False):
            site.say("estop", "estop", active=active, who="ann")
            await asyncio.sleep(0.1)
        told = [(m["state"], m["episode"], m.get("stopped")) for m in site.of("status")[1:]]
        assert told == [("online", 6, None), ("online", 6, True), ("online", 6, None)]
        site.say("estop", "estop", active=True, who="ann")
        await asyncio.sleep(0.1)
        site.say("run/state", "run_state", state="reset", boot="env1", episode=7)
        await asyncio.sleep(0.1)
        assert [(m["episode"], m["stopped"]) for m in site.of("status")[-2:]] == [(6, True), (7, True)]
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    serve(stopped)


@pytest.mark.parametrize(
    ("answers", "missed", "took_s"),
    [
        ((), 1, 2.0),
        (("offer",), 1, 4.0),  # the second round's deadline counts from the beginning, too
        (("offer", "accept"), 0, 0.0),
    ],
)
def test_a_peer_that_is_silent_in_a_round_is_missed_at_the_deadline_of_that_round(
    answers: tuple[str, ...], missed: int, took_s: float
) -> None:
    async def traded(site: Site) -> None:
        heard: list[dict[str, Any]] = []

        def answer(message: dict[str, Any]) -> None:
            heard.append(dict(message))
            for type_ in answers if len(heard) == 1 else ():
                price = {"price": 0.0} if type_ == "offer" else {}
                meta = {"env_id": "test", "sender": "MG2", **NOW}
                site.say("p2p/MG2/MG1", type_, quantity=0.0, **price, **meta)

        site.broker.subscribe("p2p/MG1/MG2", answer)
        await asyncio.sleep(1.0)
        begun_s = virtual_now()
        site.upstream("observation", "price")
        report = await site.proxy.step_distributed()
        assert (heard[0]["type"], heard[0]["episode"], heard[0]["step"]) == ("offer", 1, 0)
        assert heard[0]["quantity"] > 0.0, "it has something to sell"
        assert (report.missed, virtual_now() - begun_s) == (missed, took_s)
        assert site.of("action")[0]["missed"] == missed

    serve(traded, peers=("MG2",))


def test_a_device_that_does_not_answer_is_waited_for_as_long_as_devices_may_take() -> None:
    async def driven(site: Site) -> None:
        site.proxy.gateway.authority._held["ess"].level = "full"
        site.proxy.gateway.environment.serve("env1")
        site.born()
        begun_s = virtual_now()
        site.upstream("observation", "price", "command")
        report = await site.proxy.step_distributed()
        assert (report.missed, virtual_now() - begun_s) == (1, 3.0)
        assert report.fallbacks == {"ess": "no telemetry before the deadline"}
        assert report.authority == {"ess": "full"}
        (setpoint,) = site.sent
        assert (setpoint["dt_s"], setpoint["episode"], setpoint["step"]) == (DT_S, 1, 0)

    serve(driven, level="full")


@pytest.mark.parametrize("is_cleared", [True, False])
def test_a_plan_is_sent_once_it_is_cleared_and_becomes_nothing_where_it_is_not(is_cleared: bool) -> None:
    async def cleared(site: Site) -> None:
        if is_cleared:
            site.broker.subscribe("agents/MG1/plan", lambda m: site.upstream("clearance"))
        begun_s = virtual_now()
        site.upstream("observation", "price", "command")
        report = await site.proxy.step_distributed()
        (plan,) = site.of("plan")
        assert (plan["p_ess"], plan["q_ess"], plan["episode"], plan["step"]) == (0.02, 0.0, 1, 0)
        assert report.p_mw == {"ess": 0.02 if is_cleared else 0.0}
        assert (report.missed, virtual_now() - begun_s) == ((0, 0.0) if is_cleared else (1, 11.0))
        reason = {"ess": "no clearance before the deadline (0.02 -> 0 MW)"}
        assert report.bounds == ({} if is_cleared else reason)

    serve(cleared, asks_clearance=True)


def test_with_a_stop_in_force_no_clearance_is_waited_for() -> None:
    async def stopped(site: Site) -> None:
        site.say("estop", "estop", active=True, who="ann")
        begun_s = virtual_now()
        site.upstream("observation", "price", "command")
        report = await site.proxy.step_distributed()
        assert (report.missed, report.p_mw, virtual_now() - begun_s) == (0, {"ess": 0.0}, 0.0)
        assert len(site.of("plan")) == 1

    serve(stopped, asks_clearance=True)


def test_without_an_observation_no_plan_is_sent() -> None:
    async def step(site: Site) -> None:
        await site.proxy.step_distributed()
        assert site.of("plan") == []

    serve(step, asks_clearance=True)


def test_the_broker_that_was_closed_before_has_taken_the_leave() -> None:
    async def main() -> None:
        site = Site()
        await site.proxy.start()
        await site.broker.close()
        await site.proxy.close()

    run_virtual(main())


@pytest.mark.parametrize("ends", ["answered", "unanswered", "displaced", "seldom", "too seldom"])
def test_at_its_end_a_proxy_waits_for_its_devices_and_releases_them_again(
    ends: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        broker = OpenMemoryBroker()
        released: list[dict[str, Any]] = []
        telemetry = topics.device("MG1", "ess", "telemetry")
        meta = {"type": "telemetry", "env_id": "test", "sender": "MG1/ess", "boot": "d1", "p_mw": 0.003}

        def on_setpoint(message: Any) -> None:
            if message.get("release"):
                released.append(dict(message))
                ack = {"ack_boot": message["boot"], "ack_seq": message["seq"]}
                if ends == "answered" and len(released) == 2:  # the first one is lost
                    broker.publish(telemetry, {**meta, **ack, "p_mw": 0.0, "safe": True, "seq": 2})

        broker.subscribe(topics.device("MG1", "ess", "setpoint"), on_setpoint)
        agent = GridAgent("MG1", {"ess": Battery(ESS)}, step_s=DT_S)
        settings = DeviceSettings(authority="emulated", gateway=GatewayTable(band=BAND))
        stamper = MessageStamper("MG1", "test")
        proxy = Proxy("p", agent, broker, devices={"ess": settings}, env_id="test", stamper=stamper)
        await proxy.start()
        age_s = {"seldom": 4.0, "too seldom": 60.0}.get(ends)
        broker.publish(telemetry, {**meta, "seq": 1, **({"age_s": age_s} if age_s else {})})
        link = proxy.gateway.links["ess"]
        link.send(SetpointRequest(0.003), stamper, lease_s=5.0, dt_s=DT_S, episode=1, step=0)
        if age_s is not None:
            ack = {"ack_boot": stamper.boot, "ack_seq": 0}
            shown = {**meta, **ack, "p_mw": 0.0, "safe": True, "seq": 2}
            asyncio.get_running_loop().call_later(age_s, lambda: broker.publish(telemetry, shown))
        if ends == "displaced":
            proxy._on_displaced(Displaced("taken over"))
        begun_s = virtual_now()
        await proxy.close()
        took_s = virtual_now() - begun_s
        left = proxy.gateway.unreturned()
        if ends == "answered":
            assert (len(released), left) == (2, {})
            assert 0.0 < took_s < LET_GO_S
        elif ends == "unanswered":
            assert took_s == pytest.approx(LET_GO_S)
            assert len(released) == 1 + RELEASES
            assert left["ess"].why == "it has sent nothing since"
            assert "MG1/ess: released, and does not show it: it has sent nothing since" in caplog.text
        elif ends == "seldom":
            assert (len(released), left) == (1 + RELEASES, {})
            assert took_s == pytest.approx(4.0)
        elif ends == "too seldom":
            assert took_s == pytest.approx(SELDOM_S)
            assert left["ess"].why == "it has sent nothing since"
        else:
            assert (len(released), took_s) == (1, 0.0), "the devices are its successor's"

    run_virtual(main())
