"""Every shipped profile as a new user meets it: a box is heard, recognised, tried, and driven in a run."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from support.doc_pages import ROOT
from support.heron_command import Ended, run_heron, until, write_toml
from support.mosquitto_server import Mosquitto, executable
from support.profile_box import (
    ModbusProfileBox,
    ProfileBox,
    is_modbus,
    mapping_table,
    profile_box,
    profiles,
    recorded,
)
from support.small_runs import write_scenario

ALL = profiles()
ON_MQTT = [name for name in ALL if not is_modbus(name)]
DRIVEN = [name for name in ALL if "send" in recorded(name)["box"]]
GENERIC = {"home_assistant"}  # all its topics are parameters, and its payloads plain numbers
KNOWN = [name for name in ON_MQTT if name not in GENERIC]
NAMES = ["sign", "factor", "delay", "acknowledgement", "release"]
AT_ONCE = 4
OTHERS = {
    f"microgrids.{agent}.devices.{name}.authority": "simulated"
    for agent in ("MG1", "MG2", "MG3")
    for name in ("gen", "ess", "pv")
}
NAMEPLATES: dict[str, dict[str, Any]] = {
    "battery": {"max_e_mwh": 0.03, "max_p_charge_mw": 0.005, "max_p_discharge_mw": 0.005},
    "pv": {"max_p_mw": 0.01, "profile": "pv_1_pu"},
    "load": {"max_p_mw": 0.011, "max_shed_fraction": 1.0, "profile": "residential_p_pu"},
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    if executable() is None:
        pytest.skip("mosquitto is not installed (Debian: apt install mosquitto)")
    found = Mosquitto(tmp_path_factory.mktemp("boxes")).start()
    yield found
    found.stop()


@pytest.fixture(scope="module")
def boxes(server: Mosquitto) -> Iterator[dict[str, ProfileBox]]:
    """One box of every profile, all at one broker."""
    with ExitStack() as stack:
        yield {name: stack.enter_context(profile_box(server.url, name)) for name in ALL}


def where(server: Mosquitto, box: ProfileBox) -> list[str]:
    return ["--modbus", box.address] if isinstance(box, ModbusProfileBox) else ["--broker", server.url]


def name_of(profile: str) -> str:
    """Return a device name of its own: a test setpoint is refused where one of that name is driven."""
    return "MG1/ess" if profile == "shelly_gen2" else f"{profile}/ess"  # in whose recorded topics it stands


def of_each(names: list[str], do: Callable[[str], Any]) -> dict[str, Any]:
    """Do something with some boxes, a few at a time."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return dict(zip(names, pool.map(do, names), strict=True))


# -- what speaks here, and what is it? ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def heard(server: Mosquitto, boxes: dict[str, ProfileBox], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What probe says of all boxes together, and the mapping that it writes."""
    file = tmp_path_factory.mktemp("heard") / "first.toml"
    given = ("probe", "--broker", server.url, "--listen", "3", "--json", "--write", str(file))
    return json.loads(run_heron(*given).out), tomllib.loads(file.read_text())


@pytest.mark.parametrize("name", KNOWN)
def test_among_many_boxes_each_is_recognised_with_its_own_parameters(heard: Any, name: str) -> None:
    told, _ = heard
    matches = [m for m in told["profiles"] if m["profile"] == f"device_profiles/{name}.toml"]
    assert len(matches) == 1
    right = recorded(name)["parameters"]
    for parameter, value in matches[0]["parameters"].items():
        assert value == str(right.get(parameter, value)), parameter
    assert right.keys() <= matches[0]["parameters"].keys() | set(matches[0]["missing"])


def test_no_box_is_taken_for_two(heard: Any) -> None:
    told, first = heard
    assert len(told["profiles"]) == len(KNOWN)
    topics = [topic for match in told["profiles"] for topic in match["topics"]]
    assert len(topics) == len(set(topics))
    assert first["profile"] == told["profiles"][0]["profile"]


def test_the_documentation_says_what_was_recognised_and_what_is_left_to_the_user(heard: Any) -> None:
    told, _ = heard
    missing = {Path(m["profile"]).stem: m["missing"] for m in told["profiles"]}
    text = (ROOT / "docs" / "device-mappings.md").read_text()
    rows = [
        [cell.strip() for cell in line.split("|")[1:4]] for line in text.splitlines() if line[:3] == "| `"
    ]
    said = {name.strip("`"): left for name, recognised, left in rows if recognised == "yes"}
    assert said == {name: ", ".join(left) or "-" for name, left in missing.items()}


# -- what does its mapping make of it? ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def mapped(
    server: Mosquitto, boxes: dict[str, ProfileBox], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Ended]:
    folder = tmp_path_factory.mktemp("mapped")

    def watch(name: str) -> Ended:
        file = write_toml(folder / f"{name}.toml", mapping_table(name))
        asks = [] if is_modbus(name) else ["--ask"]
        given = (*where(server, boxes[name]), "--mapping", str(file), "--listen", "3", "--json", *asks)
        return run_heron("probe", *given)

    return of_each(ALL, watch)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ALL)
def test_its_mapping_reads_the_power_that_the_box_gives(
    boxes: dict[str, ProfileBox], mapped: dict[str, Ended], name: str
) -> None:
    done = mapped[name]
    assert done.code == 0, done.out + done.err
    values = json.loads(done.out)
    box = boxes[name]
    if "w" in box.script:
        assert values["p_mw"]["value"] == pytest.approx(box.own_w / 1e6, abs=1e-9)
    else:
        samples = recorded(name).get("polled") or recorded(name)["received"]
        wanted = next(s["fields"]["p_mw"] for s in samples if s["fields"].get("p_mw") is not None)
        assert values["p_mw"]["value"] == pytest.approx(wanted)


# -- does it do what a setpoint says? -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def tried(
    server: Mosquitto, boxes: dict[str, ProfileBox], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Ended]:
    folder = tmp_path_factory.mktemp("tried")

    def send(name: str) -> Ended:
        file = write_toml(folder / f"{name}.toml", mapping_table(name))
        box = boxes[name]
        modbus = where(server, box) if is_modbus(name) else []
        return run_heron(
            *("probe", "--broker", server.url, *modbus, "--mapping", str(file), "--env-id", f"try-{name}"),
            *("--device", name_of(name)),
            *("--send", box.script["send"], "--max", box.script.get("max", "1kW"), "--for", "5s"),
            *("--listen", "5", "--yes", "--json"),
        )

    return of_each(DRIVEN, send)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", DRIVEN)
def test_one_test_setpoint_gets_five_good_verdicts(
    boxes: dict[str, ProfileBox], tried: dict[str, Ended], name: str
) -> None:
    done = tried[name]
    assert done.code == 0, done.out + done.err
    verdicts = json.loads(done.out)["verdicts"]
    assert list(verdicts) == NAMES
    until(lambda: boxes[name].is_free, "its own control")


# -- and in a run? ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ran(
    server: Mosquitto,
    boxes: dict[str, ProfileBox],
    tried: dict[str, Ended],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Ended]:
    def run(name: str) -> Ended:
        box = boxes[name]
        kind = box.script["kind"]
        device = {
            "kind": kind,
            **NAMEPLATES[kind],
            "authority": "full",
            "mapping": mapping_table(name),
            "gateway": {"gate_steps": 1, "stale_after_s": 10.0},
        }
        if isinstance(box, ModbusProfileBox):
            device["modbus"] = {"address": box.address, "unit": 1}
        changes = {
            "env_id": f"run-{name}",
            "realtime_s": 1.0,
            "lease_s": 20.0,
            "deadlines.device_s": 8.0,
            "deadlines.upstream_s": 20.0,
            "deadlines.action_s": 40.0,
            **OTHERS,
            "microgrids.MG1.devices.ess": device,
        }
        file = write_scenario(tmp_path_factory.mktemp(name), changes)
        return run_heron("run", str(file), "--steps", "4", "--broker", server.url, "--json", within_s=120.0)

    return of_each(ALL, run)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ALL)
def test_a_short_run_drives_it_and_hands_it_back(
    boxes: dict[str, ProfileBox], ran: dict[str, Ended], name: str
) -> None:
    done = ran[name]
    assert done.code == 0, done.err
    device = done.result["devices"]["MG1/ess"]
    assert device["authority"] == "full"
    assert device["telemetry"] >= 4
    assert device["fallbacks"] == recorded(name)["box"].get("fallbacks", 0), done.err
    if name in DRIVEN:
        assert boxes[name].orders()
        until(lambda: boxes[name].is_free, "its own control")
