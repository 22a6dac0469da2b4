"""EnvironmentWatch: which environment is served, and what counts as a sign of life."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from heron_mqtt.field.gateway.environment_watch import EnvironmentWatch
from heron_mqtt.field.gateway.pause_detector import DISTRUST_S, PAUSE_S, PauseDetector
from support.field_rig import OpenMemoryBroker

LEASE_S = 3.0


class Watched:
    def __init__(self) -> None:
        self.now_s = 100.0
        self.ends: list[str] = []
        self.broker = OpenMemoryBroker()
        self.watch = EnvironmentWatch(
            "MG1", self.broker, "env", lease_s=LEASE_S, on_end=self.ends.append, monotonic=lambda: self.now_s
        )

    async def serving(self) -> Watched:
        await self.watch.open()
        self.watch.serve("e1")
        return self

    def state(self, state: str = "running", **fields: Any) -> None:
        message = {"type": "run_state", "state": state, "boot": "e1", "sender": "so", "episode": 1, "step": 0}
        self.broker.publish("run/state", {**message, **fields})

    def owner(self, boot: str, state: str = "holds") -> None:
        self.broker.publish("run/owner", {"type": "owner", "state": state, "boot": boot, "sender": "so"})


async def test_what_is_left_runs_down_without_a_sign_of_life_and_is_whole_again_with_one() -> None:
    site = await Watched().serving()
    assert site.watch.left_s == LEASE_S
    site.now_s += 2.0
    assert site.watch.left_s == pytest.approx(1.0)
    site.state(seq=1)
    assert site.watch.left_s == LEASE_S
    site.now_s += LEASE_S + 1.0
    assert site.watch.left_s == 0.0
    site.watch.close()


@pytest.mark.parametrize(
    "replay",
    [
        {"state": "reset"},  # presence has no number
        {"state": "running"},  # a number taken away
        {"state": "running", "seq": 4},  # one that was heard
        {"state": "running", "seq": 9, "boot": "another"},
        {"state": "running", "seq": 9, "env_id": "another"},
    ],
)
async def test_no_replay_is_a_sign_of_life(replay: dict[str, Any]) -> None:
    site = await Watched().serving()
    site.state(seq=5)
    site.now_s += 2.0
    site.state(**replay)
    assert site.watch.left_s == pytest.approx(1.0)
    site.watch.close()


async def test_what_is_read_just_after_a_pause_is_no_sign_of_life() -> None:
    now = [0.0]
    pause = PauseDetector(lambda: now[0])
    pause.start()
    assert not pause.is_recent()
    now[0] += PAUSE_S + 0.1
    assert pause.is_recent()
    now[0] += DISTRUST_S + 0.01
    assert not pause.is_recent()
    pause.stop()


async def test_all_who_watch_in_a_loop_share_one_clock_until_the_last_has_stopped() -> None:
    pause = PauseDetector.of_running_loop()
    assert PauseDetector.of_running_loop() is pause
    pause.start()
    pause.start()
    pause.stop()
    ticking = [task for task in asyncio.all_tasks() if task.get_name() == "pause detector"]
    assert len(ticking) == 1
    pause.stop()
    await asyncio.wait(ticking, timeout=5.0)
    assert ticking[0].cancelled()


@pytest.mark.parametrize("state", ["lost", "finished"])
async def test_an_end_counts_at_once_and_that_of_another_environment_does_not(state: str) -> None:
    site = await Watched().serving()
    site.state(state, boot="another")
    assert site.watch.left_s == LEASE_S
    site.state(state)
    assert site.watch.left_s == 0.0
    assert site.ends == [f"the environment is {state}"]
    site.state(seq=7)  # it says itself that it lives
    assert site.watch.left_s == LEASE_S
    site.watch.close()


async def test_an_environment_that_has_lost_its_name_is_served_no_more() -> None:
    site = await Watched().serving()
    site.owner("e1")
    assert not site.watch.may_begin("e2")
    site.owner("e2", "asks")
    assert site.watch.left_s == LEASE_S, "a question changes nothing"
    site.owner("e2")
    assert site.watch.left_s == 0.0
    assert site.watch.may_begin("e2")
    site.state(seq=8)
    assert site.watch.left_s == 0.0, "whatever it says"
    site.watch.close()


async def test_another_environment_is_followed_only_when_the_one_that_is_served_is_gone() -> None:
    site = await Watched().serving()
    assert not site.watch.may_begin("e2")
    site.now_s += LEASE_S + 0.1
    assert site.watch.may_begin("e2")
    site.watch.close()
