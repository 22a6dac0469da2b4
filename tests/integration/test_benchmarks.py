"""Every script of ``benchmarks/`` runs to its end, in its smallest form, and prints its rows."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from heron_mqtt.bench.processes import find_mosquitto

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "benchmarks"
LONGEST_S = 110.0
NUMBER = r" *-?[\d,]+(\.\d+)?"

ROWS: dict[str, list[str]] = {
    "env_step.py --rounds 1 --steps 4 --copies 2": [
        rf"^raw KLU solve{NUMBER} us",
        rf"^step, own policies{NUMBER} us",
        rf"^distributed, memory, sync{NUMBER} us",
        rf"^batched, 2 copies, a copy{NUMBER} us",
        rf"^single / batched, a copy{NUMBER}",
    ],
    "env_step.py --rounds 1 --steps 4 --parts": [
        rf"^power flow \(GridSimulation\.solve\){NUMBER} us",
        rf"^whole step{NUMBER} us +100%",
    ],
    "broker.py --rounds 1": [
        rf"^round trip QoS 1, median ms({NUMBER}){{4}}$",
        rf"^one way QoS 0, messages/s({NUMBER}){{4}}$",
        rf"^fan-out to 100 QoS 1, CPU us({NUMBER}){{4}}$",
    ],
    "impaired.py --networks perfect lte_poor": [
        rf"^\| \(perfect\) (\|{NUMBER} )+\|",
        rf"^\| `lte_poor` (\|{NUMBER} )+\|",
        rf"^\| 1 ms up, 1 ms down \|{NUMBER} \|$",
    ],
    "real_time.py --rounds 1 --steps 10": [
        rf"^two bare processes:{NUMBER} of 10 late$",
        rf"^run:{NUMBER} of 10 late$",
        rf"^median step, run / two bare processes:{NUMBER} ",
    ],
    "record.py --rounds 1 --steps 4 --memory": [
        rf"^step, memory, CPU time:{NUMBER} ms, recorded{NUMBER} ms, ratio{NUMBER}",
        r"^\d+\.\d+ MB, rows \{'step': 4, 'agent': 12,",
    ],
    "record.py --rounds 1 --steps 4": [rf"^step, embedded, wall clock:{NUMBER} ms, recorded{NUMBER} ms"],
    "scaling.py --agents 2 --devices 2 --proxies 2 --steps 8 --realtime 1": [
        r'^ "devices": 4,$',
        r'^ "fallbacks": \d+,$',
        r'^  "proxies": [\d.]+,$',
        r'^  "published": [\d.]+,$',
    ],
    "dashboard.py --rounds 1 --steps 8": [
        rf"^\| without (\|{NUMBER} )+\|$",
        rf"^\| with (\|{NUMBER} )+\|$",
        rf"^CPU of both, with / without:{NUMBER} ",
    ],
    "peers.py --rounds 1 --steps 5 --agents 2 --only heron-memory heron-one heron-each paho aiomqtt": [
        rf"^\| heron-mqtt, in memory, one process (\|{NUMBER} ){{3}}\|$",
        rf"^\| heron-mqtt, mosquitto, a process an agent (\|{NUMBER} ){{3}}\|$",
        rf"^\| paho with its threads, mosquitto, one process (\|{NUMBER} ){{3}}\|$",
        rf"^\| aiomqtt, mosquitto, one process (\|{NUMBER} ){{3}}\|$",
    ],
    "env_peers.py --rounds 1 --only recycle": [
        rf"^heron-mqtt, own policies \(.*\){NUMBER} us  1\.00 ",
        rf"^pandapower, runpp with recycle \(.*\){NUMBER} us{NUMBER} ",
    ],
    "cross_check.py --copies 4 --rounds 1": [rf"^case33bw{NUMBER}", r"^CIGRE MV "],
    "growth.py --rounds 1 --quick": [r'"network": "case33bw"', rf'"solve us":{NUMBER}', r'"devices": 18,'],
}
NEEDS_MOSQUITTO = {"broker.py", "peers.py", "scaling.py"}
BY_ANOTHER = {
    "peer_agent.py": "peers.py starts it",
    "plot_growth.py": "it reads what growth.py prints",
    "two_processes.py": "a row of env_step.py",
}


def run(command: str) -> str:
    """Run a script to its end, and return what it printed."""
    name, *options = command.split()
    program = subprocess.Popen(
        [sys.executable, str(BENCHMARKS / name), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        start_new_session=True,
    )
    try:
        out, told = program.communicate(timeout=LONGEST_S)
    except BaseException:  # too slow, or we are ended: what it has started ends with it
        os.killpg(program.pid, signal.SIGKILL)
        program.wait()
        raise
    assert program.returncode == 0, f"{command} ended with {program.returncode}:\n{told[-2000:]}"
    return out


def test_every_script_is_run_here() -> None:
    assert {command.split()[0] for command in ROWS} | BY_ANOTHER.keys() == {
        path.name for path in BENCHMARKS.glob("*.py")
    }


@pytest.mark.slow
@pytest.mark.parametrize("command", ROWS)
def test_a_script_runs_to_its_end_and_prints_its_rows(command: str, tmp_path: Path) -> None:
    if command.split(maxsplit=1)[0] in NEEDS_MOSQUITTO and find_mosquitto() is None:
        pytest.skip("mosquitto is not installed (Debian: apt install mosquitto)")
    out = run(command)
    missing = [row for row in ROWS[command] if not re.search(row, out, re.MULTILINE)]
    assert not missing, f"{command} printed\n{out}"
    if command.startswith("growth.py"):
        report = tmp_path / "growth.json"
        report.write_text(out)
        run(f"plot_growth.py {report} {tmp_path}")
        assert {path.name for path in tmp_path.glob("*.svg")} == {"growth-buses.svg", "growth-devices.svg"}


@pytest.mark.slow
def test_a_contestant_that_fails_is_named_beside_the_results_of_the_others(tmp_path: Path) -> None:
    (tmp_path / "mosaik.py").write_text("raise RuntimeError('broken on purpose')\n")
    options = "--rounds 2 --steps 3 --agents 2 --only mosaik-one heron-memory"
    ended = subprocess.run(
        [sys.executable, str(BENCHMARKS / "peers.py"), *options.split()],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
        timeout=LONGEST_S,
        check=False,
    )
    why = "ended with exit code 1: RuntimeError: broken on purpose"
    assert f"| mosaik, one simulator, one process | {why} | | |" in ended.stdout, ended.stderr
    assert re.search(
        rf"^\| heron-mqtt, in memory, one process (\|{NUMBER} ){{3}}\|$", ended.stdout, re.MULTILINE
    )
    assert ended.stderr.splitlines() == [f"peers.py: mosaik-one, N = 2: {why}"]
    assert ended.returncode == 1
