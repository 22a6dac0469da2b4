"""A bridge whose process stands still, whose clock jumps, whose machine sleeps: plain paho, and a box.

With a clock by hand, quickly, in ``unit/field/vendor/test_vendor_device.py``:
``test_a_setpoint_that_waited_over_a_suspend_reaches_no_box_after_its_lease`` and the test after it; also
``unit/field/device/test_lease.py``.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import signal
import struct
import subprocess
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from heron_mqtt.testing.faults.program_faults import why_no_clock, with_moved_clock
from support.bridge_bench import MODE, WATTS, Bench, bridge_bench
from support.heron_command import heron, until
from support.mosquitto_server import Mosquitto
from support.observer import Observer
from support.safety_runs import run, write
from support.scripted_box import ScriptedBox
from support.sunspec_server import DER, EmulatedInverter

pytestmark = pytest.mark.slow
LEASE_S = 1.0
FRESH = {"HERON_FRESH_PROCESSES": "1"}  # a library that is loaded first needs a process of its own
SLEEP = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

static volatile long long *slept_s;

__attribute__((constructor)) static void begin(void) {
    int file = open(getenv("SLEPT"), O_RDONLY);
    slept_s = mmap(0, 8, PROT_READ, MAP_SHARED, file, 0);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int failed = real(clock, now);
    if (!failed && clock == CLOCK_BOOTTIME) now->tv_sec += *slept_s;
    return failed;
}
"""


@pytest.fixture
def bench(mosquitto: Mosquitto, env_id: str, tmp_path: Path) -> Iterator[Bench]:
    with bridge_bench(mosquitto.url, env_id, tmp_path) as bench:
        yield bench


def drive(bench: Bench, p_mw: float, lease_s: float = LEASE_S) -> None:
    """Set the box as a gateway does, with an echo of the newest telemetry."""
    bench.online()
    bench.set(p_mw, lease_s, **bench.heard())
    until(lambda: bench.box[MODE] == 2 and bench.box[WATTS] == round(p_mw * 1e6), "the box is driven")


def handed_back(bench: Bench, within_s: float) -> None:
    until(lambda: bench.box[MODE] == 0, "the box is handed back", within_s)


@pytest.mark.parametrize("seed", range(5))
def test_setpoints_that_waited_for_a_paused_bridge_move_nothing_and_the_box_is_handed_back(
    bench: Bench, seed: int
) -> None:
    rng = random.Random(seed)
    with bench.bridge() as program:
        drive(bench, 0.002)
        time.sleep(rng.uniform(0.0, 0.5))  # anywhere between two readings of the box
        echo = bench.heard()
        program.signal(signal.SIGSTOP)
        for p_mw, more in ((0.003, {}), (0.002, {"renewal": True}), (0.0025, {"take_over": True})):
            bench.set(p_mw, LEASE_S, **echo, **more)
        time.sleep(LEASE_S + rng.uniform(0.1, 1.0))
        bench.box.requests.clear()
        program.signal(signal.SIGCONT)
        handed_back(bench, LEASE_S)
        bench.online()
        told = [words[0] for address, words in bench.box.writes() if address == WATTS]
        assert told in ([], [0]), "nothing that waited is told to the box, nor is it renewed"
        drive(bench, 0.001)  # it serves again


@pytest.mark.skipif(bool(why_no_clock()), reason=why_no_clock())
def test_a_lease_is_as_long_whatever_the_wall_clock_does(bench: Bench, tmp_path: Path) -> None:
    clock = tmp_path / "clock"
    with bench.bridge(environment={**FRESH, **with_moved_clock(clock)}):
        for day_s in (86_400, -86_400):
            drive(bench, 0.002, 3.0)
            clock.write_text(f"{day_s:+d}")
            bench.online()
            assert bench.box[MODE] == 2, "the lease goes on"
            handed_back(bench, 4.0)


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler: cc missing (Debian: apt install gcc)")
def test_a_lease_that_expired_during_a_suspend_is_over_when_the_machine_wakes(
    bench: Bench, tmp_path: Path
) -> None:
    """As the program sees it: of its clocks only that one has gone on which counts sleep."""
    slept, source, library = tmp_path / "slept", tmp_path / "sleep.c", tmp_path / "sleep.so"
    slept.write_bytes(struct.pack("q", 0))
    source.write_text(SLEEP)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    with bench.bridge(environment={**FRESH, "LD_PRELOAD": str(library), "SLEPT": str(slept)}):
        drive(bench, 0.002, 60.0)
        echo = bench.heard()
        with slept.open("r+b") as file:
            file.write(struct.pack("q", 120))
        handed_back(bench, 15.0)
        bench.says(safe=True)
        assert bench.telemetry[-1].json["safe_after_s"] >= 120.0
        bench.set(0.003, 60.0, **echo)
        until(lambda: "stale" in str([m.json.get("rejected") for m in bench.telemetry]), "it is refused")
        assert bench.box[MODE] == 0
        drive(bench, 0.001)


async def test_a_sunspec_bridge_that_was_paused_follows_no_setpoint_that_waited_and_holds_zero(
    mosquitto: Mosquitto, env_id: str
) -> None:
    inverter = await EmulatedInverter(DER).start()  # its own timer does not run here
    words = ["device", "sunspec_bridge", "--agent", "MG1", "--name", "ess", "--env-id", env_id]
    words += ["--broker", mosquitto.url, "--modbus", f"127.0.0.1:{inverter.port}", "--period", "0.2"]
    at = f"heron/{env_id}/devices/MG1/ess/setpoint"

    def watts() -> tuple[int, int]:
        return inverter[704, "WSet"], inverter[704, "WSetEna"]

    def attack() -> None:
        with Observer(mosquitto.url, [f"heron/{env_id}/#"]) as observer, heron(*words) as program:

            def echo() -> dict[str, object]:
                newest = observer.on("MG1/ess/telemetry")[-1].json
                return {"heard_boot": newest["boot"], "heard_seq": newest["seq"], "lease_s": LEASE_S}

            for seed in range(3):
                rng, known = random.Random(seed), len(observer.on("MG1/ess/telemetry"))
                observer.wait("it speaks", lambda known=known: len(observer.on("MG1/ess/telemetry")) > known)
                observer.publish(at, {"p_mw": 0.003, **echo()})
                until(lambda: watts() == (3000, 1), "the inverter is driven")
                heard = echo()
                program.signal(signal.SIGSTOP)
                observer.publish(at, {"p_mw": 0.004, **heard})
                observer.publish(at, {"p_mw": 0.003, "renewal": True, **heard})
                time.sleep(LEASE_S + rng.uniform(0.1, 1.0))
                assert watts() == (3000, 1), "nobody is left to count its lease"
                told = len(inverter.writes())
                program.signal(signal.SIGCONT)
                until(lambda: watts() == (0, 1), "the inverter holds zero", 2.0)
                written = [words for _, words in inverter.writes()[told:]]
                assert not any(4000 in words for words in written), "what waited is told to nobody"

    try:
        await asyncio.to_thread(attack)
    finally:
        await inverter.stop()


@pytest.mark.parametrize("seed", range(2))
def test_a_run_that_was_paused_hands_its_box_back_before_it_drives_it_again(
    mosquitto: Mosquitto, env_id: str, tmp_path: Path, seed: int
) -> None:
    """A vendor's device of a run: its adapter stands still with the run, and its lease of 1 s goes on."""
    box = ScriptedBox(mosquitto.url, f"plant/{env_id}")
    real = {
        "authority": "full",
        "mapping": tomllib.loads(box.mapping(tmp_path).read_text()),
        "gateway": {"gate_steps": 2},
    }
    file = write(tmp_path, real, env_id=env_id)
    with box, run(file, mosquitto.url) as program:
        until(lambda: box.told and box.told[-1][0].endswith("/set"), "the box is driven", 30.0)
        time.sleep(random.Random(seed).uniform(0.0, 0.5))
        program.signal(signal.SIGSTOP)
        time.sleep(2.0 * LEASE_S)
        told = len(box.told)
        program.signal(signal.SIGCONT)
        until(lambda: len(box.told) > told + 1, "it goes on", 20.0)
        assert box.told[told][0].endswith("/mode"), "the lease was over: it is handed back first"
        until(lambda: box.told[-1][0].endswith("/set"), "it is driven again")


def test_the_successor_of_a_run_that_was_paused_drives_its_box_whatever_that_one_says_when_it_goes_on(
    mosquitto: Mosquitto, env_id: str, tmp_path: Path
) -> None:
    """Its connection is lost meanwhile: it says its will, and goes on to measure before it is displaced.

    Quick counterpart: ``unit/field/gateway/test_device_link.py``, a displaced program that speaks once more.
    """
    box = ScriptedBox(mosquitto.url, f"plant/{env_id}")
    real = {
        "authority": "full",
        "mapping": tomllib.loads(box.mapping(tmp_path).read_text()),
        "gateway": {"gate_steps": 2, "stale_after_s": 2.0},
    }
    file = write(tmp_path, real, env_id=env_id, steps=4000, **{"broker.keepalive_s": 2})

    def is_driven(since: int) -> bool:
        return len([topic for topic, _ in box.told[since:] if topic.endswith("/set")]) > 3

    with (
        box,
        Observer(mosquitto.url, [f"heron/{env_id}/#"]) as observer,
        run(file, mosquitto.url) as first,
    ):
        until(lambda: is_driven(0), "the box is driven", 30.0)
        first.signal(signal.SIGSTOP)
        observer.wait("its will", lambda: observer.on("MG1/ess/status")[-1].json["state"] == "offline")
        count = len(box.told)
        with run(file, mosquitto.url, "--take-over"):
            until(lambda: is_driven(count), "its successor drives", 30.0)
            first.signal(signal.SIGCONT)
            assert first.wait().code == 3
            count = len(box.told)
            until(lambda: is_driven(count), "it drives on", 20.0)
