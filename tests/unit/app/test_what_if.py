"""what-if: nothing changed gives the recorded trajectory; a change goes its own way, and it is said where."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from heron_mqtt.app.replay_env import ReplayEnv
from heron_mqtt.app.what_if import price_change, what_if
from heron_mqtt.errors import ConfigError, DataError
from heron_mqtt.messaging.impaired import ImpairedBroker
from heron_mqtt.messaging.impairment import ImpairmentTable
from heron_mqtt.messaging.memory import InMemoryBroker
from support.field_rig import OpenMemoryBroker
from support.recorded_runs import record_run, tampered
from support.rows import each_row

QUICK = {"deadlines": {"upstream_s": 2.0, "peer_s": 0.15, "device_s": 0.15, "action_s": 5.0, "ready_s": 5.0}}
PEERS = {"rules": [{"pattern": "p2p/#", "loss": 0.25}]}
DEVICES = {"rules": [{"pattern": ["devices/+/+/setpoint", "devices/+/+/telemetry"], "loss": 0.1}]}
IMPERFECT = {
    "envelope.grid_check": True,
    "microgrids.MG2.devices.ess.authority": "shadow",
    "microgrids.MG3.devices.ess.emulator": {"efficiency_factor": 0.9, "noise_mw": 0.0001, "lag_s": 400.0},
}

pytestmark = pytest.mark.usefixtures("built_once")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("records")


@pytest.fixture(scope="module")
def emulated(folder: Path) -> Path:
    path = folder / "emulated.heron"
    record_run(path, steps=6, emulated=True, changes=IMPERFECT)
    return path


@pytest.fixture(scope="module")
def silent(folder: Path) -> Path:
    """Losses between gateway and devices, and a device that falls silent by itself."""
    path = folder / "silent.heron"
    broker = ImpairedBroker(OpenMemoryBroker(), ImpairmentTable.model_validate(DEVICES), seed=2)
    faults = {"MG1/ess": "silence@2:2", "MG2/gen": "reject_setpoints@1:2"}
    record_run(path, steps=6, emulated=True, changes=QUICK, broker=broker, faults=faults)
    return path


@pytest.mark.parametrize("centralized", [True, False])
def test_what_if_of_nothing_is_exact_with_models(folder: Path, centralized: bool) -> None:
    path = folder / f"models-{centralized}.heron"
    record_run(path, steps=4, centralized=centralized)
    found = what_if(path)
    assert found.steps == 4
    assert found.largest == 0.0


def test_what_if_of_nothing_is_exact_with_imperfect_devices_shadow_and_grid_check(emulated: Path) -> None:
    found = what_if(emulated)
    assert found.is_exact
    assert found.largest <= 1e-9
    assert not found.apart


def test_what_if_of_nothing_is_exact_with_lost_setpoints_silence_and_refusals(silent: Path) -> None:
    found = what_if(silent)
    assert found.is_exact, found.first
    assert not found.apart


@pytest.mark.slow_but("p2p", "order_book")
@pytest.mark.parametrize("horizontal", ["p2p", "order_book", "consensus"])
def test_what_if_of_nothing_is_exact_with_lost_words_between_peers(folder: Path, horizontal: str) -> None:
    path = folder / f"{horizontal}.heron"
    broker = ImpairedBroker(InMemoryBroker(), ImpairmentTable.model_validate(PEERS), seed=4)
    slow = {"deadlines": {**QUICK["deadlines"], "peer_s": 0.6}}  # a busy machine is late by 0.15 s: not lost
    changes = {**slow, "protocol.horizontal": horizontal}
    record_run(path, steps=3, changes=changes, broker=broker)
    found = what_if(path)
    assert found.is_exact or found.unsure, found.first


def test_commands_of_the_caller_are_part_of_the_record(folder: Path) -> None:
    path = folder / "commanded.heron"
    actions = {"MG1": [0.3, -0.7, 0.2, 0.1], "MG3": [-1.0, 0.4, 1.0, -0.3]}
    record_run(path, steps=3, centralized=True, actions=actions)
    assert what_if(path).largest == 0.0


def test_a_higher_price_changes_costs_and_says_where_first(emulated: Path) -> None:
    found = what_if(emulated, price="x2")
    assert not found.is_exact
    assert found.first.startswith("step 0 ")
    assert any(recorded != replayed for recorded, replayed in found.costs.values())
    assert found.differences


def test_a_scenario_value_can_be_another(emulated: Path) -> None:
    changed = what_if(emulated, changes={"market.import_adder_per_mwh": 80.0})
    assert any(replayed > recorded for recorded, replayed in changed.costs.values())


def test_a_device_whose_setpoint_differs_goes_its_own_way_with_its_recorded_residual(emulated: Path) -> None:
    found = what_if(emulated, changes={"microgrids.MG3.policy.battery_share": 1.0})
    assert set(found.apart) >= {"MG3/ess"}
    assert "MG1/ess" not in found.apart


def test_without_impairment_devices_answer_that_the_network_kept_silent(silent: Path) -> None:
    env = ReplayEnv(silent, without_impairment=True)
    env.reset()
    silenced = set()
    while env.agents:
        _, _, _, _, infos = env.step({})
        silenced |= {f"{agent}/{name}" for agent, info in infos.items() for name in info["fallbacks"]}
    assert silenced == {"MG1/ess"}  # that one was silent by itself


def test_another_network_decides_what_is_lost_and_late(emulated: Path, tmp_path: Path) -> None:
    site = tmp_path / "site.toml"
    site.write_text('[impairment]\n[[impairment.rules]]\npattern = "devices/+/+/telemetry"\nloss = 1.0\n')
    found = what_if(emulated, network=str(site))
    assert set(found.apart.values()) == {0}
    assert not found.is_exact
    harmless = tmp_path / "harmless.toml"
    harmless.write_text('[impairment]\n[[impairment.rules]]\npattern = "#"\ndelay_s = 0.001\n')
    assert what_if(emulated, network=str(harmless)).is_exact
    late = tmp_path / "late.toml"
    late.write_text('[impairment]\n[[impairment.rules]]\npattern = "agents/MG2/action"\ndelay_s = 30.0\n')
    assert what_if(emulated, network=str(late)).differences
    assert what_if(emulated, network="lte_poor").steps == 6
    with pytest.raises(ConfigError, match="--network and --without-impairment: one or the other"):
        what_if(emulated, network="lan", without_impairment=True)


def test_another_policy_decides_and_is_given_the_observation(
    emulated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_policy.py").write_text(
        "class Full:\n"
        "    def __init__(self, env):\n"
        "        self.env = env\n"
        "    def act(self, agent, observation):\n"
        "        assert len(observation) == len(self.env.observation_names(agent))\n"
        "        if agent == 'MG1':\n"
        "            return self.env.action_space(agent).high\n"
    )
    monkeypatch.chdir(tmp_path)
    sys.modules.pop("my_policy", None)
    found = what_if(emulated, policy="my_policy:Full")
    assert set(found.apart) & {"MG1/gen", "MG1/ess", "MG1/pv"}
    assert not {device for device in found.apart if not device.startswith("MG1")}


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        ("nothing", "expected module:Class"),
        ("no_such_module:X", "cannot be imported"),
        ("math:Nothing", "has no Nothing"),
        ("support.recorded_runs:OpenMemoryBroker", "no method act"),
    ],
)
def test_a_policy_that_is_none_is_refused_by_name(
    emulated: Path, policy: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OpenMemoryBroker, "__init__", lambda self, env: None)
    with pytest.raises(ConfigError, match=said):
        what_if(emulated, policy=policy)


@pytest.mark.parametrize(
    ("text", "price", "expected"),
    [("x1.5", 40.0, 60.0), ("+5", 40.0, 45.0), ("-5.5", 40.0, 34.5), ("80", 1.0, 80.0)],
)
def test_prices_are_multiplied_shifted_or_replaced(text: str, price: float, expected: float) -> None:
    assert price_change(text)(price) == expected


@each_row("text", ["", "x", "1.2x", "dear", "xx2", "x-1", "nan", "1e3"])
def test_a_price_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--price"):
        price_change(text)


@pytest.mark.parametrize("key", ["market.nothing", "nothing.at.all", "", "name.x"])
def test_a_key_that_the_scenario_has_not_is_refused(emulated: Path, key: str) -> None:
    with pytest.raises(ConfigError, match="no such key"):
        what_if(emulated, changes={key: 1.0})


def test_a_value_that_does_not_fit_is_refused(emulated: Path) -> None:
    with pytest.raises(ConfigError, match="import_adder"):
        what_if(emulated, changes={"market.import_adder_per_mwh": -1.0})


def test_a_record_without_steps_cannot_be_replayed(emulated: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no step"):
        what_if(tampered(emulated, tmp_path / "t.heron", "DELETE FROM step_row"))


def test_the_replay_is_an_environment_of_its_own_and_can_begin_again(emulated: Path) -> None:
    env = ReplayEnv(emulated)
    first, _ = env.reset()
    env.step({})
    again, _ = env.reset()
    assert all(np.array_equal(first[agent], again[agent]) for agent in first)
    assert env.max_episode_steps == 6
