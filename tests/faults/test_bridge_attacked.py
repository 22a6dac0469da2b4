"""The bridge to a device by its registers, attacked from outside: plain paho on one side, a box on the other.

The box has a control of its own (2.1 kW) that it falls back to, and knows no bounds but its registers'.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.bridge_bench import MODE, RATED_W, WATTS, Bench, bridge_bench
from support.heron_command import run_heron, until
from support.mosquitto_server import Mosquitto
from support.observer import Observer


@pytest.fixture
def bench(mosquitto: Mosquitto, env_id: str, tmp_path: Path) -> Iterator[Bench]:
    with bridge_bench(mosquitto.url, env_id, tmp_path) as bench:
        yield bench


@pytest.mark.slow
def test_a_bridge_of_another_environment_ends_before_it_has_said_anything_to_the_box(bench: Bench) -> None:
    with Observer(bench.url, ["heron/another/#"]) as other, bench.bridge() as first:
        bench.online()
        bench.set(0.002)
        until(lambda: bench.box[MODE] == 2, "the box is driven")
        with bench.bridge("--env-id", "another") as second:
            ended = second.wait()
        assert ended.code == 1
        (line,) = ended.errors
        assert f"unit 1: environment '{bench.env_id[:16]}' drives it already, by process" in line
        assert other.seen == []
        bench.set(0.001)
        until(lambda: bench.box[WATTS] == 1000, "the first one goes on")
        first.signal(signal.SIGKILL)
        first.wait()
        with bench.bridge("--env-id", "another"):
            other.wait("the other one serves it", lambda: other.on("MG1/ess/telemetry"))


@pytest.mark.slow
@pytest.mark.parametrize("environment", ["its own", "another"])
def test_a_probe_writes_nothing_to_a_box_that_a_bridge_of_this_machine_may_drive(
    bench: Bench, environment: str
) -> None:
    env_id = bench.env_id if environment == "its own" else "another"
    words = ["probe", "--broker", bench.url, "--mapping", str(bench.mapping), "--env-id", env_id, "--yes"]
    words += ["--modbus", f"127.0.0.1:{bench.box.port}", "--device", "MG9/box", "--send", "0.5kW"]
    words += ["--for", "2.5s", "--listen", "1"]
    with bench.bridge():
        bench.online()
        refused = run_heron(*words)
        (line,) = refused.errors
        assert (refused.code, bench.box.writes()) == (1, [])
        assert f"unit 1: environment '{bench.env_id[:16]}' drives it already, by process" in line
    assert run_heron(*words).code in {0, 1}
    assert bench.box.writes() != [], "left alone, the box is tried"


def test_no_setpoint_drives_a_box_beyond_its_nameplate(bench: Bench) -> None:
    with bench.bridge():
        bench.online()
        for asked_mw in (0.02, 0.5, 1e300, -7.0):
            bench.set(asked_mw, take_over=True)
            told = RATED_W if asked_mw > 0 else -RATED_W & 0xFFFF
            until(lambda told=told: bench.box[WATTS] == told, f"{asked_mw} MW is clipped")
        written = [words[0] for address, words in bench.box.writes() if address == WATTS]
        assert set(written) <= {RATED_W, -RATED_W & 0xFFFF}


def test_a_stop_that_the_box_refuses_is_safe_nowhere_until_it_is_taken(bench: Bench) -> None:
    with bench.bridge():
        bench.online()
        bench.set(0.002)
        until(lambda: bench.box[MODE] == 2, "the box is driven")
        bench.box.lies.refuse = {MODE: 4, WATTS: 4}
        bench.stop(active=True)
        bench.says(stopped=True, safe=False)
        until(lambda: bench.confirmed() == [False] * len(bench.confirmed()) != [], "it is not confirmed")
        bench.box.lies.refuse = {}
        until(lambda: bench.box[WATTS] == 0, "it is told again", within_s=3.0)
        bench.says(stopped=True, safe=True, p_mw=0.0)
        assert bench.confirmed()[-1] is True


@pytest.mark.slow
def test_a_box_that_leaves_the_stop_by_itself_is_not_safe_and_is_brought_back(bench: Bench) -> None:
    """Quickly: the test of the same name in ``unit/field/vendor/test_modbus_device.py``."""
    with bench.bridge():
        bench.online()
        bench.set(0.002)
        until(lambda: bench.box[MODE] == 2, "the box is driven")
        bench.stop(active=True)
        bench.says(stopped=True, safe=True, p_mw=0.0)
        bench.box.falls_back()
        bench.says(stopped=True, safe=False)
        until(lambda: bench.box[MODE] == 2, "it is told again", within_s=15.0)
        bench.says(stopped=True, safe=True, p_mw=0.0)
        assert bench.confirmed()[-1] is True


@pytest.mark.slow
def test_a_box_that_restarts_in_a_stop_is_told_of_it_again(bench: Bench) -> None:
    with bench.bridge():
        bench.online()
        bench.set(0.002)
        until(lambda: bench.box[MODE] == 2, "the box is driven")
        bench.stop(active=True)
        bench.says(stopped=True, safe=True)
        bench.thread.stop()
        bench.box.falls_back()
        bench.box.put(0, 10, area="input")  # next to nothing: what it says does not tell
        bench.thread.start()
        until(lambda: bench.box[MODE] == 2, "it is told again", within_s=15.0)


def test_what_a_killed_bridge_left_driven_is_handed_back_by_the_next(bench: Bench) -> None:
    with bench.bridge() as first:
        bench.online()
        bench.set(0.002, 3600.0)
        until(lambda: bench.box[MODE] == 2, "the box is driven")
        first.signal(signal.SIGKILL)
        first.wait()
    with bench.bridge() as second:
        bench.online()
        until(lambda: bench.box[MODE] == 0, "it is handed back")
        second.signal(signal.SIGTERM)
        second.wait()
    bench.box.requests.clear()
    with bench.bridge():  # that one ended in order: nothing is owed
        bench.online()
        bench.online()
        assert bench.box.writes() == []


@pytest.mark.slow
def test_a_stop_reaches_a_box_that_this_bridge_has_told_nothing(bench: Bench) -> None:
    with bench.bridge():
        bench.online()
        bench.stop(active=True)
        until(lambda: bench.box[MODE] == 2 and bench.box[WATTS] == 0, "the box is at 0")
        bench.says(stopped=True, safe=True, p_mw=0.0)
        bench.stop(active=False)
        until(lambda: bench.box[MODE] == 0, "it is handed back")


def test_a_box_in_shadow_is_written_nothing_and_confirms_no_stop_while_it_has_power(bench: Bench) -> None:
    shadow = {"type": "authority_state", "level": "shadow"}
    bench.observer.publish(f"heron/{bench.env_id}/devices/MG1/ess/authority_state", shadow, retain=True)
    with bench.bridge():
        bench.online()
        bench.stop(active=True)
        bench.says(stopped=True, safe=False)
        assert not any(bench.confirmed())
        bench.box.put(0, 0, area="input")
        until(lambda: bench.confirmed()[-1:] == [True], "it is at 0 by itself")
        assert bench.box.writes() == []


@pytest.mark.slow
def test_a_bridge_that_could_not_hand_its_box_back_does_not_end_as_if_it_had(bench: Bench) -> None:
    with bench.bridge() as program:
        bench.online()
        bench.set(0.002)
        until(lambda: bench.box[MODE] == 2, "the box is driven")
        bench.box.lies.refuse = {MODE: 4, WATTS: 4}
        program.signal(signal.SIGTERM)
        ended = program.wait()
    assert ended.code == 1
    assert "MG1/ess: it was not handed back" in ended.err


@pytest.mark.parametrize("keeps", ["the setpoint", "something else"])
def test_a_bridge_whose_box_acknowledges_the_hand_back_and_ignores_it_says_so(
    bench: Bench, keeps: str
) -> None:
    with bench.bridge() as program:
        bench.online()
        bench.set(0.002)
        until(lambda: bench.box[MODE] == 2, "the box is driven")
        bench.box.lies.forgets = {MODE, WATTS}
        if keeps != "the setpoint":  # as registers that are not read as they were written
            bench.box.put(MODE, 7, 7)
        program.signal(signal.SIGTERM)
        ended = program.wait()
    last = ended.err.splitlines()[-1]
    if keeps == "the setpoint":
        assert ended.code == 1
        held = "mode, watts: the device holds 0002 07d0 where 0000 0000 was written, as before"
        assert f"it has acknowledged its release, but {held}" in ended.err
        assert "MG1/ess: it was not handed back" in last
    else:
        assert ended.code == 0
        held = "mode, watts: the device holds 0007 0007 where 0000 0000 was written"
        said = "it has acknowledged that it is handed back, which its registers do not show"
        assert last.endswith(f"MG1/ess: {said}: {held}")


@pytest.mark.slow_but("0")
@pytest.mark.parametrize("left_w", [0, 2_100], ids=str)
def test_a_bridge_that_ends_in_a_stop_says_whether_its_box_is_at_0(bench: Bench, left_w: int) -> None:
    """With power, quickly: ``test_at_its_end_in_a_stop_it_says_...`` in ``unit/field/vendor``."""
    with bench.bridge() as program:
        bench.online()
        bench.set(0.002)
        until(lambda: bench.box[MODE] == 2, "the box is driven")
        bench.box.on_write = lambda _address, _word: bench.box.put(0, left_w, area="input")
        bench.stop(active=True)
        bench.says(stopped=True, safe=left_w == 0, p_mw=left_w / 1e6)
        program.signal(signal.SIGTERM)
        ended = program.wait()
    assert bench.box[MODE] == 2, "it is not handed back"
    assert ended.code == (1 if left_w else 0)
    gave = "an emergency stop is in force, and it gave 2.1 kW when it was measured last"
    at_zero = "the device stays at 0 and is not handed back (0 kW when it was measured last)"
    assert ended.err.splitlines()[-1].endswith(f"MG1/ess: {gave}" if left_w else at_zero)
