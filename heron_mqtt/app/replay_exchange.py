"""The agents of a recorded run, driven again: with what the network let through, and what devices did.

A device is given its recorded answer as long as its setpoint and its state are those of the record. From
where they differ it answers as its model does, plus the residual that it had in that step of the record.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from heron_mqtt.agents.base import StepReport
from heron_mqtt.app.other_network import OtherNetwork
from heron_mqtt.app.recorded_world import RecordedStep, recorded_telemetry
from heron_mqtt.field.gateway.clearance import NO_CLEARANCE, apply_clearance, make_plan
from heron_mqtt.field.gateway.device_link import SetpointRequest
from heron_mqtt.field.gateway.envelope import Band
from heron_mqtt.field.gateway.gateway import ESTOP
from heron_mqtt.field.gateway.twins import clamp_setpoints
from heron_mqtt.messages import Command, Consensus, Telemetry
from heron_mqtt.messaging import topics
from heron_mqtt.protocols.base import HorizontalSession
from heron_mqtt.protocols.setpoint import StepCommand
from heron_mqtt.record.deliveries import Deliveries
from powergrid.agents import GridAgent
from powergrid.envs.exchange import ClearPlans, DirectExchange, StepInput
from powergrid.scenario import Scenario

SAME_MW = 1e-12


class ReplayExchange(DirectExchange):
    """Drives the agents of a record; without an action an agent follows its recorded command, if it had one.

    Args:
        scenario: Of the run.
        recorded: Its steps, by number.
        deliveries: What arrived in time.
        heals: As if the network had been perfect: everything is in time.
        network: Another network than the recorded one: it says what is in time.
        check: Clears plans, where the run had it.
    """

    def __init__(
        self,
        scenario: Scenario,
        recorded: Mapping[int, RecordedStep],
        deliveries: Deliveries,
        check: ClearPlans | None,
        *,
        heals: bool = False,
        network: OtherNetwork | None = None,
    ) -> None:
        agents = {name: GridAgent.from_scenario(scenario, name) for name in scenario.microgrids}
        super().__init__(agents, check)
        self._scenario = scenario
        self._recorded = recorded
        self._deliveries = deliveries
        self._heals = heals
        self._network = network
        self._is_recorded = not heals and network is None
        """Whether messages fare as they did in the record."""
        self._apart: set[tuple[str, str]] = set()
        """Devices that have left the record: they were told something else, or are somewhere else."""
        self._silenced: set[tuple[str, str]] = set()
        """Devices that the network keeps silent."""
        self.apart_since: dict[str, int] = {}
        """AGENT/DEVICE -> step in which it left the record."""

    def reset(self, episode: int, seed: int | None) -> None:
        """Begin the episode again."""
        super().reset(episode, seed)
        self._apart.clear()
        self._silenced.clear()
        self.apart_since.clear()

    def step(self, given: StepInput) -> Mapping[str, StepReport]:
        """Carry every agent through the step."""
        one = self._recorded.get(given.step)
        at = one.at if one is not None else (given.episode, given.step)
        self._take_up(one)
        for name, agent in self.agents.items():
            self._inform(name, agent, given, at)
        self._negotiate_again(at)
        bounds = self._drive(given.step, one)
        reports = {}
        for name, agent in self.agents.items():
            said = one.agents.get(name) if one is not None else None
            if self._is_recorded and said is not None and said["fallback"] is not None:
                continue  # its action did not come in time
            if self._network is not None and not self._network.told(
                at, name, topics.agent(name, "action"), "action"
            ):
                continue
            reports[name] = agent.report()
            reports[name].bounds = bounds.get(name, {})
        return reports

    def _take_up(self, one: RecordedStep | None) -> None:
        """Put the models where devices said that they were, of those that have not left the record."""
        for (name, device), telemetry in (one.taken_up if one is not None else {}).items():
            if (name, device) not in self._apart and device in self.agents[name].devices:
                self.agents[name].reseed(device, telemetry)

    # -- what the agents know ------------------------------------------------------------------------

    def _inform(self, name: str, agent: GridAgent, given: StepInput, at: tuple[int, int]) -> None:
        if self._heard(at, name, topics.operator_price(self._scenario.operator_id), "price"):
            self._prices[name] = given.price
        command = given.commands.get(name) or self._recorded_command(name, given)
        if command is not None and not self._heard(at, name, topics.agent(name, "command"), "command"):
            command = None
        told = given.observations[name]
        heard = self._heard(at, name, topics.agent(name, "observation"), "observation")
        agent.observe(told if heard else None, self._prices[name])
        agent.decide(command)

    def _recorded_command(self, name: str, given: StepInput) -> StepCommand | None:
        """Return what the agent was commanded in the record, if it was."""
        one = self._recorded.get(given.step)
        said = one.agents.get(name) if one is not None else None
        if said is None or said["command"] is None:
            return None
        command = Command.model_validate(json.loads(said["command"]))
        return StepCommand(given.episode, given.step, command.values("p_"), command.values("q_"))

    def _heard(self, at: tuple[int, int], agent: str, channel: str, kind: str) -> bool:
        if self._network is not None:
            return self._network.told(at, agent, channel, kind)
        return self._heals or self._deliveries.told(at, agent, channel, kind)

    def _peer_heard(self, at: tuple[int, int], sender: str, receiver: str, kind: str, number: int) -> bool:
        if self._network is not None:
            return self._network.peer(at, sender, receiver, kind, number)
        return self._heals or self._deliveries.peer(at, sender, receiver, kind, number)

    def _negotiate_again(self, at: tuple[int, int]) -> None:
        sessions: dict[str, HorizontalSession] = {}
        for name, agent in self.agents.items():
            session = agent.negotiate()
            if session is not None:
                sessions[name] = session
        going = sessions
        while going:
            for name, session in going.items():
                for peer, message in session.outgoing().items():
                    number = message.round if isinstance(message, Consensus) else 0
                    kind = str(getattr(message, "type", ""))
                    if self._peer_heard(at, name, peer, kind, number):
                        sessions[peer].receive(name, message)
            going = {name: session for name, session in going.items() if session.advance()}

    def put_as_recorded(self, one: RecordedStep) -> None:
        """Put every device where the record has it after a step; from there all follow the record again."""
        for (agent, device), row in one.devices.items():
            if row["p_mw"] is not None:
                said = Telemetry(p_mw=row["p_mw"], q_mvar=row["q_mvar"] or 0.0, soc=row["soc"])
                self.agents[agent].reseed(device, said)
        self._apart.clear()
        self._silenced.clear()

    # -- what the devices do -------------------------------------------------------------------------

    def _drive(self, step: int, one: RecordedStep | None) -> dict[str, dict[str, str]]:
        devices = {name: agent.conclude() for name, agent in self.agents.items()}
        rows = one.devices if one is not None else {}
        driven = [
            name
            for name in self.agents
            if self._check is not None
            or any(rows.get((name, d), {}).get("cleared_p_mw") is not None for d in devices[name])
        ]
        allowed = {name: self._bounded(name, self.agents[name], rows) for name in driven}
        planned = {name: dict(setpoints) for name, setpoints in allowed.items()}
        bounds: dict[str, dict[str, str]] = {name: {} for name in self.agents}
        if self._check is not None:
            clearances = self._check(step, {name: make_plan(own) for name, own in allowed.items()})
            for name in driven:
                silent = any(
                    NO_CLEARANCE in (rows.get((name, d), {}).get("bound") or "") for d in devices[name]
                )
                clearance = None if silent and self._is_recorded else clearances[name]
                bounds[name] = apply_clearance(allowed[name], clearance)
        for name, agent in self.agents.items():
            if name not in allowed:
                for device in devices[name]:
                    agent.simulate(device)
                continue
            for device, setpoint in allowed[name].items():
                row = rows.get((name, device))
                self._answer(name, agent, device, planned[name][device], setpoint, row, step)
        return bounds

    def _bounded(
        self, name: str, agent: GridAgent, rows: Mapping[tuple[str, str], dict[str, Any]]
    ) -> dict[str, SetpointRequest]:
        wanted = agent.wanted()
        bands = {}
        for device, table in self._scenario.microgrids[name].devices.items():
            row, band = rows.get((name, device), {}), table.gateway.band
            if band is not None and row.get("authority") == "limited":
                bands[device] = Band(band.p_min_mw, band.p_max_mw)
        allowed, _ = clamp_setpoints(agent, wanted, bands)
        for device in allowed:
            if ESTOP in (rows.get((name, device), {}).get("bound") or ""):
                allowed[device] = allowed[device].zero()
        return allowed

    def _answer(
        self,
        name: str,
        agent: GridAgent,
        device: str,
        planned: SetpointRequest,
        setpoint: SetpointRequest,
        row: dict[str, Any] | None,
        step: int,
    ) -> None:
        """Let a device take its setpoint, as in the record where that is the same."""
        if row is None:
            agent.simulate(device, setpoint=setpoint)
            return
        if _is_same(planned, row, "bounded") and (name, device) not in self._apart:
            setpoint = _recorded_setpoint(row, setpoint)  # what a stop or a demotion left of it, too
        elif (name, device) not in self._apart:
            self._apart.add((name, device))
            self.apart_since[f"{name}/{device}"] = step
        same = (name, device) not in self._apart
        residual, telemetry = row["residual_mw"], recorded_telemetry(row)
        fallback = row["fallback"]
        at = (row["episode"], row["step"])
        device_s = self._scenario.deadlines.device_s
        if fallback is None:
            self._silenced.discard((name, device))
        elif self._deliveries.kept_silent(at, name, device, device_s):
            self._silenced.add((name, device))  # until it is followed again: it is not waited for any more
        if not self._is_recorded and (name, device) in self._silenced:
            self._apart.add((name, device))
            self.apart_since.setdefault(f"{name}/{device}", step)
            fallback, same, residual = None, False, 0.0
        was_sent = row["sent_p_mw"] is not None
        if self._network is not None and was_sent and self._network.kept_silent(at, name, device, device_s):
            self._apart.add((name, device))
            self.apart_since.setdefault(f"{name}/{device}", step)
            fallback = "no telemetry before the deadline"
        if fallback is not None or residual is None or row["authority"] == "shadow":
            agent.simulate(device, fallback, setpoint=setpoint)
            if row["authority"] == "shadow" and telemetry is not None and residual is not None:
                agent.shadowed(device, telemetry)
        elif same and telemetry is not None:
            agent.measured(device, telemetry, setpoint=setpoint)
        else:
            self._answer_as_model(agent, device, setpoint, residual)

    def _answer_as_model(
        self, agent: GridAgent, device: str, setpoint: SetpointRequest, residual_mw: float
    ) -> None:
        """Answer as the model does, plus the residual of the record, within the nameplate."""
        model = agent.devices[device]
        before = model.state
        agent.simulate(device, setpoint=setpoint)
        done = agent.report()
        limits = agent.limits(device)
        p_mw = min(max(done.p_mw[device] + residual_mw, limits.p_min_mw), limits.p_max_mw)
        if p_mw == done.p_mw[device]:
            return
        model.state = before
        agent.measured(device, Telemetry(p_mw=p_mw, q_mvar=done.q_mvar[device]), setpoint=setpoint)


def _is_same(setpoint: SetpointRequest, row: dict[str, Any], stage: str) -> bool:
    p, q = row[f"{stage}_p_mw"], row[f"{stage}_q_mvar"]
    if p is None:
        return False
    return abs(setpoint.p_mw - p) <= SAME_MW and abs(setpoint.q_mvar - (q or 0.0)) <= SAME_MW


def _recorded_setpoint(row: dict[str, Any], setpoint: SetpointRequest) -> SetpointRequest:
    if row["cleared_p_mw"] is None:
        return setpoint
    return replace(setpoint, p_mw=row["cleared_p_mw"], q_mvar=row["cleared_q_mvar"] or 0.0)
