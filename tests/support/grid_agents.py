"""A GridAgent with devices of some tens of kilowatts, and its steps without peers."""

from __future__ import annotations

from collections.abc import Mapping

from heron_mqtt.messages import Command, Observation
from powergrid.agents import GridAgent
from powergrid.devices import BatterySpec, Device, GeneratorSpec, PvSpec
from powergrid.scenario import MarketTable, PolicyTable, ProtocolTable

DT_S = 900.0
DT_H = DT_S / 3600.0
GEN = GeneratorSpec(
    min_p_mw=0.02,
    max_p_mw=0.1,
    cost_a_usd_per_h=0.2,
    cost_b_usd_per_mwh=45.0,
    cost_c_usd_per_mw2h=120.0,
    start_cost_usd=0.1,
)
ESS = BatterySpec(
    max_e_mwh=0.2,
    max_p_charge_mw=0.04,
    max_p_discharge_mw=0.05,
    efficiency_charge=0.95,
    efficiency_discharge=0.9,
    min_soc=0.1,
    max_soc=0.9,
)
PV = PvSpec(max_p_mw=0.12, s_max_mva=0.13)


def make(
    devices: Mapping[str, Device],
    *,
    adder: float = 20.0,
    policy: PolicyTable | None = None,
    protocol: ProtocolTable | None = None,
    peers: tuple[str, ...] = (),
) -> GridAgent:
    return GridAgent(
        "MG1",
        devices,
        peers=peers,
        step_s=DT_S,
        market=MarketTable(import_adder_per_mwh=adder),
        policy=policy,
        protocol=protocol,
    )


def observation(load_mw: float = 0.0, **available: float) -> Observation:
    fields = {f"p_available_{name}": p for name, p in available.items()}
    return Observation.model_validate({"dt_s": DT_S, "p_load_mw": load_mw, **fields})


def command(**fields: float) -> Command:
    return Command.model_validate(fields)


def step(
    agent: GridAgent, price: float, load_mw: float = 0.0, given: Command | None = None, **pv: float
) -> None:
    """Take one step with every device simulated and no peers."""
    agent.observe(observation(load_mw, **pv), price)
    agent.decide(given)
    agent.negotiate()
    for name in agent.conclude():
        agent.simulate(name)
