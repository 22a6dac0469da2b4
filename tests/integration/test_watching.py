"""A run as an independent client sees it: mosquitto_sub beside it, on mosquitto and on our own broker."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from heron_mqtt.errors import MessageError
from heron_mqtt.messages import parse_any
from support.heron_command import Ended, heron, run_heron
from support.mosquitto_clients import Seen, Watcher, publish, retained
from support.mosquitto_server import Mosquitto
from support.small_runs import STEPS, centralized, write_scenario

AGENTS, DEVICES = ("MG1", "MG2", "MG3"), ("gen", "ess", "pv")
PREFIX = "heron/small/"

# docs/wire-contract.md: who speaks where, which messages, and who it is
CONTRACT: dict[str, set[str]] = {
    r"operators/(?P<sender>system_operator)/price": {"price"},
    r"agents/MG\d/observation": {"observation"},
    r"agents/MG\d/command": {"command"},
    r"agents/(?P<sender>MG\d)/action": {"action"},
    r"agents/(?P<sender>MG\d)/status": {"status"},
    r"p2p/(?P<sender>MG\d)/MG\d": {"offer", "accept", "confirm"},
    r"devices/(?P<sender>MG\d)/(?:gen|ess|pv)/setpoint": {"setpoint"},
    r"devices/(?P<sender>MG\d/(?:gen|ess|pv))/telemetry": {"telemetry"},
    r"devices/(?P<sender>MG\d/(?:gen|ess|pv))/status": {"status"},
    r"devices/(?P<sender>MG\d)/(?:gen|ess|pv)/authority_state": {"authority_state"},
    r"devices/(?P<sender>MG\d/(?:gen|ess|pv))/lease": {"lease"},
    r"devices/(?P<sender>MG\d/(?:gen|ess|pv))/owner": {"owner"},
    r"agents/(?P<sender>MG\d)/owner": {"owner"},
    r"run/owner": {"owner"},
    r"run/state": {"run_state"},
    r"run/network": {"network"},
    r"run/grid": {"grid_results"},
}
RETAINED = re.compile(
    r"operators/.*/price|.*/status|.*/authority_state|.*/lease|.*/owner|run/(?:state|network|grid)"
)
PROBE = re.compile(r"heron/small/run/probe(_will)?")
"""Where a run tries out whether its broker keeps messages and sends wills, before anything else."""


@dataclass(frozen=True)
class Watched:
    """A run, what was seen of it, and what a late subscriber is told."""

    done: Ended
    seen: list[Seen]
    after: dict[str, dict[str, object]]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scenario file, in which one battery shares no process with the other devices."""
    changes = {"microgrids.MG2.devices.ess.own_process": True}
    return write_scenario(tmp_path_factory.mktemp("scenario"), changes)


@pytest.fixture(
    scope="module", params=[pytest.param("mosquitto", marks=pytest.mark.slow), "heron-mqtt broker"]
)
def watched(
    request: pytest.FixtureRequest, small: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Watched]:
    """A few steps over a broker without other clients."""
    if request.param == "mosquitto":
        server = Mosquitto(tmp_path_factory.mktemp("watched")).start()
        yield _watch(small, server.url)
        server.stop()
    else:
        with heron("broker", "--port", "0") as program:
            url = program.wait_for("listening ").split()[1]
            yield _watch(small, url)


def _watch(small: Path, url: str) -> Watched:
    with Watcher(url) as watcher:
        done = run_heron("run", str(small), "--steps", str(STEPS), "--broker", url, "--json")
        watcher.wait_seen(f"{PREFIX}run/state", lambda m: m["state"] == "finished")
        seen = [message for message in watcher.seen if not PROBE.fullmatch(message.topic)]
        probes = [message for message in watcher.seen if PROBE.fullmatch(message.topic)]
        assert {message.topic for message in probes} == {f"{PREFIX}run/probe", f"{PREFIX}run/probe_will"}
        assert watcher.seen[: len(probes)] == probes, "the broker is tried before anything is said"
        return Watched(done, seen, retained(url))


def _rule(topic: str) -> tuple[re.Match[str], set[str]]:
    """Return what the wire contract says of a topic."""
    assert topic.startswith(PREFIX), topic
    matches = [
        (m, types) for rule, types in CONTRACT.items() if (m := re.fullmatch(rule, topic[len(PREFIX) :]))
    ]
    assert len(matches) == 1, f"{topic} is not in the wire contract"
    return matches[0]


def test_every_message_is_what_its_topic_carries(watched: Watched) -> None:
    assert watched.done.code == 0, watched.done.err
    assert len(watched.seen) > STEPS * 40
    for message in watched.seen:
        match, types = _rule(message.topic)
        content = message.json
        try:
            parse_any(content)
        except MessageError as exc:
            pytest.fail(f"{message.topic}: {exc}")
        assert content["type"] in types, message
        sender = match.groupdict().get("sender")
        assert content["env_id"] == "small"
        assert sender is None or content["sender"] == sender, message
        assert message.qos == 1
        assert not message.retained  # it came while we listened


def test_each_sender_counts_its_messages_on_a_channel(watched: Watched) -> None:
    """No gap and no repetition, so that any subscriber can see whether something is missing.

    What says who is there has no number, as it is repeated after a reconnection; the first and the last
    word of run/state are such.
    """
    numbers: dict[tuple[str, str, str], list[int]] = defaultdict(list)
    for message in watched.seen:
        content = message.json
        if "seq" in content:
            numbers[message.topic, content["sender"], content["boot"]].append(content["seq"])
    assert len(numbers) > 30
    for key, seqs in numbers.items():
        assert seqs == list(range(len(seqs))), key


def test_each_step_is_a_whole_conversation(watched: Watched) -> None:
    count: Counter[tuple[int, str]] = Counter()
    for message in watched.seen:
        content = message.json
        if content.get("step") is not None and not content.get("renewal") and not content.get("release"):
            count[content["step"], message.topic[len(PREFIX) :]] += 1
    for step in range(STEPS):
        assert count[step, "operators/system_operator/price"] == 1
        assert count[step, "run/state"] == 1
        for agent in AGENTS:
            assert count[step, f"agents/{agent}/observation"] == 1
            assert count[step, f"agents/{agent}/action"] == 1
            for peer in set(AGENTS).difference({agent}):
                assert 1 <= count[step, f"p2p/{agent}/{peer}"] <= 3  # offer, accept, confirm
            for device in DEVICES:
                assert count[step, f"devices/{agent}/{device}/setpoint"] == 1
                assert count[step, f"devices/{agent}/{device}/telemetry"] >= 1


def test_telemetry_answers_the_setpoint_that_was_sent(watched: Watched) -> None:
    answers = {
        (message.topic.removesuffix("telemetry"), message.json["ack_boot"], message.json["ack_seq"])
        for message in watched.seen
        if message.topic.endswith("/telemetry") and "ack_seq" in message.json
    }
    setpoints = [message for message in watched.seen if message.topic.endswith("/setpoint")]
    assert len(setpoints) >= STEPS * 9
    for message in setpoints:
        content = message.json
        assert (message.topic.removesuffix("setpoint"), content["boot"], content["seq"]) in answers


def test_devices_say_who_they_are_before_they_are_driven(watched: Watched) -> None:
    for agent in AGENTS:
        for device, kind in zip(DEVICES, ("generator", "battery", "pv"), strict=True):
            at = f"{PREFIX}devices/{agent}/{device}/"
            births = [i for i, s in enumerate(watched.seen) if s.topic == at + "status"]
            first_setpoint = next(i for i, s in enumerate(watched.seen) if s.topic == at + "setpoint")
            assert births[0] < first_setpoint
            birth = watched.seen[births[0]].json
            assert (birth["state"], birth["kind"]) == ("online", kind)
            assert birth["p_min_mw"] <= 0.0 < birth["p_max_mw"]
            assert (birth.get("max_e_mwh") is not None) == (kind == "battery")


def test_the_actions_seen_are_what_was_earned(watched: Watched) -> None:
    """What the summary says of energy is what the actions on the wire say."""
    result = watched.done.result
    for agent in AGENTS:
        actions = [s.json for s in watched.seen if s.topic == f"{PREFIX}agents/{agent}/action"]
        loads = [s.json for s in watched.seen if s.topic == f"{PREFIX}agents/{agent}/observation"]
        net_mw = sum(a[f"p_{device}"] for a in actions for device in DEVICES)
        net_mw += sum(load["p_load_mw"] for load in loads)
        assert result["energy_mwh"][agent] == pytest.approx(net_mw * 0.25, abs=1e-9)


def test_a_late_subscriber_hears_how_it_ended(watched: Watched) -> None:
    after = watched.after
    assert all(RETAINED.fullmatch(topic[len(PREFIX) :]) for topic in after), sorted(after)
    state = after[f"{PREFIX}run/state"]
    assert state["state"] == "finished"
    assert state["scenario"] == "small"
    assert f"{PREFIX}operators/system_operator/price" in after
    statuses = {topic: m["state"] for topic, m in after.items() if topic.endswith("/status")}
    assert len(statuses) == 3 + 9
    assert set(statuses.values()) == {"offline"}


# -- wills ---------------------------------------------------------------------------------------------


@pytest.fixture
def server(own_mosquitto: Callable[..., Mosquitto]) -> Mosquitto:
    """A broker of the test's own."""
    return own_mosquitto()


def test_a_killed_run_is_seen_as_lost_and_all_of_it_as_offline(small: Path, server: Mosquitto) -> None:
    with Watcher(server.url) as watcher:
        with heron("run", str(small), "--steps", "100000", "--broker", server.url) as program:
            program.wait_for("step 8/")
            program.process.kill()
        watcher.wait_seen(f"{PREFIX}run/state", lambda m: m["state"] == "lost")
        for agent in AGENTS:
            watcher.wait_seen(f"{PREFIX}agents/{agent}/status", lambda m: m["state"] == "offline")
            for device in DEVICES:
                watcher.wait_seen(
                    f"{PREFIX}devices/{agent}/{device}/status", lambda m: m["state"] == "offline"
                )
    after = retained(server.url)
    assert after[f"{PREFIX}run/state"]["state"] == "lost"
    assert {m["state"] for topic, m in after.items() if topic.endswith("/status")} == {"offline"}


@pytest.mark.slow
def test_a_killed_device_of_a_run_is_seen_and_the_run_goes_on(small: Path, server: Mosquitto) -> None:
    """Its parts are quick: who is told of the end (``unit/app/test_emulator_processes.py``), and that the
    model stands in (``unit/field/gateway/test_device_link.py``).
    """
    with (
        Watcher(server.url) as watcher,
        heron("run", str(small), "--steps", "40", "--broker", server.url, "--json") as program,
    ):
        status, action = f"{PREFIX}devices/MG2/ess/status", f"{PREFIX}agents/MG2/action"
        watcher.wait_seen(action, lambda m: m["step"] >= 3)
        (battery,) = [p for p in program.descendants() if _name(p.pid) == "MG2/ess"]
        battery.kill()
        watcher.wait_seen(status, lambda m: m["state"] == "offline")
        fallback = watcher.wait_seen(action, lambda m: "fallback_ess" in m)
        done = program.wait()
    assert done.code == 0, done.err
    assert done.result["steps"] == 40
    assert 0 < done.result["fallbacks"] < 40
    assert fallback["fallback_ess"]
    assert "device MG2/ess ended by itself with signal 9" in done.err
    assert all(isinstance(reward, float) for reward in done.result["rewards"].values())


@pytest.mark.slow
def test_foreign_rubbish_is_counted_and_disturbs_nobody(small: Path, server: Mosquitto) -> None:
    """Whatever else publishes below our topics: it is named, dropped, and the run earns the same."""
    paced = ["--steps", str(STEPS), "--realtime", "0.3", "--broker", server.url, "--json"]
    with Watcher(server.url) as watcher, heron("run", str(small), *paced) as program:
        watcher.wait_seen(f"{PREFIX}agents/MG1/action")
        publish(server.url, f"{PREFIX}agents/MG1/action", "no json at all")
        publish(server.url, f"{PREFIX}agents/MG1/observation", {"type": "observation", "dt_s": "long"})
        publish(server.url, f"{PREFIX}devices/MG1/ess/telemetry", {"type": "telemetry"})
        done = program.wait()
    assert done.code == 0, done.err
    assert "Traceback" not in done.err
    assert done.result["messages"]["rejected"] == 3
    for place in ("small/agents/MG1/action", "agents/MG1/observation", "devices/MG1/ess/telemetry"):
        assert f"{place}: " in done.err, place
    assert done.result["rewards"] == pytest.approx(centralized().result["rewards"], abs=1e-9)


def _name(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text(errors="replace").strip()
