"""What comes in kinds is added by one class and one registration, and then works everywhere.

A wallbox, an auction, an impairment, a network and a reward term that exist in this file alone are used by
one scenario: checked, centralized, batched, over messages, with emulators.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pytest

from heron_mqtt.config import Table
from heron_mqtt.errors import ConfigError
from heron_mqtt.messages import WIRE_TYPES, Message
from heron_mqtt.messaging.impaired import ImpairedBroker
from heron_mqtt.messaging.impaired.sampler import ImpairmentSampler
from heron_mqtt.messaging.impairment import ImpairmentTable, RuleTable
from heron_mqtt.messaging.impairment_kinds import IMPAIRMENTS, Impairment, ImpairmentKind
from heron_mqtt.protocols.base import HorizontalProtocol, HorizontalSession, StepPosition, Trade
from heron_mqtt.protocols.registry import PROTOCOLS
from powergrid.agents import GridAgent
from powergrid.devices import DEVICES, Device, DeviceSpecBase, DeviceState, Measurement
from powergrid.devices.base import PolicyThresholds, clip, finite, hours
from powergrid.emulators import run_script, script_of
from powergrid.envs import BatchedMicrogrids, MultiAgentMicrogrids
from powergrid.networks import NETWORK_SOURCES, GridModel, NetworkSource, attach_microgrid, load_grid
from powergrid.rewards import REWARD_TERMS, RewardTerm, StepAccount
from powergrid.scenario import scenario_from_dict
from support.in_process import emulated_trajectory
from support.small_grid import scenario as small
from support.trajectories import (
    assert_same,
    own_policies,
    random_actions,
    some_random_actions,
    trajectory,
)

# -- a device --------------------------------------------------------------------------------------------


class WallboxSpec(DeviceSpecBase):
    """Charges a car that is always there, of a battery that is never full for long."""

    has_soc: ClassVar[bool] = True
    has_cost: ClassVar[bool] = True
    profile_says: ClassVar[str | None] = "what the cable allows"
    controls_q: ClassVar[bool] = False

    kind: Literal["wallbox"] = "wallbox"
    max_p_mw: float = 0.011
    max_e_mwh: float = 0.02
    wear_usd_per_mwh: float = 3.0

    @property
    def power_range_mw(self) -> tuple[float, float]:
        return -self.max_p_mw, 0.0

    @property
    def rated_s_mva(self) -> float:
        return self.max_p_mw

    @property
    def profile_mw(self) -> float:
        return -self.max_p_mw

    @property
    def soc_at_reset(self) -> float:
        return 0.4


class Wallbox(Device):
    """A model as a user would write it: plain Python, no formulas, no arrays."""

    spec_type = WallboxSpec

    def __init__(self, spec: WallboxSpec) -> None:
        self.spec: WallboxSpec = spec
        self.reset()

    def reset(self) -> None:
        self.state = DeviceState(0.0)
        self.soc = self.spec.soc_at_reset

    def feasible(self, dt_s: float, p_available_mw: float | None = None) -> tuple[float, float]:
        room_mw = (1.0 - self.soc) * self.spec.max_e_mwh / hours(dt_s)
        cable_mw = self.spec.max_p_mw if p_available_mw is None else -p_available_mw
        return -min(cable_mw, room_mw), 0.0

    def step(
        self, p_mw: float, q_mvar: float, dt_s: float, p_available_mw: float | None = None
    ) -> Measurement:
        p = clip(finite("p_mw", p_mw), *self.feasible(dt_s, p_available_mw))
        self.soc = min(self.soc - p * hours(dt_s) / self.spec.max_e_mwh, 1.0)
        self.state = DeviceState(p)
        cost = -p * hours(dt_s) * self.spec.wear_usd_per_mwh
        return Measurement(p, 0.0, self.soc, None, cost, p != p_mw)

    def restore(
        self,
        p_mw: float,
        soc: float | None = None,
        running: bool | None = None,
        time_in_state_s: float | None = None,
    ) -> None:
        self.state = DeviceState(p_mw)
        self.soc = self.soc if soc is None else soc

    def usual_p_mw(
        self, price: float, policy: PolicyThresholds, dt_s: float, p_available_mw: float | None
    ) -> float:
        return -self.spec.max_p_mw if price <= policy.charge_below else -0.3 * self.spec.max_p_mw


# -- a protocol ------------------------------------------------------------------------------------------


class AuctionBid(Message):
    """What an agent wants to trade, told to everyone."""

    type: Literal["auction_bid"] = "auction_bid"
    quantity: float
    price: float


class AuctionOptions(Table):
    fee_share: float = 0.1


class AuctionSession(HorizontalSession):
    """One round of bids; then every agent works out the same uniform price and the same matches."""

    def __init__(self, position: StepPosition, fee_share: float) -> None:
        quantity = position.surplus_mwh
        share = 0.2 if quantity > 0.0 else 0.8 - fee_share
        self._mine = position.agent_id
        self._peers = set(position.peers)
        self._bids = {self._mine: AuctionBid(quantity=quantity, price=position.price + share * 10.0)}

    def outgoing(self) -> Mapping[str, Message]:
        return dict.fromkeys(sorted(self._peers), self._bids[self._mine])

    def receive(self, peer: str, message: Message) -> bool:
        if not isinstance(message, AuctionBid) or peer not in self._peers or peer in self._bids:
            return False
        self._bids[peer] = message
        return True

    def waiting_for(self) -> set[str]:
        return self._peers - self._bids.keys()

    def advance(self) -> bool:
        return False

    @property
    def trades(self) -> Mapping[str, Trade]:
        bids = sorted(self._bids.items())
        left = {name: bid.quantity for name, bid in bids}
        price = sum(bid.price for _, bid in bids) / len(bids)
        trades: dict[str, Trade] = {}
        for seller, offer in bids:
            for buyer, want in bids:
                mwh = min(left[seller], -left[buyer])
                if mwh <= 0.0 or not offer.price <= price <= want.price:
                    continue
                left[seller] -= mwh
                left[buyer] += mwh
                if self._mine == seller:
                    trades[buyer] = Trade(mwh, price)
                elif self._mine == buyer:
                    trades[seller] = Trade(-mwh, price)
        return trades


class Auction(HorizontalProtocol):
    name = "auction"
    messages = (AuctionBid,)
    options = AuctionOptions

    def begin(self, position: StepPosition) -> AuctionSession:
        return AuctionSession(position, AuctionOptions(**position.settings.options).fee_share)


# -- an impairment, a network, a reward term -------------------------------------------------------------


class SpikesTable(Table):
    probability: float
    spike_s: float


class Spikes(ImpairmentKind):
    """Now and then a message takes much longer."""

    name = "spikes"
    table = SpikesTable

    def affect(self, message: Impairment, draws: Any) -> None:
        if draws[0] < self.settings.probability:
            message.delay_s += self.settings.spike_s


class Street(NetworkSource):
    """A network of a program's own, with a microgrid in it."""

    name = "street"

    def names(self) -> tuple[str, ...]:
        return ("our_street",)

    def load(self, source: str | Path) -> GridModel:
        net = load_grid("create_kerber_landnetz_freileitung_1").net
        buses = small()["microgrids"]["MG1"]["buses"]
        return GridModel(net, {"MG1": attach_microgrid(net, "MG1", buses=buses)})


class Peak(RewardTerm):
    """What the fuse costs: a charge on the drawn power of all devices."""

    name = "peak"

    def earned(self, step: StepAccount) -> Any:
        assert step.p_mw is not None
        assert step.sum_by_agent is not None
        return -self.weight * step.sum_by_agent(np.maximum(-step.p_mw, 0.0))


@pytest.fixture(autouse=True, scope="module")
def registered() -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        stack.enter_context(DEVICES.added(Wallbox))
        stack.enter_context(PROTOCOLS.added(Auction))
        stack.enter_context(IMPAIRMENTS.added(Spikes))
        stack.enter_context(NETWORK_SOURCES.added(Street))
        stack.enter_context(REWARD_TERMS.added(Peak))
        yield


WALLBOX = {"kind": "wallbox", "profile": "residential_p_pu"}
CHANGES: dict[str, Any] = {
    "steps": 8,
    "network.source": "our_street",
    "protocol": {"horizontal": "auction", "options": {"fee_share": 0.05}},
    "reward": {"terms": {"peak": 2.0}},
    "impairment": {"rules": [{"spikes": {"probability": 0.3, "spike_s": 0.005}}]},
    "microgrids.MG1.buses": ...,
    "microgrids.MG1.devices.box": WALLBOX,
    "microgrids.MG3.devices.box": {**WALLBOX, "max_e_mwh": 0.05, "bus": 12},
}


def scenario(**more: Any) -> dict[str, Any]:
    return small({**CHANGES, **more})


# -- everywhere ------------------------------------------------------------------------------------------


def test_a_scenario_knows_the_added_kinds_and_names_what_is_wrong_in_them() -> None:
    table = scenario_from_dict(scenario()).scenario
    assert isinstance(table.microgrids["MG1"].devices["box"].spec, WallboxSpec)
    with pytest.raises(ConfigError) as caught:
        scenario_from_dict(
            scenario(**{"microgrids.MG1.devices.box": {**WALLBOX, "max_p_m": 1.0}}), "mine.toml"
        )
    assert str(caught.value) == (
        "mine.toml: microgrids.MG1.devices.box.max_p_m: unknown key; did you mean 'max_p_mw'?"
    )
    with pytest.raises(ConfigError, match=r"protocol\.options\.fee: unknown key"):
        scenario_from_dict(scenario(protocol={"horizontal": "auction", "options": {"fee": 1.0}}))
    spikes = {"rules": [{"spikes": {"probability": "x", "spike_s": 1.0}}]}
    with pytest.raises(ConfigError, match=r"rules\[0\]\.spikes\.probability = 'x'"):
        scenario_from_dict(scenario(impairment=spikes))
    with pytest.raises(ConfigError, match=r"reward\.terms: unknown reward term 'peek'"):
        MultiAgentMicrogrids({"scenario": scenario(reward={"terms": {"peek": 1.0}})})


def test_without_registration_none_of_it_is_known() -> None:
    assert "wallbox" not in {"battery", "generator", "pv", "load"}
    with contextlib.ExitStack() as stack:
        DEVICES.discard(Wallbox)
        stack.callback(DEVICES.add, Wallbox)
        PROTOCOLS.discard(Auction)
        stack.callback(PROTOCOLS.add, Auction)
        assert "auction_bid" not in WIRE_TYPES
        with pytest.raises(ConfigError) as caught:
            scenario_from_dict(scenario())
    assert "kind = 'wallbox': should be one of" in str(caught.value)
    assert "protocol.horizontal = 'auction': should be 'p2p'" in str(caught.value)


def test_agents_observe_and_command_an_added_device() -> None:
    env = MultiAgentMicrogrids({"scenario": scenario(), "observation": "local"})
    assert "p_box" in env.action_names("MG1")
    assert [n for n in env.observation_names("MG1") if n.endswith("_box")] == [
        "p_box",
        "q_box",
        "soc_box",
        "p_available_box",
    ]
    env.reset(seed=1)
    *_, infos = env.step({})
    assert infos["MG1"]["p_mw"]["box"] < 0.0
    assert infos["MG1"]["soc"]["box"] > 0.4
    assert infos["MG1"]["reward_terms"]["peak"] < 0.0
    drawn = sum(max(-p, 0.0) for p in infos["MG1"]["p_mw"].values())
    assert infos["MG1"]["reward_terms"]["peak"] == pytest.approx(-2.0 * drawn)
    agent = GridAgent.from_scenario(env.scenario, "MG1")
    assert agent.limits("box").p_min_mw == -0.011


@pytest.fixture(scope="module")
def central() -> Callable[[Any], list[dict[str, Any]]]:
    known: dict[str, list[dict[str, Any]]] = {}

    def of(act: Any) -> list[dict[str, Any]]:
        if act.__name__ not in known:
            env = MultiAgentMicrogrids({"scenario": scenario(), "centralized": True, "observation": "full"})
            known[act.__name__] = trajectory(env, act)
        return known[act.__name__]

    return of


def test_the_auction_trades(central: Any) -> None:
    """Otherwise the comparisons below compare nothing."""
    steps = central(own_policies)
    assert sum(s.get("info/MG1/trades/n", 0) + s.get("info/MG2/trades/n", 0) for s in steps) > 0


@pytest.mark.slow_but("some_random_actions")
@pytest.mark.parametrize("act", [own_policies, some_random_actions])
def test_over_messages_it_is_the_same_as_by_direct_calls(act: Any, central: Any) -> None:
    env = MultiAgentMicrogrids({"scenario": scenario(), "centralized": False, "observation": "full"})
    assert_same(central(act), trajectory(env, act))
    env.close()


@pytest.mark.slow
def test_with_emulators_behind_an_impaired_network_too(central: Any) -> None:
    table = scenario_from_dict(scenario()).scenario.impairment
    assert isinstance(table, ImpairmentTable)
    brokers: list[ImpairedBroker] = []

    def impaired(inner: Any) -> ImpairedBroker:
        brokers.append(ImpairedBroker(inner, table, seed=3))
        return brokers[0]

    steps, devices = emulated_trajectory(scenario(), some_random_actions, impaired)
    mine = [{k: v for k, v in step.items() if "/authority" not in k} for step in steps]
    assert_same(
        [{k: v for k, v in s.items() if "/authority" not in k} for s in central(some_random_actions)], mine
    )
    assert devices["MG1/box"]["setpoints"] > 0
    totals = brokers[0].record.totals()
    assert 0 < totals.delayed < totals.passed


@pytest.mark.slow  # of shipped kinds: test_batched.py of environments
def test_in_a_batch_each_copy_is_a_single_environment(central: Any) -> None:
    config = {"scenario": scenario(), "observation": "full"}
    batch = BatchedMicrogrids({**config, "num_envs": 3})
    rows = [28, 40, 52]
    batch.reset(options={"start_rows": rows})
    singles = [MultiAgentMicrogrids({**config, "centralized": True}) for _ in rows]
    for single, row in zip(singles, rows, strict=True):
        single.reset(seed=1, options={"start_row": row})
    rng = np.random.default_rng(5)
    traded = 0.0
    for step in range(7):
        actions = (
            {} if step % 2 else {a: rng.uniform(-1, 1, batch.action_space(a).shape) for a in batch.agents}
        )
        _, rewards, _, _, infos = batch.step(actions)
        for copy, single in enumerate(singles):
            _, expected, _, _, alone = single.step({a: values[copy] for a, values in actions.items()})
            for agent in batch.agents:
                assert rewards[agent][copy] == pytest.approx(expected[agent], abs=1e-9)
                assert infos[agent]["soc"]["ess"][copy] == alone[agent]["soc"]["ess"]
                assert infos[agent]["reward_terms"]["peak"][copy] == pytest.approx(
                    alone[agent]["reward_terms"]["peak"], abs=1e-12
                )
            assert infos["MG1"]["soc"]["box"][copy] == alone["MG1"]["soc"]["box"]
        traded += sum(float(np.abs(mwh).sum()) for mwh in infos["MG1"]["traded_mwh"].values())
    assert traded > 0.0


def test_an_added_impairment_changes_nothing_of_what_the_others_do() -> None:
    keys: dict[str, Any] = {
        "loss": 0.1,
        "jitter": "lognormal",
        "jitter_s": 0.01,
        "duplicate": 0.1,
        "reorder": 0.1,
        "reorder_s": 0.1,
        "burst": {"enter": 0.05, "leave": 0.3},
    }

    def drawn(**more: Any) -> list[Impairment]:
        sampler = ImpairmentSampler(RuleTable.model_validate({**keys, **more}), 1, "out/c")
        return [sampler.sample() for _ in range(3_000)]

    plain, with_spikes = drawn(), drawn(spikes={"probability": 0.25, "spike_s": 7.0})
    spiked = [other.delay_s - one.delay_s for one, other in zip(plain, with_spikes, strict=True)]
    assert all(math.isclose(extra, 7.0) or extra == 0.0 for extra in spiked)
    assert 600 < sum(extra > 0.0 for extra in spiked) < 900
    assert [(m.lost, m.in_burst, m.duplicated, m.held_back) for m in plain] == [
        (m.lost, m.in_burst, m.duplicated, m.held_back) for m in with_spikes
    ]


def test_the_command_line_knows_the_emulator_of_an_added_kind(capsys: pytest.CaptureFixture[str]) -> None:
    assert script_of("wallbox") == "wallbox"
    with pytest.raises(SystemExit) as ended:
        run_script("wallbox", ["--help"])
    assert ended.value.code == 0
    assert "heron-mqtt device wallbox" in capsys.readouterr().out


def test_the_reference_of_scenarios_lists_an_added_kind() -> None:
    from powergrid.scenario import Scenario

    definitions = Scenario.model_json_schema()["$defs"]
    assert "wear_usd_per_mwh" in definitions["WallboxSpec"]["properties"]
    assert "auction" in definitions["ProtocolTable"]["properties"]["horizontal"]["enum"]


def test_a_name_is_given_once() -> None:
    class Other(Wallbox):
        pass

    with pytest.raises(ValueError, match="'wallbox' is there already"):
        DEVICES.add(Other)
    DEVICES.add(Wallbox)  # the same again is no second one


def test_random_actions_drive_the_added_device(central: Any) -> None:
    powers = {s["info/MG3/p_mw/box"] for s in central(random_actions)[1:]}
    assert len(powers) > 3
