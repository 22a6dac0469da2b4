"""EnvironmentWatch: which environment is served, and what counts as a sign of life."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from typing import Any

import pytest

from heron_mqtt.field.gateway.environment_watch import EnvironmentWatch
from heron_mqtt.field.gateway.pause_detector import PauseDetector
from heron_mqtt.field.steady_clock import steady_s
from support.field_rig import OpenMemoryBroker
from support.virtual import run_virtual, virtual_now

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

    def owner(self, boot: str | None, state: str = "holds", **fields: Any) -> None:
        message = {"type": "owner", "state": state, "boot": boot, "sender": "so"}
        self.broker.publish("run/owner", {**message, **fields})


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


async def test_for_a_moment_after_a_pause_it_is_known_and_not_longer() -> None:
    now = [0.0]
    pause = PauseDetector(lambda: now[0])
    for now_s, is_recent in ((9.0, False), (0.0, False)):
        now[0] = now_s
        assert pause.is_recent() is is_recent, "nobody has started it"
    pause.start()
    for now_s, is_recent in (
        (0.0, False),
        (0.8, False),  # no longer than a busy loop takes
        (2.0, True),
        (2.29, True),
        (2.0 + 0.3, False),
        (2.75, False),
    ):
        now[0] = now_s
        assert pause.is_recent() is is_recent, now_s
    pause.stop()
    now[0] = 60.0
    assert not pause.is_recent()
    pause.start()
    assert not pause.is_recent(), "it was not watched meanwhile"
    pause.stop()


def test_a_loop_that_goes_on_has_not_paused_and_a_pause_is_noticed_though_nobody_asks() -> None:
    async def main() -> None:
        stood_still_s = [0.0]
        pause = PauseDetector(lambda: virtual_now() + stood_still_s[0])
        pause.start()
        for _ in range(50):
            await asyncio.sleep(0.19)
            assert not pause.is_recent()
        stood_still_s[0] = 5.0
        await asyncio.sleep(0.21)
        assert pause.is_recent()
        await asyncio.sleep(0.3)
        assert not pause.is_recent()
        pause.stop()

    run_virtual(main())


@pytest.mark.parametrize("stood_still_s", [0.26, 0.9])
async def test_after_a_standstill_what_waits_is_read_before_anything_is_sent(stood_still_s: float) -> None:
    loop, order = asyncio.get_running_loop(), list[str]()
    pause = PauseDetector.of_running_loop()
    pause.start()
    try:
        began_at = loop.time()
        await pause.caught_up()
        assert loop.time() - began_at < 0.04, "it does not wait where nothing has waited"
        end, far_end = socket.socketpair()
        with end, far_end:
            end.setblocking(False)
            loop.add_reader(end, lambda: (end.recv(99), order.append("read")))
            await asyncio.sleep(0)
            sending = asyncio.create_task(pause.caught_up(), name="sending")
            sending.add_done_callback(lambda _: order.append("sent"))
            far_end.send(b"stop")
            time.sleep(stood_still_s)
            await sending
            loop.remove_reader(end)
        await asyncio.sleep(0)
        assert order == ["read", "sent"]
    finally:
        pause.stop()


def test_a_slow_machine_is_no_standstill_in_virtual_time() -> None:
    async def main() -> None:
        pause = PauseDetector.of_running_loop()
        pause.start()
        for _ in range(3):
            time.sleep(0.3)
            began_at = virtual_now()
            await pause.caught_up()
            assert virtual_now() == began_at
            await asyncio.sleep(0.2)
        pause.stop()

    run_virtual(main())


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
    site.now_s += LEASE_S - 0.5
    assert not site.watch.may_begin("e2")
    site.now_s += 0.6
    assert site.watch.may_begin("e2")
    site.watch.close()


async def test_before_an_episode_nothing_may_be_sent_and_nothing_is_a_sign_of_life() -> None:
    site = Watched()
    await site.watch.open()
    site.state(seq=1)
    assert site.watch.left_s == 0.0
    assert site.watch.why_silent == "the environment has been silent for longer than 3 s"
    assert site.watch.is_served("anyone")
    site.state("lost", seq=2)
    assert site.ends == [], "none was served"
    site.watch.close()


async def test_the_first_number_of_an_environment_is_0_and_each_environment_counts_for_itself() -> None:
    site = await Watched().serving()
    site.now_s += 2.0
    site.state(seq=0)
    assert site.watch.left_s == LEASE_S
    site.state(seq=1)
    site.watch.serve("e1")  # another episode: the numbers go on
    site.now_s += 2.0
    site.state(seq=1)
    assert site.watch.left_s == pytest.approx(1.0)
    site.watch.serve("e2")
    site.now_s += 2.0
    site.state(seq=0, boot="e2")
    assert site.watch.left_s == LEASE_S
    site.watch.close()


async def test_what_the_broker_kept_is_no_sign_of_life_and_a_kept_end_is_one() -> None:
    site = await Watched().serving()
    heard: list[tuple[str, bool]] = []
    site.watch.on_state = lambda state, retained: heard.append((state.state, retained))
    site.watch.close()
    site.broker.publish(
        "run/state",
        {"type": "run_state", "state": "running", "boot": "e1", "sender": "so", "episode": 1, "seq": 4},
        retain=True,
    )
    site.now_s += 2.0
    await site.watch.open()
    assert heard == [("running", True)]
    assert site.watch.left_s == pytest.approx(1.0)
    site.watch.close()
    site.broker.publish(
        "run/state", {"type": "run_state", "state": "lost", "boot": "e1", "sender": "so"}, retain=True
    )
    await site.watch.open()
    assert site.watch.left_s == 0.0
    site.watch.close()


async def test_a_watch_that_is_closed_hears_nothing_more() -> None:
    site = await Watched().serving()
    site.watch.close()
    site.watch.close()
    site.state("lost")
    assert site.ends == []
    assert not site.watch.has_just_paused


async def test_messages_of_another_environment_name_are_counted() -> None:
    site = await Watched().serving()
    site.state(seq=1)
    assert site.watch.foreign == 0
    site.state("lost", env_id="another")
    site.state("running", seq=2, env_id="another")
    assert site.watch.foreign == 2
    site.state("running", seq=2, env_id="env")
    assert (site.watch.foreign, site.ends) == (2, [])
    site.watch.close()


@pytest.mark.parametrize(
    ("fields", "by"),
    [({"who": "ann@lab", "sender": "so"}, "ann@lab"), ({}, "so"), ({"sender": None}, "another one")],
)
async def test_who_has_replaced_an_environment_is_said_once(fields: dict[str, Any], by: str) -> None:
    site = await Watched().serving()
    site.owner("e2", **fields)
    assert site.ends == [f"the environment was replaced by {by}"]
    assert site.watch.why_silent == site.ends[0]
    site.watch.close()


async def test_an_end_without_a_boot_is_of_the_environment_that_is_served() -> None:
    site = await Watched().serving()
    site.state("lost", boot=None)
    assert site.watch.left_s == 0.0
    site.watch.close()


async def test_a_name_that_is_given_back_by_its_owner_is_nobodys() -> None:
    site = Watched()
    await site.watch.open()
    site.owner("e1")
    assert [site.watch.may_begin(boot) for boot in ("e1", "e2", None)] == [True, False, True]
    site.owner("e2", "free")
    assert not site.watch.may_begin("e2"), "it was not the owner"
    site.owner("e1", "free")
    assert site.watch.may_begin("e2")
    site.watch.close()


async def test_an_environment_that_holds_its_name_is_followed_at_once_and_one_that_does_not_is_not() -> None:
    site = await Watched().serving()
    assert [site.watch.may_begin(boot) for boot in ("e1", None)] == [True, False]
    site.now_s += LEASE_S
    assert site.watch.may_begin("e2"), "nothing is left, to the moment"
    site.watch.serve("e1")
    site.owner("e1")
    site.now_s += 2 * LEASE_S
    assert not site.watch.may_begin("e2"), "e1 holds it, however silent it is"
    site.watch.close()


async def test_a_sign_of_life_is_dated_by_the_watchs_own_clock_whichever_looks_for_pauses() -> None:
    site = Watched()
    await site.watch.open()
    site.watch.serve("e1")
    site.now_s += 1.0
    assert site.watch.heard("e1", ("a", 0))
    assert site.watch.left_s == LEASE_S, "the detector of pauses reads another clock"
    site.watch.close()
    watch = EnvironmentWatch("MG1", OpenMemoryBroker(), "lab", lease_s=1_000.0, on_end=lambda _: None)
    await watch.open()
    watch.serve("e1")
    served_s, before_s = watch.left_s, steady_s()
    assert watch.heard("e1", ("a", 0))
    assert 1_000.0 - (steady_s() - before_s) <= watch.left_s <= 1_000.0, "one reading for both"
    assert watch.left_s >= served_s - (steady_s() - before_s)
    watch.close()


async def test_what_follows_in_number_on_its_channel_is_a_sign_of_life() -> None:
    site = Watched()
    for boot, number in (("e9", ("a", None)), (None, None), ("e9", ("a", 3)), ("e9", ("a", 3))):
        site.now_s += 1.0
        assert site.watch.heard(boot, number), "nobody is served: there is nothing to compare with"
        assert site.watch.left_s == LEASE_S
    site.watch.serve("e1")
    for boot, number, is_sign in (
        ("e1", ("a", 0), True),
        ("e1", ("a", 0), False),
        ("e1", ("a", 2), True),
        ("e1", ("a", 1), False),
        ("e1", ("a", None), False),
        ("e1", ("b", 0), True),
        ("e2", ("a", 9), False),
        (None, ("a", 9), False),
        ("e1", None, True),
    ):
        site.now_s += 1.0
        before = site.watch.left_s
        assert site.watch.heard(boot, number) is is_sign
        assert site.watch.left_s == (LEASE_S if is_sign else before)
    site.watch.serve("e1")
    assert not site.watch.heard("e1", ("a", 2)), "another episode: the numbers go on"
    site.watch.serve("e2")
    assert site.watch.heard("e2", ("a", 2)), "another environment counts for itself"
    await site.watch.open()
    assert site.watch._pause is not None
    site.watch._pause._distrust_until = site.watch._pause._monotonic() + 60.0
    assert not site.watch.heard("e2", ("a", 3))
    site.watch.close()


async def test_pauses_are_looked_for_while_somebody_watches() -> None:
    def ticking() -> int:
        return sum(task.get_name() == "pause detector" for task in asyncio.all_tasks())

    site = await Watched().serving()
    await site.watch.open()
    assert ticking() == 1
    site.watch.close()
    await asyncio.sleep(0)
    assert ticking() == 0


async def test_an_end_is_logged_once_as_a_warning_and_that_of_a_finished_run_as_news(
    caplog: pytest.LogCaptureFixture,
) -> None:
    for state, level in (("lost", "WARNING"), ("finished", "INFO")):
        site = await Watched().serving()
        caplog.clear()
        with caplog.at_level(logging.INFO, "heron_mqtt.gateway"):
            site.state(state)
            said = f"MG1: the environment is {state}: nothing is sent or renewed"
            assert [(line.levelname, line.getMessage()) for line in caplog.records] == [(level, said)]
            site.state(state, boot=None)
            assert len(caplog.records) == 1
        site.watch.close()


async def test_a_message_counts_that_is_by_hand_or_of_the_environment_that_is_served() -> None:
    site = await Watched().serving()
    assert [site.watch.is_served(boot) for boot in ("e1", None, "e2")] == [True, True, False]
    site.watch.close()


@pytest.mark.parametrize("owner", [None, "e1"])
async def test_an_environment_whose_end_was_said_too_early_says_itself_that_it_lives(
    owner: str | None,
) -> None:
    site = await Watched().serving()
    if owner is not None:
        site.owner(owner)
    site.state("lost")
    site.state(seq=1)
    assert site.watch.left_s == LEASE_S
    assert "silent" in site.watch.why_silent
    site.watch.close()


async def test_nothing_is_a_sign_of_life_just_after_this_process_stood_still() -> None:
    site = await Watched().serving()
    assert not site.watch.has_just_paused
    assert site.watch._pause is not None
    site.watch._pause._distrust_until = site.watch._pause._monotonic() + 60.0
    site.now_s += 2.0
    site.state(seq=1)
    assert site.watch.left_s == pytest.approx(1.0)
    site.watch.close()
