"""Setpoints inside every bound, and twins against telemetry: the agents' models driven once more.

The models take each step exactly as the gateway let them: with the setpoint that was in force, and where a
device was followed, with what it measured. What they give must be what was recorded.
"""

from __future__ import annotations

import json
from typing import Any

from heron_mqtt.agents.base import LocalState
from heron_mqtt.app.recorded_world import (
    RecordedStep,
    episode_seed,
    recorded_scenario,
    recorded_telemetry,
    steps,
)
from heron_mqtt.field.gateway.clearance import expected_p_mw
from heron_mqtt.field.gateway.device_link import SetpointRequest
from heron_mqtt.messages import Telemetry
from heron_mqtt.messaging import topics
from heron_mqtt.record.reader import RecordFile
from heron_mqtt.record.verify.finding import Finding, at, near
from powergrid.agents import GridAgent
from powergrid.scenario import DeviceTable, Scenario

EXACT = 1e-9
ROUNDING_MW = 1e-9


def check_devices(record: RecordFile) -> tuple[Finding, Finding]:
    """Return: setpoints inside their bounds; twins against telemetry."""
    scenario = recorded_scenario(record)
    bounds = Finding("setpoints inside nameplate, SOC, ramp, band and clearance")
    twins = Finding("twins against telemetry")
    clearances, said = _clearances(record), _said_by_devices(record)
    agents: dict[str, _Agent] = {}
    episode = None
    for one in steps(record):
        if one.at[0] != episode:
            episode = one.at[0]
            seed = episode_seed(record, episode)
            agents = {name: _Agent(scenario, name, episode, seed) for name in scenario.microgrids}
        for agent in agents.values():
            agent.step(one, clearances, said, bounds, twins)
    return bounds, twins


def _clearances(record: RecordFile) -> dict[tuple[int, int, str], dict[str, Any]] | None:
    """Return what was cleared, by episode, step and agent; None where messages were not recorded."""
    if record.meta.get("keeps_messages") != "1":
        return None
    found = {}
    for row in record.each(
        "SELECT channel, payload FROM message_row WHERE type = 'clearance' AND payload IS NOT NULL"
    ):
        said = json.loads(row["payload"])
        found[said.get("episode"), said.get("step"), topics.levels(row["channel"])[1]] = said
    return found


_Said = tuple[str, str, float | None, float | None]
"""Agent, device, p_mw and soc of a telemetry message."""


def _said_by_devices(record: RecordFile) -> set[_Said] | None:
    """Return what devices have said of themselves; None where messages were not recorded."""
    if record.meta.get("keeps_messages") != "1":
        return None
    found: set[_Said] = set()
    for row in record.each(
        "SELECT channel, payload FROM message_row WHERE type = 'telemetry' AND payload IS NOT NULL"
    ):
        told, levels = json.loads(row["payload"]), topics.levels(row["channel"])
        found.add((levels[1], levels[2], told.get("p_mw"), told.get("soc")))
    return found


class _Agent:
    """One agent's models on their way through the record."""

    def __init__(self, scenario: Scenario, name: str, episode: int, seed: int) -> None:
        self._name = name
        self._scenario = scenario
        self._agent = GridAgent.from_scenario(scenario, name)
        self._agent.reset(episode, seed)  # which draws what is random in the devices
        self._tables = scenario.microgrids[name].devices
        self._levels: dict[str, str | None] = {}
        self._unknown: set[str] = set(self._tables)
        """Devices whose model may stand elsewhere than in the run, until they were followed once."""
        self._moved: set[str] = set()
        """Devices whose model was put elsewhere in this step."""
        self._first = True

    def step(
        self,
        one: RecordedStep,
        clearances: dict[tuple[int, int, str], dict[str, Any]] | None,
        said: set[_Said] | None,
        bounds: Finding,
        twins: Finding,
    ) -> None:
        """Take one step."""
        rows = {name: one.devices.get((self._name, name)) for name in self._tables}
        self._moved.clear()
        told = one.agents.get(self._name, {})
        self._agent.observe(
            LocalState(
                self._scenario.step_s,
                commanded=False,
                p_load_mw=told.get("p_load_mw") or 0.0,
                q_load_mvar=told.get("q_load_mvar") or 0.0,
                p_available_mw={
                    name: row["p_available_mw"]
                    for name, row in rows.items()
                    if row is not None and row["p_available_mw"] is not None
                },
            ),
            one.step["price_per_mwh"],
        )
        if self._first:  # models begin where they are reset to, unless the device was somewhere already
            self._unknown = {name for name, table in self._tables.items() if table.external or table.mapping}
            self._first = False
        cleared = None if clearances is None else clearances.get((*one.at, self._name))
        for (agent, name), telemetry in one.taken_up.items():
            if agent == self._name and name in self._tables:
                self._take_up(name, telemetry, said, at(*one.at, f"{agent}/{name}"), twins)
        for name, row in rows.items():
            if row is not None:
                where = at(*one.at, f"{self._name}/{name}")
                self._check_bounds(name, row, where, bounds)
                if clearances is not None and self._scenario.envelope.grid_check:
                    _check_clearance(name, self._tables[name], row, cleared, where, bounds)
                self._move(name, row, where, twins, arrived=told.get("fallback") is None)

    def _take_up(
        self, name: str, telemetry: Telemetry, said: set[_Said] | None, where: str, twins: Finding
    ) -> None:
        """Put a model where the run has put it; when in the step is not known, so its ramp is not either."""
        if said is not None:
            twins.check(
                (self._name, name, telemetry.p_mw, telemetry.soc) in said,
                f"{where}: its model was put at {telemetry.p_mw} MW, state of charge {telemetry.soc}, "
                "which the device has not reported",
            )
        self._agent.reseed(name, telemetry)
        self._moved.add(name)
        self._unknown.discard(name)

    # -- bounds ------------------------------------------------------------------------------------

    def _check_bounds(self, name: str, row: dict[str, Any], where: str, bounds: Finding) -> None:
        if row["sent_p_mw"] is None:
            return
        limits, p, q = self._agent.limits(name), row["sent_p_mw"], row["sent_q_mvar"] or 0.0
        inside = limits.p_min_mw - ROUNDING_MW <= p <= limits.p_max_mw + ROUNDING_MW
        bounds.check(
            inside,
            f"{where}: {p:.6g} MW sent, the nameplate is {limits.p_min_mw:g} .. {limits.p_max_mw:g} MW",
        )
        held = p if row["p_available_mw"] is None else min(p, row["p_available_mw"])
        bounds.check(
            held * held + q * q <= (limits.s_max_mva + ROUNDING_MW) ** 2 + ROUNDING_MW,
            f"{where}: {held:.6g} MW and {q:.6g} Mvar are more than {limits.s_max_mva:g} MVA",
        )
        if (
            name not in self._unknown | self._moved and p != 0.0
        ):  # 0 is safe, whatever the ramp: a stop, no clearance
            low, high = limits.feasible_min_mw - ROUNDING_MW, limits.feasible_max_mw + ROUNDING_MW
            band = self._tables[name].gateway.band
            reduced = band is not None and row["authority"] == "limited"
            bounds.check(
                reduced or low <= p <= high or _is_reduced(row),
                f"{where}: {p:.6g} MW sent, state of charge and ramp allow {low:.6g} .. {high:.6g} MW",
            )
        _check_band(self._tables[name], row, where, bounds)
        bounds.check(
            row["cleared_p_mw"] is None or near(p, row["cleared_p_mw"], EXACT),
            f"{where}: {p:.6g} MW sent, {row['cleared_p_mw']} MW was left after clearance",
        )
        if row["bounded_p_mw"] is not None:
            bounds.check(
                abs(p) <= abs(row["bounded_p_mw"]) + ROUNDING_MW,
                f"{where}: {p:.6g} MW sent, more than the bounded {row['bounded_p_mw']:.6g} MW",
            )

    # -- twins -------------------------------------------------------------------------------------

    def _move(self, name: str, row: dict[str, Any], where: str, twins: Finding, *, arrived: bool) -> None:
        """Let the model take the step, and compare.

        Where the agent's action has not ``arrived``, the grid stands elsewhere than the agent's models: the
        device is in it as in its safe state. The models still continue.
        """
        if not arrived:
            due = self._tables[name].spec.safe_p_mw(row["p_available_mw"])
            twins.check(
                near(row["p_mw"], due, EXACT),
                f"{where}: {row['p_mw']} MW in the grid without an action, the safe state is {due} MW",
            )
        if row["cleared_p_mw"] is None:  # no setpoint was made: merely simulated
            if arrived:
                self._restore(name, row)
            else:
                self._unknown.add(name)
            return
        level = row["authority"]
        if self._levels.get(name, level) != level and name not in self._moved:
            self._unknown.add(name)  # its model was put where the device was
        self._levels[name] = level
        setpoint = SetpointRequest(row["cleared_p_mw"], row["cleared_q_mvar"] or 0.0, row["p_available_mw"])
        residual, telemetry = row["residual_mw"], recorded_telemetry(row)
        is_followed = residual is not None and level != "shadow" and row["fallback"] is None
        if is_followed and telemetry is not None:
            due = self._agent.measured(name, telemetry, setpoint=setpoint)
            if name not in self._unknown:
                twins.check(
                    near(residual, due, EXACT),
                    f"{where}: residual {residual} MW recorded, the twin gives {due}",
                )
            if arrived:
                twins.check(
                    near(row["p_mw"], telemetry.p_mw, EXACT),
                    f"{where}: {row['p_mw']} MW in the grid, the device measured {telemetry.p_mw}",
                )
            self._unknown.discard(name)
        else:
            self._agent.simulate(name, row["fallback"], setpoint=setpoint)
            if level == "shadow" and residual is not None and telemetry is not None:
                self._agent.shadowed(name, telemetry)
        if not arrived:
            return
        said = self._agent.report()
        if name in self._unknown:
            self._restore(name, row)
            return
        for what, value in (("p_mw", said.p_mw), ("q_mvar", said.q_mvar), ("soc", said.soc)):
            if name in value:
                twins.check(
                    near(row[what], value[name], EXACT),
                    f"{where}: {what} {row[what]} recorded, the model gives {value[name]:.9g}",
                )

    def _restore(self, name: str, row: dict[str, Any]) -> None:
        """Put a model where the record has the device."""
        if row["p_mw"] is not None:
            self._agent.reseed(name, Telemetry(p_mw=row["p_mw"], soc=row["soc"]))
            self._unknown.discard(name)


def _is_reduced(row: dict[str, Any]) -> bool:
    """Whether something that weighs more than the ramp reduced it: a stop, the check of all together."""
    bounded = row["bounded_p_mw"]
    return bounded is not None and abs(row["sent_p_mw"]) < abs(bounded)


def _check_band(table: DeviceTable, row: dict[str, Any], where: str, bounds: Finding) -> None:
    band, p = table.gateway.band, row["sent_p_mw"]
    if band is not None and row["authority"] == "limited":
        bounds.check(
            band.p_min_mw - ROUNDING_MW <= p <= band.p_max_mw + ROUNDING_MW,
            f"{where}: {p:.6g} MW sent, the band is {band.p_min_mw:g} .. {band.p_max_mw:g} MW",
        )


def _check_clearance(
    name: str,
    table: DeviceTable,
    row: dict[str, Any],
    cleared: dict[str, Any] | None,
    where: str,
    bounds: Finding,
) -> None:
    if row["sent_p_mw"] is None:
        return
    reach_mw = row["p_available_mw"] if table.spec.profile_bounds else None
    sent = expected_p_mw(SetpointRequest(row["sent_p_mw"], row["sent_q_mvar"] or 0.0, reach_mw=reach_mw))
    if cleared is None:
        bounds.check(abs(sent) <= ROUNDING_MW, f"{where}: {sent:.6g} MW sent without a clearance")
    elif cleared.get("limit") is not None:
        most = cleared.get(f"p_{name}", 0.0)
        inside = min(0.0, most) - ROUNDING_MW <= sent <= max(0.0, most) + ROUNDING_MW
        bounds.check(inside, f"{where}: {sent:.6g} MW sent, {most:.6g} MW was cleared")
