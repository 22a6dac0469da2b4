"""What a run counts is what an observer counts."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

from support.observer import Observer, PlainDevice
from support.safety_runs import DEADLINES, FULL, on_mosquitto, run, until_driven, write

STEPS = 90
AGENTS = ("MG1", "MG2", "MG3")
FROM_OUTSIDE = ("devices/MG1/ess/telemetry", "devices/MG1/ess/status", "estop")


class AwkwardDevice(PlainDevice):
    """Speaks only when told something, refuses every seventh setpoint, loses and repeats telemetry.

    Attributes:
        mood: ``""`` as above; ``silent`` it says and does nothing; ``unasked`` it says what it does and takes
            nothing; ``half`` it does half of it.
    """

    def __init__(self, url: str) -> None:
        self.rng = random.Random(3)
        self.told = self.rejected = self.lost = self.repeated = self.half = self.back = 0
        self.mood = ""
        self._was_away = False
        super().__init__(url, "small", period_s=1000.0)

    def _take(self, told: dict[str, Any]) -> None:
        if told.get("renewal") or told.get("release"):
            super()._take(told)
            return
        if self.mood in {"silent", "unasked"}:
            self._was_away = True
            if self.mood == "unasked":
                self.say()
            return
        if self.stopped and told["p_mw"] != 0.0:  # sent a moment before its gateway heard of the stop
            self._ack = {"ack_boot": told["boot"], "ack_seq": told["seq"]}
            self.say(rejected="emergency stop", stopped=True)
            return
        self.told += 1
        if self._was_away:  # whether a step still waits for this answer is chance: it is an ordinary one
            self.back += 1
            self._was_away = False
        elif self.told % 7 == 0:
            self.rejected += 1
            self._ack = {"ack_boot": told["boot"], "ack_seq": told["seq"]}
            self.say(rejected="locked")
            return
        elif self.mood == "half":
            self.half += 1
            told = {**told, "p_mw": 0.5 * told["p_mw"]}
        if self.told > 2 and self.rng.random() < 0.2:  # the number is used up, the message never comes
            self.seq += 1
            self.lost += 1
        super()._take(told)
        if self.rng.random() < 0.2:
            self.repeated += 1
            self.client.publish(f"{self.base}/telemetry", self.newest, qos=1)

    def burst(self, count: int) -> None:
        """Say the same so many times at once, each with a number of its own."""
        with self._lock:
            for _ in range(count):
                self.say()


@on_mosquitto
def test_what_a_run_counts_is_what_an_observer_counts(tmp_path: Path, url: str) -> None:
    ess = {**FULL, "gateway": {"gate_steps": 2, "max_rate_per_s": 40}}
    deadlines = {**DEADLINES, "device_s": 0.6, "ready_s": 15.0}  # no answer is late but those that never come
    scenario = write(tmp_path, ess, steps=STEPS, deadlines=deadlines)
    with Observer(url) as observer, run(scenario, url) as program:
        observer.wait("the agent listens", lambda: observer.on("agents/MG1/status"))
        with AwkwardDevice(url) as device:
            while not observer.driving() and program.process.poll() is None:
                device.say()  # a run that is slow to begin takes it for silent: longer than its lease
                time.sleep(0.3)
            until_driven(observer, device)
            foreign: list[dict[str, Any]] = [
                {"p_mw": 9.0},
                {"p_mw": 0.001},
            ]  # beyond the nameplate; no number
            for telemetry in foreign:
                observer.publish("heron/small/devices/MG1/ess/telemetry", telemetry)
            device.say(held_s=3.0)
            time.sleep(0.5)
            observer.publish("heron/small/estop", {"active": True, "who": "observer", "why": "counting"})
            time.sleep(0.5)
            observer.publish("heron/small/estop", {"active": False, "boot": "o", "seq": 1})
            device.mood = "silent"
            observer.wait("a model stands in", lambda: _steps_with(observer, "fallback_ess"))
            device.mood = "half"
            device.say()
            observer.wait("it does half", lambda: device.half > 3)
            device.mood = "unasked"
            observer.wait("what it says is used", lambda: len(_unasked(observer)) > 2)
            device.burst(100)
            last = device.seq
            observer.wait(
                "the burst", lambda: [m for m in observer.on("ess/telemetry") if m.json.get("seq") == last]
            )
            steps = len(observer.on("agents/MG1/action"))
            observer.wait(
                "steps after it",
                lambda: (
                    len(observer.on("agents/MG1/action")) > steps + 1 or program.process.poll() is not None
                ),
            )
            time.sleep(1.1)  # the rate is counted by the second; answers would be dropped with the rest
            device.mood = ""
            done = program.wait()
            said = device.seq + 1
    assert done.code == 0, done.err
    told = done.result
    counted = told["devices"]["MG1/ess"]
    setpoints = [m for m in observer.setpoints() if not m.json.get("renewal")]
    seen = {
        "setpoints": len(setpoints),
        "lost": device.lost,
        "duplicated": device.repeated,
        "rejected": device.rejected,
        "refused": len(foreign),
        "held": 1,
        "late": device.back,
        "deviations": device.half,
        "unacknowledged": len(_unasked(observer)),
        "fallbacks": len(_steps_with(observer, "fallback_ess")),
    }
    assert min(seen.values()) > 0
    assert {key: counted[key] for key in seen} == seen
    assert counted["flooded"] > 0
    assert counted["telemetry"] + counted["flooded"] + counted["held"] == said - device.lost
    assert (told["estop"]["who"], told["estop"]["active"]) == ("observer", False)
    missed = sum(m.json["missed"] for agent in AGENTS for m in observer.on(f"agents/{agent}/action"))
    assert told["deadline_misses"] == missed > 0
    messages = told["messages"]
    assert messages["published"] == len(_published(observer))
    assert (messages["lost"], messages["duplicated"]) == (device.lost, device.repeated)
    assert messages["rejected"] == 1, "of the foreign ones, the one that is wrong by itself"


@on_mosquitto
def test_a_number_that_lies_makes_no_losses(tmp_path: Path, url: str) -> None:
    with (
        Observer(url) as observer,
        PlainDevice(url, "small", period_s=1000.0) as device,
        run(write(tmp_path), url) as program,
    ):
        observer.wait("the agent listens", lambda: observer.on("agents/MG1/status"))
        for leap in (1, 1, 4, 804_726_914, 1, 3, 10**15, 1):
            device.seq += leap - 1
            device.say()
        observer.wait("it was heard", lambda: len(observer.on("MG1/ess/telemetry")) > 7)
        time.sleep(0.3)
        program.signal(2)
        done = program.wait()
    assert done.result["devices"]["MG1/ess"]["lost"] == 3 + 2


def _steps_with(observer: Observer, field: str, text: str = "") -> list[dict[str, Any]]:
    """Return the actions of MG1 in which a field has this text."""
    return [m.json for m in observer.on("agents/MG1/action") if field in m.json and text in m.json[field]]


def _unasked(observer: Observer) -> list[dict[str, Any]]:
    return _steps_with(observer, "bound_ess", "not acknowledged by the device")


def _published(observer: Observer) -> list[str]:
    """Return the topics of what the run has published, without its probes and its goodbyes.

    The name that it holds while it starts is free for a moment before the environment holds it: no goodbye.
    """
    freed = [m for m in observer.on("run/owner") if m.json.get("state") == "free" and not m.retained]
    found = ["run/owner"] * (len(freed) - 1)
    for message in observer.seen:
        topic, told = message.topic.removeprefix("heron/small/"), message.json
        is_goodbye = told.get("state") in {"finished", "offline", "free"} or told.get("release")
        is_ours = topic not in FROM_OUTSIDE and not topic.startswith("run/probe")
        if is_ours and not is_goodbye and not message.retained:
            found.append(topic)
    return found
