"""Local state and reports in their plain form say what their messages say."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from heron_mqtt.agents.base import LocalState, StepReport, each_simulated
from heron_mqtt.messages import Action, Observation
from heron_mqtt.protocols.p2p import Trade


def test_what_devices_offer_is_found_by_its_prefix_alone() -> None:
    state = LocalState(900.0, False, -0.01, 0.0, {"pv": 0.02})
    assert state.values("p_available_") == {"pv": 0.02}
    assert state.values("p_") == {}
    assert state.to_fields()["p_available_pv"] == 0.02


def test_what_is_not_known_stands_in_no_field() -> None:
    assert LocalState(900.0, True, -0.01, 0.25, {}).to_fields() == {
        "type": "observation",
        "dt_s": 900.0,
        "commanded": True,
        "p_load_mw": -0.01,
        "q_load_mvar": 0.25,
    }
    known = LocalState(900.0, False, 0.0, 0.0, {}, 0.95, 1.05, 80.0, 3600.0, {"price": (50.0,)}, (1.0, 2.0))
    fields = known.to_fields()
    assert (fields["vm_min_pu"], fields["vm_max_pu"], fields["loading_max_percent"]) == (0.95, 1.05, 80.0)
    assert (fields["clock_s"], fields["forecast"], fields["observation"]) == (
        *(3600.0, {"price": [50.0]}, [1.0, 2.0]),
    )
    assert Observation.model_validate(fields).dt_s == 900.0


def test_a_report_is_the_same_after_its_way_over_the_wire() -> None:
    report = StepReport(
        p_mw={"ess": 0.5},
        q_mvar={"ess": 0.25},
        soc={"ess": 0.75},
        cost={"gen": 3.0},
        trades={"MG2": Trade(0.125, 50.0)},
        fallbacks={"ess": "device silent"},
        bounds={"ess": "nameplate"},
        authority={"ess": "full"},
        residuals={"ess": 0.0625},
        missed=2,
    )
    assert report.to_fields() == {
        "type": "action",
        "missed": 2,
        "p_ess": 0.5,
        "q_ess": 0.25,
        "soc_ess": 0.75,
        "cost_gen": 3.0,
        "fallback_ess": "device silent",
        "bound_ess": "nameplate",
        "authority_ess": "full",
        "residual_ess": 0.0625,
        "trade_MG2": 0.125,
        "price_MG2": 50.0,
    }
    assert StepReport.from_message(report.to_message()) == report
    assert StepReport.from_message(Action()) == StepReport()
    assert StepReport().missed == 0
    unpriced = Action.model_validate({"trade_MG2": 0.5, "trade_MG3": 0.25, "price_MG3": 40.0})
    assert StepReport.from_message(unpriced).trades == {"MG3": Trade(0.25, 40.0)}


class _OneByOne:
    """An agent that can simulate one device at a time."""

    def __init__(self) -> None:
        self.simulated: list[str] = []

    def simulate(self, device: str) -> None:
        self.simulated.append(device)


class _AllAtOnce(_OneByOne):
    def simulate_each(self, devices: Iterable[str]) -> None:
        self.simulated.append(" and ".join(devices))


@pytest.mark.parametrize(
    ("agent", "simulated"), [(_OneByOne(), ["ess", "pv"]), (_AllAtOnce(), ["ess and pv"])]
)
def test_models_take_the_step_at_once_where_the_agent_has_a_way_to(
    agent: _OneByOne, simulated: list[str]
) -> None:
    each_simulated(agent)(["ess", "pv"])  # type: ignore[arg-type]
    assert agent.simulated == simulated
