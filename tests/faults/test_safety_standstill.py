"""A gateway that stood still reads what waits in its socket before it drives on; seen from outside."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.heron_command import Program
from support.observer import Observer, PlainDevice
from support.safety_runs import LEASE_S, on_mosquitto, proxy, run, until_driven, write

ESTOP, ESS = "heron/small/estop", "heron/small/devices/MG1/ess"


@contextmanager
def standing_still(program: Program, for_s: float) -> Iterator[list[float]]:
    """Stop a program for a time; what is done in the block comes meanwhile. Yields when it went on."""
    went_on: list[float] = []
    os.killpg(program.pid, signal.SIGSTOP)
    begun = time.monotonic()
    try:
        yield went_on
        time.sleep(max(0.0, begun + for_s - time.monotonic()))
    finally:
        went_on.append(time.monotonic())
        os.killpg(program.pid, signal.SIGCONT)


@on_mosquitto
def test_what_comes_while_a_gateway_stands_still_is_read_before_it_drives_on(
    tmp_path: Path, url: str
) -> None:
    """For less than a lease: a renewal is due when it goes on, and what it is read from has come, too."""
    short_s = 0.45 * LEASE_S
    scenario = write(tmp_path, **{"microgrids.MG1.remote": True})
    with (
        Observer(url) as observer,
        PlainDevice(url, "small", judges_age=False) as device,
        proxy(scenario, url) as gateway,
        run(scenario, url) as environment,
    ):
        until_driven(observer, device)
        for n in range(2):
            with standing_still(gateway, short_s) as went_on:
                observer.publish(ESTOP, {"active": True, "boot": "desk", "seq": 2 * n})
            time.sleep(0.5 * LEASE_S)
            assert observer.driving(after=went_on[0]) == [], "a stop"
            released = time.monotonic()
            observer.publish(ESTOP, {"active": False, "boot": "desk", "seq": 2 * n + 1})
            observer.wait("it is driven again", lambda at=released: len(observer.driving(after=at)) > 3)
        hand = {"type": "take", "p_mw": 0.0, "for_s": 60.0, "who": "t", "boot": "t"}
        with standing_still(gateway, short_s) as went_on:
            observer.publish(f"{ESS}/take", {**hand, "seq": 0})
        time.sleep(0.5 * LEASE_S)
        assert observer.driving(after=went_on[0]) == [], "a hand that asks for nothing"
        given_back = time.monotonic()
        observer.publish(f"{ESS}/take", {**hand, "for_s": 0.0, "seq": 1})
        observer.wait("its agent drives it", lambda: len(observer.driving(after=given_back)) > 3)
        with standing_still(gateway, short_s) as went_on:
            environment.process.kill()
            observer.wait("its will", lambda: observer.on("run/state")[-1].json["state"] == "lost")
        time.sleep(0.5 * LEASE_S)
        assert observer.driving(after=went_on[0]) == [], "the end of the environment"
        with run(scenario, url):
            observer.wait(
                "it is driven for the next one", lambda: len(observer.driving(after=went_on[0])) > 3
            )
            request = {"type": "authority_request", "level": "shadow", "who": "t", "boot": "t", "seq": 0}
            with standing_still(gateway, short_s) as went_on:
                observer.publish(f"{ESS}/authority", request)
            time.sleep(0.5 * LEASE_S)
            assert observer.driving(after=went_on[0]) == [], "a demotion"
