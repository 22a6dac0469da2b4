"""A grid that is known from before is the grid that would be built now, or it is not used."""

from __future__ import annotations

import contextlib
import copy
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pandapower as pp
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from powergrid.envs import MultiAgentMicrogrids
from powergrid.networks import NETWORK_SOURCES, GridModel, NetworkSource, load_network
from powergrid.powerflow import CompiledNetwork, CompiledPowerFlow, PandapowerFlow
from powergrid.powerflow.arrays import GridArrays
from powergrid.scenario import LoadedScenario, load_scenario, scenario_from_dict
from powergrid.simulation.build import build
from powergrid.simulation.grid_cache import VARIABLE, GridCache, grid_key
from powergrid.simulation.grid_file import grid_bytes, grid_from_bytes
from powergrid.simulation.placed_grid import CompiledGrid
from support.powerflow_nets import assert_untouched
from support.small_grid import scenario as small

pytestmark = pytest.mark.usefixtures("built_anew")

SHIPPED = ("three_microgrids", "hil_battery", "mw_microgrids", "neighbourhood")


def loaded(changes: dict[str, Any] | None = None) -> LoadedScenario:
    return scenario_from_dict(small(changes))


KEPT: dict[str, bytes] = {}


def made(directory: Path, one: LoadedScenario) -> Path:
    """Build and compile a scenario's grid with a cache there, and return its file."""
    build(one, GridCache(directory)).grid.compiled()
    return directory / f"{grid_key(one)}.npz"


def kept(directory: Path, one: LoadedScenario) -> Path:
    """Return the file of a scenario's grid in a cache there; it was made once for all tests."""
    file = directory / f"{grid_key(one)}.npz"
    if file.name not in KEPT:
        KEPT[file.name] = made(directory, one).read_bytes()
    file.write_bytes(KEPT[file.name])
    file.chmod(0o600)
    return file


def known_of(cache: GridCache, one: LoadedScenario) -> CompiledGrid | None:
    key = cache.key(one)
    assert key is not None
    return cache.find(key)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    found = tmp_path / "grids"
    found.mkdir(mode=0o700)
    return found


# -- the same grid -----------------------------------------------------------------------------------------


@pytest.mark.slow_but("three_microgrids")
@pytest.mark.parametrize("name", SHIPPED)
def test_the_grid_of_a_shipped_scenario_is_shipped_and_is_what_is_built_now(name: str) -> None:
    one = load_scenario(name)
    known = known_of(GridCache(None), one)
    assert known is not None, "missing in the package: run scripts/compile_grids.py"
    placement, network, drawing = known
    now = build(one).grid
    assert drawing == now.drawing()
    assert placement.sites == now.placement.sites
    assert placement.devices == now.placement.devices
    assert placement.load_customers == now.placement.load_customers
    assert placement.bus_names == now.placement.bus_names
    assert_same(network, now.compiled(), tolerance=1e-12)


@pytest.mark.slow_but("three_microgrids")
@pytest.mark.parametrize("name", ["three_microgrids", "mw_microgrids"])
def test_a_shipped_grid_solves_as_runpp_does(name: str) -> None:
    one = load_scenario(name)
    known = known_of(GridCache(None), one)
    assert known is not None
    flow = CompiledPowerFlow(known.network, tolerance_mva=1e-10)
    reference = PandapowerFlow(build(one).net, tolerance_mva=1e-10)
    rng = np.random.default_rng(7)
    for _ in range(3):
        points = flow.set_points * rng.uniform(0.2, 1.0, flow.set_points.shape)
        flow.set_points[:] = reference.set_points[:] = points
        one_result, other = flow.solve(), reference.solve()
        assert np.abs(one_result.vm_pu - other.vm_pu).max() < 1e-9
        assert np.abs(one_result.ext_grid_p_mw - other.ext_grid_p_mw).max() < 1e-7
        assert np.abs(one_result.trafo_loading_percent - other.trafo_loading_percent).max() < 1e-6


@pytest.mark.slow_but("case9")
@pytest.mark.parametrize("network", ["case9", "create_cigre_network_mv", "mv_oberrhein", "case33bw"])
def test_a_file_holds_every_bit_of_a_network(network: str) -> None:
    one = loaded()
    placement = build(one).grid.placement
    compiled = compiled_library(network)
    back = grid_from_bytes(grid_bytes(CompiledGrid(placement, compiled, None))).network
    assert_same(back, compiled, tolerance=0.0)


def test_taps_of_a_file_act_as_those_of_the_network() -> None:
    compiled = compiled_library("three_case33bw_on_cigre_mv")
    back = grid_from_bytes(grid_bytes(CompiledGrid(build(loaded()).grid.placement, compiled, None))).network
    one, other = CompiledPowerFlow(compiled), CompiledPowerFlow(back)
    for flow in (one, other):
        flow.set_taps([np.nan, np.nan, 1.0, -2.0, 2.0])
    assert np.array_equal(one.solve().vm_pu, other.solve().vm_pu)
    assert not np.array_equal(one.solve().vm_pu, CompiledPowerFlow(compiled).solve().vm_pu)


def test_a_day_on_a_known_grid_is_the_same_to_the_bit(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "off")
    anew = day()
    monkeypatch.setenv(VARIABLE, str(directory))
    first, second = day(), day()
    assert list(directory.glob("*.npz"))
    assert anew == first == second


def test_a_known_grid_still_gives_its_pandapower_network(directory: Path) -> None:
    one = loaded()
    kept(directory, one)
    blueprint = build(one, GridCache(directory))
    for place in blueprint.devices.values():
        table, index = place
        assert index in blueprint.net[table].index
    pp.runpp(blueprint.net, numba=False)


@pytest.mark.slow
def test_a_run_of_a_known_grid_never_imports_pandapower() -> None:
    """Quicker: ``test_a_run_imports_nothing_that_it_has_no_use_for`` asks more of the same run."""
    run = [sys.executable, "-X", "importtime", "-m", "heron_mqtt", "run", "--steps", "1", "--json"]
    done = subprocess.run(
        [*run, "--devices", "simulated", "--no-record"],
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    imported = [line.rpartition("|")[2].strip() for line in done.stderr.splitlines()]
    assert "powergrid.envs" in imported
    assert "pandapower" not in imported


# -- another grid ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"network.source": "create_cigre_network_mv"},
        {"microgrids.MG1.devices.ess.bus": "bus_1_2"},
        {"microgrids.MG1.devices.ess": ...},
    ],
)
def test_another_network_or_place_is_another_grid(changes: dict[str, Any]) -> None:
    try:
        other = loaded(changes)
    except Exception as exc:  # a change that the scenario's schema refuses proves nothing
        pytest.fail(f"{changes}: {exc}")
    assert grid_key(other) != grid_key(loaded())


def test_prices_loads_and_seeds_are_no_other_grid() -> None:
    assert grid_key(loaded({"seed": 5, "microgrids.MG1.loads.scale": 0.5})) == grid_key(loaded())


def test_a_network_file_that_changes_is_another_grid(tmp_path: Path) -> None:
    net = load_network("cigre_mv_lv")
    file = tmp_path / "net.json"
    pp.to_json(net, str(file))
    one = loaded({"network.source": str(file)})
    before = grid_key(one)
    net.line.loc[net.line.index[0], "length_km"] *= 2.0
    pp.to_json(net, str(file))
    assert before is not None
    assert grid_key(one) != before


@pytest.mark.slow
def test_a_grid_whose_file_changed_while_it_was_built_is_not_kept(directory: Path, tmp_path: Path) -> None:
    net = load_network("cigre_mv_lv")
    file = tmp_path / "net.json"
    pp.to_json(net, str(file))
    one = loaded({"network.source": str(file)})
    grid = build(one, GridCache(directory)).grid
    net.line["length_km"] *= 2.0
    pp.to_json(net, str(file))
    grid.compiled()
    assert not list(directory.iterdir())
    assert known_of(GridCache(directory), one) is None


def test_a_network_of_which_nobody_can_tell_is_never_kept(directory: Path) -> None:
    class Somewhere(NetworkSource):
        """A plugin that does not say whether its network is still the same."""

        name = "somewhere"

        def names(self) -> tuple[str, ...]:
            return ("changing",)

        def load(self, source: str | Path) -> GridModel:
            return GridModel(load_network("cigre_mv_lv"), {})

    with NETWORK_SOURCES.added(Somewhere):
        one = loaded({"network.source": "changing"})
        assert grid_key(one) is None
        build(one, GridCache(directory)).grid.compiled()
    assert not list(directory.iterdir())


# -- not used ----------------------------------------------------------------------------------------------


def test_a_damaged_file_is_not_used_and_made_anew(directory: Path) -> None:
    one = loaded()
    file = kept(directory, one)
    whole = file.read_bytes()
    for size in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:size])
        assert known_of(GridCache(directory), one) is None, f"{size} of {len(whole)} bytes"
    made(directory, one)
    assert known_of(GridCache(directory), one) is not None


COMPILED: list[tuple[Any, bytes]] = []


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(min_value=0), bit=st.integers(0, 7))
def test_a_bit_that_flips_is_noticed_or_changes_nothing(at: int, bit: int) -> None:
    if not COMPILED:
        grid = build(loaded()).grid
        known = CompiledGrid(grid.placement, grid.compiled(), grid.drawing())
        COMPILED.append((grid.compiled(), grid_bytes(known)))
    right, content = COMPILED[0]
    damaged = bytearray(content)
    damaged[at % len(damaged)] ^= 1 << bit
    try:
        found = grid_from_bytes(bytes(damaged)).network
    except Exception:  # whatever numpy says of a damaged file: it was noticed
        return
    assert_same(found, right, tolerance=0.0)


def test_whatever_numpy_says_of_a_damaged_file_is_no_error_of_the_run(directory: Path) -> None:
    one = loaded()
    file = kept(directory, one)
    whole = file.read_bytes()
    rng = np.random.default_rng(3)
    for _ in range(60):
        damaged = bytearray(whole)
        for at in rng.integers(0, len(whole), 20):
            damaged[at] ^= int(rng.integers(1, 256))
        file.write_bytes(bytes(damaged))
        known_of(GridCache(directory), one)


def test_a_file_with_python_objects_is_refused(directory: Path) -> None:
    one = loaded()
    file = kept(directory, one)
    np.savez(file, text=np.array([print], dtype=object))
    assert known_of(GridCache(directory), one) is None


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="file rights of POSIX")
@pytest.mark.parametrize("what", [lambda file: file, lambda file: file.parent], ids=("file", "directory"))
def test_a_file_that_others_may_write_is_not_used(
    directory: Path, what: Callable[[Path], Path], caplog: pytest.LogCaptureFixture
) -> None:
    one = loaded()
    file = kept(directory, one)
    what(file).chmod(0o777)
    assert known_of(GridCache(directory), one) is None
    assert "others may write" in caplog.text


def test_a_directory_that_cannot_be_made_keeps_no_run_from_running(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    blueprint = build(loaded(), GridCache(tmp_path / "file" / "grids"))
    assert blueprint.grid.compiled().grid.n_node > 0


def test_those_not_used_for_longest_go_first(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("powergrid.simulation.grid_cache.MAX_FILES", 2)
    first = made(directory, loaded())
    second = made(directory, loaded({"microgrids.MG1.devices.ess.bus": "bus_1_2"}))
    os.utime(first, (1, 1))
    os.utime(second, (2, 2))
    assert known_of(GridCache(directory), loaded()) is not None  # used: now the youngest
    third = made(directory, loaded({"microgrids.MG1.devices.ess.bus": "bus_1_3"}))
    assert set(directory.iterdir()) == {first, third}


# -- helpers -----------------------------------------------------------------------------------------------


def assert_same(one: CompiledNetwork, other: CompiledNetwork, tolerance: float) -> None:
    pairs = [(getattr(one.grid, part.name), getattr(other.grid, part.name)) for part in fields(GridArrays)]
    pairs += [(getattr(one, name), getattr(other, name)) for name in ("line_index", "trafo_index")]
    for name in ("power", "scaling", "in_service", "gen_vm_pu"):
        pairs.append((getattr(one.injections, name), getattr(other.injections, name)))
    pairs.append((one.read_taps().admittance, other.read_taps().admittance))
    for left, right in pairs:
        if left is None or right is None:
            assert left is right
            continue
        assert np.asarray(left).dtype == np.asarray(right).dtype
        np.testing.assert_allclose(left, right, rtol=tolerance, atol=tolerance)
    assert list(one.injections.index) == list(other.injections.index)


def compiled_library(name: str) -> CompiledNetwork:
    from powergrid.powerflow import compile_network

    net = load_network(name)
    given_net = copy.deepcopy(net)
    compiled = compile_network(net, 1e-8)
    assert_untouched(net, given_net)
    return compiled


def day() -> list[Any]:
    with contextlib.closing(MultiAgentMicrogrids({"scenario": small({"steps": 8})})) as env:
        env.reset(seed=1)
        found: list[Any] = []
        while env.agents:
            observations, rewards, *_ = env.step({})
            found.append((rewards, {agent: seen.tolist() for agent, seen in observations.items()}))
        return found
