"""``heron-mqtt run`` as a user starts it: what it prints, and that every way to run it comes to the same."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from heron_mqtt import __version__
from support.heron_command import Ended, run_heron
from support.mosquitto_server import Mosquitto
from support.small_runs import STEPS, centralized, write_scenario

KEYS = {
    "scenario", "mode", "broker", "seed", "steps", "agents", "rewards", "energy_mwh", "cost", "trades",
    "vm_pu", "step_ms", "messages", "deadline_misses", "fallbacks",
}  # fmt: skip
SECRET = "s3cr3t-word"
WAYS = {
    "centralized": [],  # done already
    "memory": ["--broker", "memory"],
    "embedded, emulated devices": [],
    "embedded, simulated devices": ["--devices", "simulated"],
    "mosquitto, emulated devices": ["--broker", f"mqtt://site:{SECRET}@127.0.0.1:{{port}}"],
}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scenario file; its episodes see trades, PV and batteries."""
    return write_scenario(tmp_path_factory.mktemp("scenario"))


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    """A mosquitto that wants a password of everyone."""
    folder = tmp_path_factory.mktemp("guarded")
    passwords = folder / "passwords"
    subprocess.run(["mosquitto_passwd", "-b", "-c", str(passwords), "site", SECRET], check=True)
    server = Mosquitto(folder, "allow_anonymous false", f"password_file {passwords}").start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def ended(small: Path, guarded: Mosquitto) -> Iterator[dict[str, Ended]]:
    """The same few steps, run in each way; two at a time, as most of a run is its start."""

    def run(way: str) -> Ended:
        if way == "centralized":
            return centralized()
        options = [option.format(port=guarded.port) for option in WAYS[way]]
        return run_heron("run", str(small), "--steps", str(STEPS), "--json", *options)

    with ThreadPoolExecutor(2) as pool:
        yield dict(zip(WAYS, pool.map(run, WAYS), strict=True))


@pytest.mark.parametrize("way", WAYS)
def test_a_run_ends_with_one_json_object_that_has_every_key(ended: dict[str, Ended], way: str) -> None:
    done = ended[way]
    assert done.code == 0, done.err
    result = done.result  # exactly one line, one object
    assert result.keys() >= KEYS
    assert result["scenario"] == "small"
    assert result["mode"] == ("centralized" if way == "centralized" else "distributed")
    assert (result["seed"], result["steps"]) == (0, STEPS)
    assert result["agents"] == ["MG1", "MG2", "MG3"]
    for key in ("rewards", "energy_mwh", "cost"):
        assert result[key].keys() == set(result["agents"])
        assert all(isinstance(value, float) for value in result[key].values())
    assert result["trades"]["count"] > 0
    assert result["trades"]["void"] == 0
    assert 0.9 < result["vm_pu"]["min"] < result["vm_pu"]["max"] < 1.1
    assert 0.0 < result["step_ms"]["median"] <= result["step_ms"]["p99"] <= result["step_ms"]["max"]
    assert (result["diverged"], result["error"], result["interrupted"]) == (None, None, False)


@pytest.mark.parametrize("way", WAYS)
def test_no_message_is_lost_and_no_deadline_missed(ended: dict[str, Ended], way: str) -> None:
    result = ended[way].result
    assert result["deadline_misses"] == result["fallbacks"] == 0
    messages = result["messages"]
    assert messages["lost"] == messages["rejected"] == messages["duplicated"] == 0
    assert messages.keys() == {"published", "received", "duplicated", "rejected", "lost"}
    if way == "centralized":
        assert messages["published"] == messages["received"] == 0
    else:
        assert messages["published"] >= STEPS * 14  # price, state, observations, offers, actions


@pytest.mark.parametrize("way", list(WAYS)[1:])
def test_every_way_to_run_earns_the_same(ended: dict[str, Ended], way: str) -> None:
    central, result = ended["centralized"].result, ended[way].result
    for key in ("rewards", "energy_mwh", "cost", "vm_pu"):
        assert result[key] == pytest.approx(central[key], abs=1e-9), key
    assert result["trades"] == pytest.approx(central["trades"], abs=1e-9)


@pytest.mark.parametrize("way", WAYS)
def test_nothing_is_complained_of(ended: dict[str, Ended], way: str) -> None:
    err = ended[way].err
    assert "Traceback" not in err
    assert "WARNING" not in err
    assert "ERROR" not in err


def test_the_broker_s_address_is_told_on_standard_error_beside_json(ended: dict[str, Ended]) -> None:
    assert "broker: mqtt://127.0.0.1:" in ended["embedded, emulated devices"].err
    assert "devices: 9 emulated" in ended["embedded, emulated devices"].err
    assert "devices:" not in ended["embedded, simulated devices"].err


def test_a_person_is_shown_progress_and_a_table(small: Path) -> None:
    done = run_heron("run", str(small), "--centralized", "--steps", "9", "--seed", "5")
    assert done.code == 0
    assert "step 8/9" in done.out
    assert "step 9/9" in done.out
    for told in (
        "ran 9 steps, centralized, seed 5",
        "MG1",
        "MG3",
        "trades",
        "voltage",
        "loading",
        "step time",
    ):
        assert told in done.out, told
    assert "messages" not in done.out  # there were none
    assert done.err == ""


def test_a_password_reaches_the_devices_and_is_never_shown(ended: dict[str, Ended]) -> None:
    done = ended["mosquitto, emulated devices"]
    assert done.result["fallbacks"] == 0  # the devices came in with it
    assert SECRET not in done.out + done.err


def test_memory_says_that_its_devices_are_simulated(ended: dict[str, Ended]) -> None:
    assert "nothing can connect from outside; devices are simulated in process" in ended["memory"].err


@pytest.mark.slow
def test_a_scenario_elsewhere_with_odd_names_earns_the_same(tmp_path: Path) -> None:
    """File names in a scenario are relative to it; identifiers may hold what topics may not."""
    shipped = Path(__file__).resolve().parents[2] / "config" / "profiles"
    home, elsewhere = tmp_path / "my site", tmp_path / "elsewhere"
    home.mkdir()
    elsewhere.mkdir()
    shutil.copy(shipped / "simbench_week.csv", home / "mine.csv")
    shutil.copy(shipped / "price_week.csv", home / "my price.csv")
    files = {"profiles.file": "mine.csv", "profiles.price_file": "my price.csv"}
    names = {"MG1": "north/1", "MG2": "+wild", "MG3": "#3 50%"}
    odd = write_scenario(home, {**files, "env_id": "site/#1"}, names)

    done = run_heron("run", str(odd), "--steps", str(STEPS), "--json", cwd=elsewhere)

    assert done.code == 0, done.err
    result, plain = done.result, centralized().result
    assert result["agents"] == list(names.values())
    assert result["fallbacks"] == result["messages"]["lost"] == 0
    assert result["trades"]["count"] == plain["trades"]["count"]
    for name, odd_name in names.items():
        assert result["rewards"][odd_name] == pytest.approx(plain["rewards"][name], abs=1e-9)


def test_check_says_what_would_run(small: Path) -> None:
    done = run_heron("check", str(small))
    assert done.code == 0
    assert done.err == ""
    first, *rest = done.out.splitlines()
    assert first == f"{small}: valid"
    told = "\n".join(rest)
    for part in ("12 steps of 900 s", "heron/small/#", "MG1/ess: battery at", "profile pv_1_pu", "emulated"):
        assert part in told, part


def test_it_says_its_version() -> None:
    assert run_heron("--version").out == f"heron-mqtt {__version__}\n"


@pytest.mark.slow
def test_a_wheel_holds_scenarios_profiles_types_and_no_devices_package(tmp_path: Path) -> None:
    """Slow, because the build may have to fetch its backend."""
    root = Path(__file__).resolve().parents[2]
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(tmp_path), str(root)]
    subprocess.run(build, check=True, timeout=120)
    (wheel,) = tmp_path.glob("heron_mqtt-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert names >= {
        "heron_mqtt/shipped/three_microgrids.toml",
        "heron_mqtt/shipped/profiles/simbench_week.csv",
        "heron_mqtt/shipped/profiles/price_week.csv",
        "heron_mqtt/shipped/profiles/LICENCE.md",
        "heron_mqtt/cli/main.py",
        "powergrid/simulation/grid_simulation.py",
        "powergrid/emulators/__main__.py",
        "heron_mqtt/py.typed",
        "powergrid/py.typed",
    }
    assert not any(name.startswith(("tests/", "docs/", "config/", "devices/")) for name in names)
