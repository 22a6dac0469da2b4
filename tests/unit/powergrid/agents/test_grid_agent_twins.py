"""GridAgent: twins follow their devices, peers are talked to, episodes begin afresh."""

from __future__ import annotations

import pytest

from heron_mqtt.messages import Telemetry
from heron_mqtt.protocols.consensus import ConsensusSession
from heron_mqtt.protocols.p2p import P2PSession
from powergrid.agents import GridAgent
from powergrid.devices import Battery, Device, Generator, Pv
from powergrid.scenario import PolicyTable, ProtocolTable, load_scenario
from support.grid_agents import DT_H, DT_S, ESS, GEN, PV, command, make, observation, step

# -- without an observation --------------------------------------------------------------------------------


def test_without_an_observation_the_last_load_and_price_are_the_best_guess_and_pv_gives_nothing() -> None:
    agent = make({"gen": Generator(GEN), "pv": Pv(PV)})
    step(agent, 50.0, load_mw=-0.06, pv=0.0)
    agent.observe(None, None)
    agent.decide(None)
    for name in agent.conclude():
        agent.simulate(name, "no observation")
    report = agent.report()
    assert report.p_mw == pytest.approx({"gen": 0.06, "pv": 0.0})
    assert report.fallbacks == {"gen": "no observation", "pv": "no observation"}


def test_a_reason_does_not_outlive_its_step() -> None:
    agent = make({"gen": Generator(GEN)})
    agent.observe(observation(), 50.0)
    agent.decide(None)
    agent.wanted()
    agent.simulate("gen", "silent")
    step(agent, 50.0)
    assert agent.report().fallbacks == {}


def test_a_device_that_was_not_driven_is_not_reported() -> None:
    agent = make({"gen": Generator(GEN), "ess": Battery(ESS)})
    agent.observe(observation(), 50.0)
    agent.decide(None)
    agent.wanted()
    agent.simulate("ess")
    report = agent.report()
    assert set(report.p_mw) == {"ess"}
    assert report.cost == {}


# -- twins -------------------------------------------------------------------------------------------------


def measured(agent: GridAgent, device: str, price: float, telemetry: Telemetry) -> None:
    agent.observe(observation(), price)
    agent.decide(None)
    agent.wanted()
    agent.measured(device, telemetry)


def test_the_report_holds_what_the_device_measured_and_the_twin_follows() -> None:
    battery = Battery(ESS)
    agent = make({"ess": battery}, policy=PolicyTable(battery_share=1.0))
    measured(agent, "ess", 100.0, Telemetry(p_mw=0.031, q_mvar=0.002, soc=0.44))
    report = agent.report()
    assert report.p_mw == {"ess": 0.031}
    assert report.q_mvar == {"ess": 0.002}
    assert report.soc == {"ess": 0.44}
    assert battery.state.soc == 0.44
    assert battery.state.p_mw == 0.031


def test_the_charge_of_a_battery_that_does_not_tell_it_follows_what_flowed_and_not_what_was_wanted() -> None:
    battery = Battery(ESS)
    agent = make({"ess": battery}, policy=PolicyTable(battery_share=1.0))
    measured(agent, "ess", 100.0, Telemetry(p_mw=0.02))  # 0.05 MW were wanted
    soc = 0.5 - 0.02 / 0.9 * DT_H / 0.2
    assert agent.report().soc["ess"] == pytest.approx(soc)
    assert battery.state.soc == pytest.approx(soc)
    assert battery.state.p_mw == 0.02


def test_an_ideal_device_gives_the_same_report_as_the_model_to_the_last_bit() -> None:
    devices: list[dict[str, Device]] = [
        {"gen": Generator(GEN), "ess": Battery(ESS), "pv": Pv(PV)} for _ in range(3)
    ]
    simulated, linked = make(devices[0]), make(devices[1])
    real = devices[2]
    for i in range(60):
        price, sun = 30.0 + 40.0 * (i % 5) / 4.0, 0.1 * (i % 3)
        for agent in (simulated, linked):
            agent.observe(observation(-0.05, pv=sun), price)
            agent.decide(command(q_pv=0.05) if i % 2 else None)
        simulated.wanted()
        for name, wanted in linked.wanted().items():
            done = real[name].step(wanted.p_mw, wanted.q_mvar, DT_S, wanted.p_available_mw)
            linked.measured(
                name, Telemetry(p_mw=done.p_mw, q_mvar=done.q_mvar, soc=done.soc, running=done.running)
            )
            simulated.simulate(name)
        assert linked.report() == simulated.report()


@pytest.mark.parametrize(
    ("running_before", "price", "telemetry", "cost"),
    [
        (False, 200.0, Telemetry(p_mw=0.1, running=True), 0.1 + (0.2 + 4.5 + 1.2) * DT_H),
        (False, 200.0, Telemetry(p_mw=0.0, running=False), 0.0),  # it did not start
        (False, 0.0, Telemetry(p_mw=0.05, running=True), 0.1 + (0.2 + 2.25 + 0.3) * DT_H),  # by itself
        (True, 0.0, Telemetry(p_mw=0.02, running=True), (0.2 + 0.9 + 0.048) * DT_H),  # it did not stop
        (True, 200.0, Telemetry(p_mw=0.0, running=False), 0.25),  # it tripped
    ],
)
def test_the_cost_is_that_of_what_the_generator_did(
    running_before: bool, price: float, telemetry: Telemetry, cost: float
) -> None:
    generator = Generator(GEN.model_copy(update={"initial_running": running_before, "stop_cost_usd": 0.25}))
    agent = make({"gen": generator})
    measured(agent, "gen", price, telemetry)
    assert agent.report().cost["gen"] == pytest.approx(cost)
    assert generator.state.running == telemetry.running


def test_a_generator_that_did_not_stop_has_been_running_all_along() -> None:
    """Its minimum up time is over, so it may stop in the next step although it did not in this one."""
    generator = Generator(GEN.model_copy(update={"initial_running": True, "min_up_s": 1800.0}))
    agent = make({"gen": generator})
    measured(agent, "gen", 0.0, Telemetry(p_mw=0.02, running=True))
    assert generator.state.time_in_state_s == pytest.approx(1800.0 + DT_S)
    step(agent, 0.0)
    assert agent.report().p_mw["gen"] == 0.0


# -- talking to the peers --------------------------------------------------------------------------------


def test_it_asks_and_bids_between_the_price_and_the_price_of_imports() -> None:
    policy = PolicyTable(ask_share=0.25, bid_share=0.75)
    seller = make({"pv": Pv(PV)}, policy=policy, peers=("MG2",))
    seller.observe(observation(0.0, pv=0.1), 50.0)
    seller.decide(None)
    session = seller.negotiate()
    assert isinstance(session, P2PSession)
    assert session.bid.quantity_mwh == pytest.approx(0.1 * DT_H)
    assert session.bid.price == pytest.approx(55.0)
    buyer = make({"pv": Pv(PV)}, policy=policy, peers=("MG2",))
    buyer.observe(observation(-0.1, pv=0.0), 50.0)
    buyer.decide(None)
    session = buyer.negotiate()
    assert isinstance(session, P2PSession)
    assert session.bid.quantity_mwh == pytest.approx(-0.1 * DT_H)
    assert session.bid.price == pytest.approx(65.0)


def test_rounding_is_not_offered_for_sale() -> None:
    agent = make({"pv": Pv(PV)}, peers=("MG2",))
    agent.observe(observation(-0.1, pv=0.1 + 1e-12), 50.0)
    agent.decide(None)
    session = agent.negotiate()
    assert isinstance(session, P2PSession)
    assert session.bid.quantity_mwh == 0.0


def test_no_trade_of_an_earlier_step_is_reported_again() -> None:
    agent = make({"pv": Pv(PV)}, peers=("MG2",))
    agent.observe(observation(0.0, pv=0.1), 50.0)
    agent.decide(None)
    agent.negotiate()
    agent.observe(observation(0.0, pv=0.1), 50.0)
    assert agent.report().trades == {}


def test_without_peers_or_protocol_there_is_nothing_to_say() -> None:
    for agent in (
        make({"pv": Pv(PV)}),
        make({"pv": Pv(PV)}, peers=("A",), protocol=ProtocolTable(horizontal="none")),
    ):
        agent.observe(observation(), 50.0)
        agent.decide(None)
        assert agent.negotiate() is None


@pytest.mark.parametrize(
    ("peers", "neighbours", "expected"),
    [
        (("B", "C", "D"), "all", {"B": 3, "C": 3, "D": 3}),
        (("B", "C", "D"), "ring", {"B": 2, "D": 2}),
        (("B", "C"), "ring", {"B": 2, "C": 2}),
        (("B",), "ring", {"B": 1}),
    ],
)
def test_in_consensus_it_talks_to_its_neighbours(
    peers: tuple[str, ...], neighbours: str, expected: dict[str, int]
) -> None:
    protocol = ProtocolTable.model_validate({"horizontal": "consensus", "neighbours": neighbours})
    agent = GridAgent("A", {"pv": Pv(PV)}, peers=peers, protocol=protocol)
    agent.observe(observation(), 50.0)
    agent.decide(None)
    session = agent.negotiate()
    assert isinstance(session, ConsensusSession)
    assert session.waiting_for() == set(expected)
    weights = {1.0 / (1.0 + max(len(expected), theirs)) for theirs in expected.values()}
    for peer in expected:
        session.receive(peer, session.outgoing()[peer].model_copy(update={"value": 51.0}))
    session.advance()
    assert session.value == pytest.approx(50.0 + len(expected) * weights.pop())


def test_what_was_agreed_in_consensus_dispatches_the_generator() -> None:
    protocol = ProtocolTable(horizontal="consensus", consensus_rounds=1)
    agent = make({"gen": Generator(GEN)}, peers=("MG2",), protocol=protocol)
    agent.observe(observation(), 40.0)  # alone it would not run
    agent.decide(None)
    session = agent.negotiate()
    assert session is not None
    session.receive("MG2", session.outgoing()["MG2"].model_copy(update={"value": 92.0}))  # mean 66
    session.advance()
    agent.conclude()
    assert agent.wanted()["gen"].p_mw == pytest.approx((66.0 - 45.0) / 240.0)


# -- episodes and scenarios --------------------------------------------------------------------------------


def test_reset_brings_everything_back() -> None:
    agent = make({"gen": Generator(GEN), "ess": Battery(ESS), "pv": Pv(PV)}, peers=("MG2",))
    days = []
    for episode in range(2):
        agent.reset(episode, 1)
        day = []
        for i in range(20):
            step(agent, 30.0 + 7.0 * (i % 6), load_mw=-0.05, pv=0.01 * (i % 4))
            day.append(agent.report())
        days.append(day)
    assert days[0] == days[1]


def test_from_scenario_takes_devices_peers_market_and_policy() -> None:
    scenario = load_scenario().scenario
    agent = GridAgent.from_scenario(scenario, "MG2")
    assert set(agent.devices) == {"gen", "ess", "pv"}
    assert agent.peers == ("MG1", "MG3")
    agent.observe(observation(), 63.0)
    agent.decide(None)
    assert agent.wanted()["ess"].p_mw == pytest.approx(0.015)  # discharge_above 63, half of 0.03
    with pytest.raises(KeyError):
        GridAgent.from_scenario(scenario, "MG9")
