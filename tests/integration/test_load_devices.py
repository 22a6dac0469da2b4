"""Loads as devices: metered beside the network's own, shed where that is agreed; the same in every mode."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heron_mqtt.errors import ConfigError
from heron_mqtt.messaging.base import MessageBroker
from heron_mqtt.messaging.core.background_loop import run_sync
from heron_mqtt.messaging.memory import InMemoryBroker
from heron_mqtt.messaging.mqtt import MqttBroker
from powergrid.batched.devices import make_device_array
from powergrid.devices import LoadSpec, make_device
from powergrid.envs import MultiAgentMicrogrids
from powergrid.scenario import scenario_from_dict
from support.heron_command import run_heron, write_toml
from support.small_grid import build_once
from support.small_grid import scenario as small

HEATING = {
    "kind": "load",
    "max_p_mw": 0.006,
    "max_shed_fraction": 0.4,
    "profile": "residential_p_pu",
}
WITH_LOADS = {
    "steps": 8,
    "microgrids.MG1.devices.heating": HEATING,
    "microgrids.MG2.devices.oven": {**HEATING, "max_shed_fraction": 0.0, "bus": 7},
}


pytestmark = pytest.mark.usefixtures("built_once")


@pytest.fixture(params=["memory", "embedded"])
def broker(request: pytest.FixtureRequest, env_id: str) -> Iterator[MessageBroker]:
    made: MessageBroker = InMemoryBroker()
    if request.param == "embedded":
        made = MqttBroker(request.getfixturevalue("embedded_url"), env_id=env_id)
    yield made
    run_sync(made.close())


def day(changes: dict[str, Any], seed: int | None = 5, **config: Any) -> list[tuple[Any, ...]]:
    """Return observations, rewards and infos of every step, with random actions or (None) none."""
    env = MultiAgentMicrogrids({"scenario": small(changes), "observation": "full", **config})
    rng = np.random.default_rng(seed)
    steps: list[tuple[Any, ...]] = [env.reset(seed=1)]
    while env.agents:
        actions = {a: rng.uniform(-1.0, 1.0, env.action_space(a).shape) for a in env.agents}
        observations, rewards, _, _, infos = env.step({} if seed is None else actions)
        steps.append((observations, rewards, infos))
    env.close()
    return steps


@pytest.mark.slow_but("memory-check1", "embedded-check0")
@pytest.mark.parametrize("check", [{}, {"envelope": {"grid_check": True, "loading_max_percent": 25.0}}])
def test_parity_holds_with_loads_to_the_last_bit(check: dict[str, Any], broker: MessageBroker) -> None:
    changes = {**WITH_LOADS, **check}
    central = day(changes, centralized=True)
    for mine, theirs in zip(central, day(changes, centralized=False, message_broker=broker), strict=True):
        np.testing.assert_equal(theirs, mine)


def test_a_load_draws_its_demand_unless_told_to_shed() -> None:
    """And only as far as agreed; the demand is the profile's."""
    spec = scenario_from_dict(small(WITH_LOADS))
    columns = build_once(spec).profiles
    assert columns is not None
    env = MultiAgentMicrogrids({"scenario": small(WITH_LOADS), "centralized": True})
    env.reset(seed=1)
    n = len(env.action_space("MG1").low)
    sheds = np.zeros(n)
    sheds[-1] = 1.0  # heating is the last device of MG1
    for step in range(6):
        demand = -0.006 * columns.columns["residential_p_pu"][28 + step]
        *_, infos = env.step({"MG1": sheds} if step % 2 else {})
        kept = 0.6 if step % 2 else 1.0
        assert infos["MG1"]["p_mw"]["heating"] == pytest.approx(demand * kept, abs=1e-15)
        assert infos["MG2"]["p_mw"]["oven"] == pytest.approx(demand, abs=1e-15)
    env.close()


def test_a_load_is_consumption_of_its_microgrid_and_of_the_grid() -> None:
    """A device drawing at a bus is the same to the grid as a load of the network there."""
    without, with_it = day({"steps": 8}, seed=None), day(WITH_LOADS, seed=None)
    for (_, _, before), (_, _, after) in zip(without[1:], with_it[1:], strict=True):
        drawn = after["MG1"]["p_mw"]["heating"]
        assert drawn < 0.0
        assert after["MG1"]["vm_pu"]["min"] < before["MG1"]["vm_pu"]["min"]


def test_only_what_can_be_shed_is_part_of_the_action() -> None:
    env = MultiAgentMicrogrids({"scenario": small(WITH_LOADS), "centralized": True})
    plain = MultiAgentMicrogrids({"scenario": small(), "centralized": True})
    more = {a: env.action_space(a).shape[0] - plain.action_space(a).shape[0] for a in ("MG1", "MG2")}
    assert more == {"MG1": 1, "MG2": 0}


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"profile": ...}, "a load device needs 'profile'"),
        ({"control_q": True}, "reactive power cannot be set"),
        ({"max_shed_fraction": 1.5}, "max_shed_fraction"),
    ],
)
def test_what_a_load_cannot_be_is_refused(changes: dict[str, Any], why: str) -> None:
    table = {k: v for k, v in {**HEATING, **changes}.items() if v is not ...}
    with pytest.raises(ConfigError, match=why):
        scenario_from_dict(small({"microgrids.MG1.devices.heating": table}))


COPIES = 4


@given(
    st.builds(LoadSpec, max_p_mw=st.floats(1e-3, 10.0), max_shed_fraction=st.floats(0.0, 1.0)),
    st.lists(
        st.tuples(st.floats(-12.0, 2.0), st.floats(-2.0, 2.0), st.floats(-12.0, 0.0)),
        min_size=COPIES,
        max_size=COPIES,
    ),
)
def test_copies_of_a_load_do_to_the_last_bit_what_single_ones_do(
    spec: LoadSpec, asked: list[tuple[float, float, float]]
) -> None:
    p, q, demand = (np.array(column) for column in zip(*asked, strict=True))
    for available in (demand, None):
        done = make_device_array(spec, COPIES).step(p, q, 900.0, available)
        for i in range(COPIES):
            single = make_device(spec).step(p[i], q[i], 900.0, None if available is None else available[i])
            assert (done.p_mw[i], done.q_mvar[i]) == single[:2]


@pytest.mark.slow
def test_an_emulated_load_gives_the_run_that_a_simulated_one_gives(tmp_path: Path) -> None:
    file = write_toml(tmp_path / "loads.toml", small({**WITH_LOADS, "steps": 4}))
    emulated = run_heron("run", str(file), "--json").result
    simulated = run_heron("run", str(file), "--json", "--devices", "simulated").result
    assert emulated["fallbacks"] == 0
    assert emulated["rewards"] == simulated["rewards"]
    assert "MG1/heating" in emulated["devices"]
