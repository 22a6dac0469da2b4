"""Energy balance: every step's grid solved again from the record, and compared with what was recorded."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from heron_mqtt.app.recorded_world import RecordedStep, episode_seed, recorded_blueprint, steps
from heron_mqtt.errors import PowerFlowDiverged
from heron_mqtt.record.reader import RecordFile
from heron_mqtt.record.verify.finding import Finding, at, near
from powergrid.envs.grid_state import GridState
from powergrid.powerflow.injections import Injections
from powergrid.rewards import TERMS, traded
from powergrid.simulation.grid_simulation import GridSimulation
from powergrid.simulation.randomiser import NO_NOISE, Randomiser, StepNoise

EXACT = 1e-9  # sums of the same numbers
SOLVED = 1e-6  # pu and percent: what another machine's solver may differ by
BALANCED_MW = 1e-6


def check_balance(record: RecordFile) -> tuple[Finding, Finding, Finding]:
    """Solve every step again; return energy balance, grid state and rewards."""
    balance = Finding("energy balance of every step, by power flow")
    grid = Finding("voltages and loadings as the power flow gives them")
    rewards = Finding("rewards follow from what happened")
    world = GridSimulation(recorded_blueprint(record))
    state = GridState(world, full=False)
    every = list(steps(record))
    episode, noise = None, NO_NOISE
    randomiser = Randomiser(world, max((one.at[1] + 1 for one in every), default=1))
    for one in every:
        if one.at[0] != episode:
            episode = one.at[0]
            noise = randomiser.noise(episode_seed(record, episode))
        _check_step(world, state, one, randomiser.step(noise, one.at[1]), balance, grid, rewards)
    for table in ("agent_row", "device_row"):
        for row in record.query(
            f"SELECT DISTINCT episode, step FROM {table} EXCEPT SELECT episode, step FROM step_row"  # noqa: S608
        ):
            balance.check(False, f"{at(*row)}: there are rows in {table}, and none of the step")
    return balance, grid, rewards


def _check_step(
    world: GridSimulation,
    state: GridState,
    one: RecordedStep,
    chance: StepNoise,
    balance: Finding,
    grid: Finding,
    rewards: Finding,
) -> None:
    where, row = at(*one.at), one.step["row"]
    if not world.series.has(row):
        balance.check(False, f"{where}: row {row} is beyond the time series")
        return
    whole = set(one.agents) == set(world.agents) and all(
        (d.agent, d.name) in one.devices for d in world.devices
    )
    if not balance.check(whole, f"{where}: rows of agents or devices are missing"):
        return
    columns = [one.devices[d.agent, d.name] for d in world.devices]
    numbers = [_number(device["p_mw"]) for device in columns]
    state.p_mw[:], state.q_mvar[:] = numbers, [_number(device["q_mvar"]) for device in columns]
    storage = [device for d, device in zip(world.devices, columns, strict=True) if d.has_soc]
    state.soc[:] = [_number(device["soc"]) for device in storage]
    state.look_ahead(chance.outlook(world.series.outlook(row)), world.series.clock_s(row))
    state.traded_mwh[:], earned = traded(world.agents, one.trades)
    state.account()
    price = float(state.price[0])
    balance.check(
        near(one.step["price_per_mwh"], price, EXACT),
        f"{where}: the price was {one.step['price_per_mwh']}, the time series say {price}",
    )
    for i, agent in enumerate(world.agents):
        said = one.agents[agent]
        load, net = float(state.p_load_mw[i]), float(state.net_mwh[i])
        balance.check(
            near(said["p_load_mw"], load, EXACT),
            f"{where} {agent}: loads of {said['p_load_mw']} MW recorded, the time series say {load:.9g}",
        )
        balance.check(
            near(said["net_mwh"], net, EXACT),
            f"{where} {agent}: {said['net_mwh']} MWh net recorded, devices and loads come to {net:.9g}",
        )
    if one.step["diverged"] is not None:
        return
    try:
        state.apply(world.solve(row, state.p_mw, state.q_mvar, chance.load_factor))
    except PowerFlowDiverged as exc:
        grid.check(False, f"{where}: a solution was recorded, there is none ({exc.reason})")
        return
    _check_mismatch(world, where, balance)
    for i, agent in enumerate(world.agents):
        _check_agent_grid(one.agents[agent], state, i, f"{where} {agent}", grid)
    cost = np.array([-_number(_terms(one.agents[agent]).get("generation")) for agent in world.agents])
    due = state.reward_terms(cost, earned)
    for i, agent in enumerate(world.agents):
        _check_rewards(one.agents[agent], due[:, i], f"{where} {agent}", rewards)


def _check_mismatch(world: GridSimulation, where: str, balance: Finding) -> None:
    """Add up everything that enters and leaves the grid."""
    net = world.blueprint.net
    if any(
        len(getattr(net, table, ())) for table in ("shunt", "ward", "xward", "dcline", "impedance", "gen")
    ):
        balance.note = "the network has elements whose power is not among the results: losses not added up"
        return
    flow = world.flow
    result = flow.solve()
    drawn = _active_mw(flow.load) + _active_mw(flow.storage) - _active_mw(flow.sgen)
    mismatch = float(result.ext_grid_p_mw.sum() - drawn - result.losses_mw)
    balance.check(
        abs(mismatch) <= BALANCED_MW,
        f"{where}: {mismatch:.3g} MW came from nowhere (grid {result.ext_grid_p_mw.sum():.6g}, "
        f"drawn {drawn:.6g}, losses {result.losses_mw:.6g} MW)",
    )


def _active_mw(given: Injections) -> float:
    """Return what a table draws or injects, MW: its own scaling counts, what is out of service does not."""
    return float((given.p_mw * given.scaling)[given.in_service].sum())


def _check_agent_grid(said: dict[str, Any], state: GridState, i: int, where: str, grid: Finding) -> None:
    for name, values in (
        ("vm_min_pu", state.vm_min_pu),
        ("vm_max_pu", state.vm_max_pu),
        ("loading_max_percent", state.loading_max_percent),
    ):
        value = float(values[i])
        due = None if np.isnan(value) else value
        grid.check(
            near(said[name], due, SOLVED),
            f"{where}: {name} {said[name]} recorded, the power flow gives {due}",
        )


def _check_rewards(said: dict[str, Any], due: Any, where: str, rewards: Finding) -> None:
    terms = _terms(said)
    for name, value in zip(TERMS, due.tolist(), strict=True):
        rewards.check(
            near(terms.get(name), value, SOLVED),
            f"{where}: reward term {name} {terms.get(name)}, due {value:.9g}",
        )
    total = sum(_number(term) for term in terms.values())
    rewards.check(near(said["reward"], total, EXACT), f"{where}: reward {said['reward']}, terms {total:.9g}")


def _terms(said: dict[str, Any]) -> dict[str, Any]:
    return dict(json.loads(said["reward_terms"] or "{}"))


def _number(value: float | None) -> float:
    return 0.0 if value is None else value
