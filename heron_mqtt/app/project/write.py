"""The files of a new project, written into a folder in which they overwrite nothing."""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

from heron_mqtt.app.schemas import schema_of
from heron_mqtt.errors import ConfigError, PowerFlowDiverged

if TYPE_CHECKING:
    from powergrid.networks.layout import Microgrid
    from powergrid.simulation.grid_simulation import GridSimulation

CUSTOMERS = ("residential", "industrial", "commercial")
TEMPLATES = {
    "device.py": "device.py.txt",
    "agent.py": "agent.py.txt",
    "test_microgrids.py": "test_microgrids.py.txt",
    "pytest.ini": "pytest.ini.txt",
    "README.md": "README.md.txt",
}
MAX_MICROGRIDS = 1_000
VM_STEP_PU = 0.005
ROOM_PU = 0.01
"""What is left to the limit for the devices."""
LONGEST_NAME = 64  # of a scenario
MOST_IN_PAIRS = 10  # microgrids that trade each with each other: N (N - 1) offers a step


def make_project(folder: Path, network: str, count: int | None, seed: int) -> list[Path]:
    """Write a project and return its files.

    Args:
        folder: Made where it does not exist.
        network: As in a scenario.
        count: Of microgrids; None = those that a shipped network has, else 3.
        seed: Of the sizes of the devices.

    Raises:
        ConfigError: A file is there already, or the network or the number cannot be used; nothing is
            written.
    """
    from powergrid.networks import load_grid
    from powergrid.networks.layout import laid_out

    if count is not None and not 1 <= count <= MAX_MICROGRIDS:
        raise ConfigError(f"--microgrids {count}: expected 1 to {MAX_MICROGRIDS}")
    if seed < 0:
        raise ConfigError(f"--seed {seed}: expected a number of at least 0")
    try:
        net = load_grid(network).net
    except ConfigError as exc:
        raise ConfigError(*(f"--{problem}" for problem in exc.problems)) from None
    microgrids = laid_out(net, count or 3, seed)
    plain = re.sub(r"[^a-z0-9_]+", "_", Path(os.path.realpath(folder)).name.lower())
    name = plain[:LONGEST_NAME].strip("_") or "my_microgrids"
    vm_pu = _supply_vm_pu(_simulation(scenario_text(name, network, microgrids)), net)
    if vm_pu is not None:
        net.ext_grid["vm_pu"] = vm_pu
        microgrids = laid_out(net, count or 3, seed)
    _simulation(scenario_text(name, network, microgrids, vm_pu))
    is_file = "/" in network or network.endswith(".json")
    if is_file and not Path(network).is_absolute():  # a scenario looks for files beside itself
        network = Path(os.path.relpath(network, folder)).as_posix()
    first = microgrids[0]
    values = {
        "name": name,
        "agent": first.name,
        "ess_mw": f"{first.ess_mw:g}",
        "ess_mwh": f"{2 * first.ess_mw:g}",
        "band_mw": f"{first.ess_mw / 5:g}",
        "microgrids": str(len(microgrids)),
        "network": network,
    }
    files = {
        "scenario.toml": scenario_text(name, network, microgrids, vm_pu),
        "schema/scenario.json": json.dumps(schema_of("scenario"), indent=1) + "\n",
        **{path: _filled(template, values) for path, template in TEMPLATES.items()},
    }
    return _write(folder, files)


def _simulation(scenario: str) -> GridSimulation:
    """Return the grid of a scenario.

    Raises:
        ConfigError: The scenario would not run: the network's borders, elements or power flow forbid it.
    """
    from powergrid.envs.microgrid_environment import MicrogridEnvironment

    try:
        return MicrogridEnvironment({"scenario": tomllib.loads(scenario)}).simulation
    except ConfigError as exc:
        problems = (problem.removeprefix("scenario: ") for problem in exc.problems)
        raise ConfigError(*(f"--network cannot be used: {problem}" for problem in problems)) from None


def _supply_vm_pu(simulation: GridSimulation, net: Any) -> float | None:
    """Return a voltage of the supply, pu, with which the network alone stays inside the band of the reward.

    The time series were not made for this network. At low load, a network with much PV can have voltages for
    which agents get a penalty that their actions cannot avoid.

    Args:
        simulation: The grid, with the network's own voltage; is changed.
        net: pandapowerNet; its external grids are read.

    Returns:
        None = the network's own does, or none would.
    """
    from powergrid.networks.layout import VM_MAX_PU
    from powergrid.simulation.idle_voltages import idle_voltages, rows_of_least_and_most_load

    vm_min_pu = simulation.scenario.reward.vm_min_pu
    quiet, busy = rows_of_least_and_most_load(simulation, range(simulation.series.n_rows))
    try:
        lowest, highest = (one.vm_pu for one in idle_voltages(simulation, quiet))
        too_high_pu, too_low_pu = max(highest - VM_MAX_PU, 0.0), max(vm_min_pu - lowest, 0.0)
        if too_high_pu == too_low_pu:  # none, or both
            return None
        shift_pu = too_low_pu + ROOM_PU if too_low_pu else -too_high_pu - ROOM_PU
        own_pu = float(net.ext_grid.vm_pu[net.ext_grid.in_service].mean())
        vm_pu = round(round((own_pu + shift_pu) / VM_STEP_PU) * VM_STEP_PU, 3)
        simulation.flow.set_slack(vm_pu)
        found = [one.vm_pu for row in (quiet, busy) for one in idle_voltages(simulation, row)]
    except PowerFlowDiverged:
        return None
    return vm_pu if vm_min_pu <= min(found) and max(found) <= VM_MAX_PU else None


def _filled(template: str, values: Mapping[str, str]) -> str:
    text = (resources.files("heron_mqtt.app.project") / template).read_text("utf-8")
    return Template(text).substitute(values)


def _write(folder: Path, files: Mapping[str, str]) -> list[Path]:
    paths = {folder / name: text for name, text in files.items()}
    try:
        there = [str(path) for path in paths if path.exists()]
        if there:
            raise ConfigError(f"init {folder}: {', '.join(there)}: exists already; choose another folder")
        for path, text in paths.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, "utf-8")
    except OSError as exc:
        raise ConfigError(f"init {folder}: cannot be written: {exc.strerror or exc}") from None
    return list(paths)


def scenario_text(name: str, network: str, microgrids: list[Microgrid], vm_pu: float | None = None) -> str:
    """Return a scenario with a comment for what people change first; ``vm_pu`` is the supply's voltage."""
    supply = (
        ""
        if vm_pu is None
        else f"vm_pu = {vm_pu:<11g} # of the supply; with its own the network leaves the band of the reward\n"
    )
    parts = [
        f"""#:schema schema/scenario.json
# {len(microgrids)} microgrids on the network {network}. Power is positive when it is injected into the grid.
# Every key: the page scenarios of the documentation. Look at what this is: heron-mqtt check scenario.toml
name = "{name}"
steps = 96          # one day ...
step_s = 900.0      # ... of 15 minutes a step
seed = 0
lease_s = 30.0      # a device that receives nothing for this time (wall clock) goes to its safe state

[network]
source = {json.dumps(network)}    # heron-mqtt list networks; or the file of a pandapower network, mine.json
{supply}
[profiles]          # data that is shipped; name your own files here
file = "profiles/simbench_week.csv"
price_file = "profiles/price_week.csv"
price_column = "price_per_mwh"
start_row = 0       # or begin elsewhere: heron-mqtt run --start "2016-07-05 06:00"

[market]
import_adder_per_mwh = 20.0     # network charge on what is drawn from the grid, $/MWh
"""
    ]
    if len(microgrids) > MOST_IN_PAIRS:
        parts.append("""
[protocol]          # for many: two messages an agent and step; "p2p" sends an offer from each to each
horizontal = "order_book"
""")
    for number, m in enumerate(microgrids):
        customer, sun = CUSTOMERS[number % 3], f"pv_{number % 3 + 1}_pu"
        parts.append(f"""
[microgrids.{m.name}]
buses = {list(m.buses)}
loads = {{ p = "{customer}_p_pu", q = "{customer}_q_pu" }}     # {m.load_mw:.4g} MW nominal
policy = {{ charge_below = 41.0, discharge_above = 63.0 }}  # $/MWh

[microgrids.{m.name}.devices.ess]
kind = "battery"
bus = {m.device_bus}
max_e_mwh = {2 * m.ess_mw:g}
max_p_charge_mw = {m.ess_mw:g}
max_p_discharge_mw = {m.ess_mw:g}
efficiency_charge = 0.95
efficiency_discharge = 0.95
min_soc = 0.1
max_soc = 0.9

[microgrids.{m.name}.devices.gen]
kind = "generator"
bus = {m.device_bus}
max_p_mw = {m.gen_mw:g}
min_p_mw = {m.gen_mw / 5:g}
ramp_mw_per_s = {m.gen_mw / 200:g}
cost_a_usd_per_h = 0.1
cost_b_usd_per_mwh = 45.0
cost_c_usd_per_mw2h = {15 / m.gen_mw:g}
start_cost_usd = {2 * m.gen_mw:.2g}

[microgrids.{m.name}.devices.pv]
kind = "pv"
bus = {m.device_bus}
max_p_mw = {m.pv_mw:g}
s_max_mva = {1.1 * m.pv_mw:g}
profile = "{sun}"
control_q = true
""")
    return "".join(parts)
