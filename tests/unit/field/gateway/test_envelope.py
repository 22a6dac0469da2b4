"""The envelope: whatever is wanted, what may leave is finite and inside every bound."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heron_mqtt.field.gateway.clearance import apply_clearance
from heron_mqtt.field.gateway.device_link import SetpointRequest
from heron_mqtt.field.gateway.envelope import Band, SetpointLimits, clamp
from heron_mqtt.field.gateway.twins import clamp_setpoints
from heron_mqtt.messages import Clearance
from heron_mqtt.messaging.base import Received
from powergrid.agents import GridAgent
from powergrid.devices import Battery
from powergrid.envs import MultiAgentMicrogrids
from support.field_rig import ESS, OpenMemoryBroker
from support.rows import each_row
from support.small_grid import build_once
from support.small_grid import scenario as small

ANY = st.floats() | st.sampled_from([math.nan, math.inf, -math.inf, 1e308, -1e308, 5e-324, -0.0])
FINITE = st.floats(-10.0, 10.0)


@st.composite
def ranges(draw: st.DrawFn, holds_zero: bool = False) -> tuple[float, float]:
    low, high = sorted((draw(FINITE), draw(FINITE)))
    return (min(low, 0.0), max(high, 0.0)) if holds_zero else (low, high)


@given(ANY, ANY, ranges(True), ranges(), st.floats(0.0, 10.0), st.none() | ranges(True), st.none() | ANY)
def test_what_comes_out_is_finite_and_inside_every_hard_bound(
    p: float,
    q: float,
    nameplate: tuple[float, float],
    feasible: tuple[float, float],
    s_max: float,
    band: tuple[float, float] | None,
    available: float | None,
) -> None:
    limits = SetpointLimits(*nameplate, s_max, *feasible)
    done = clamp(p, q, limits, Band(*band) if band else None, p_available_mw=available)
    assert math.isfinite(done.p_mw)
    assert math.isfinite(done.q_mvar)
    low = max(nameplate[0], -s_max, band[0] if band else -math.inf)
    high = min(nameplate[1], s_max, band[1] if band else math.inf)
    assert low <= done.p_mw <= high
    if max(low, feasible[0]) <= min(high, feasible[1]):
        assert feasible[0] <= done.p_mw <= feasible[1]
    held = done.p_mw if available is None or not available < done.p_mw else available
    if abs(held) <= s_max:
        assert math.hypot(held, done.q_mvar) <= s_max * (1 + 1e-12) + 1e-300
    if (done.p_mw, done.q_mvar) != (p, q):
        assert done.bound_by, "a bound that changed a setpoint is named"


@given(ANY, ANY, ranges(True), st.floats(0.0, 10.0), st.none() | ranges(True))
def test_nothing_is_amplified_or_turned_round(
    p: float, q: float, nameplate: tuple[float, float], s_max: float, band: tuple[float, float] | None
) -> None:
    done = clamp(p, q, SetpointLimits(*nameplate, s_max, *nameplate), Band(*band) if band else None)
    for was, became in ((p, done.p_mw), (q, done.q_mvar)):
        if math.isnan(was):
            assert became == 0.0
        else:
            assert abs(became) <= abs(was)
            assert became * was >= 0.0 or became == 0.0


@given(ANY, ANY, ANY, ANY, ANY)
def test_limits_that_are_no_range_let_nothing_out(
    p: float, low: float, high: float, f_low: float, f_high: float
) -> None:
    done = clamp(p, 0.0, SetpointLimits(low, high, 1.0, f_low, f_high))
    assert math.isfinite(done.p_mw)
    assert abs(done.p_mw) <= 1.0
    if not low <= high:
        assert done.p_mw == 0.0


@pytest.mark.parametrize("garbage", [math.nan, math.inf, -math.inf])
def test_a_power_that_is_not_a_number_becomes_none_and_is_named(garbage: float) -> None:
    limits = SetpointLimits(-1.0, 1.0, 1.0, -1.0, 1.0)
    done = clamp(garbage, garbage, limits)
    assert (done.p_mw, done.q_mvar) == (0.0, 0.0)
    assert done.bound_by == ("p_mw was not a finite number", "q_mvar was not a finite number")


def test_what_a_source_offers_is_made_a_number_too() -> None:
    agent = GridAgent("MG1", {"ess": Battery(ESS)})
    for available in (math.nan, math.inf, -math.inf):
        allowed, _ = clamp_setpoints(agent, {"ess": SetpointRequest(0.01, 0.0, available)})
        assert allowed["ess"].p_available_mw == 0.0


@given(st.floats(-1, 1), st.floats(-1, 1), st.floats(-5, 5), st.floats(-5, 5))
def test_a_clearance_never_raises_a_setpoint_whatever_it_says(
    p: float, q: float, cleared_p: float, cleared_q: float
) -> None:
    allowed = {"ess": SetpointRequest(p, q)}
    told = Clearance.model_validate({"p_ess": cleared_p, "q_ess": cleared_q, "factor": 0.5, "limit": "x"})
    apply_clearance(allowed, told)
    for was, became in ((p, allowed["ess"].p_mw), (q, allowed["ess"].q_mvar)):
        assert abs(became) <= abs(was)
        assert became * was >= 0.0


def garbage_wants(rng: random.Random, honest: Mapping[str, SetpointRequest]) -> dict[str, SetpointRequest]:
    """Return wants as wrong as they can be; what the sun offers is sometimes wrong too."""
    values = [math.nan, math.inf, -math.inf, 1e300, -1e300, 1e-320, 7.0, -7.0, 0.03, -0.03]
    return {
        name: SetpointRequest(
            rng.choice([*values, rng.uniform(-0.05, 0.05)]),
            rng.choice([*values, rng.uniform(-0.05, 0.05)]),
            want.p_available_mw
            if want.p_available_mw is None
            else rng.choice([want.p_available_mw, math.nan]),
        )
        for name, want in honest.items()
    }


@pytest.mark.parametrize(("seed", "grid_check"), [(0, False), (1, False), (2, True)])
async def test_no_setpoint_of_a_whole_episode_is_outside_the_envelope(
    seed: int, grid_check: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Independent of the gateway: limits from the scenario, state from what the devices say.

    A limit of the grid weighs more than a ramp: then what is left of a setpoint may be out of its reach,
    and the device goes there as fast as it can.
    """
    monkeypatch.setattr("powergrid.envs.microgrid_environment.build", build_once)
    changes = {f"microgrids.{a}.devices.ess.ramp_mw_per_s": 0.000005 for a in ("MG1", "MG2", "MG3")}
    band = {"p_min_mw": -0.001, "p_max_mw": 0.002}
    changes |= {
        "microgrids.MG2.devices.ess.authority": "limited",
        "envelope.grid_check": grid_check,
        "steps": 16,
    }
    data = small(changes)
    for microgrid in data["microgrids"].values():
        for table in microgrid["devices"].values():
            table.update(external=True, authority=table.get("authority", "full"), gateway={"gate_steps": 1})
    data["microgrids"]["MG2"]["devices"]["ess"]["gateway"]["band"] = band
    broker = OpenMemoryBroker()
    rng = random.Random(seed)
    state: dict[str, dict[str, float]] = {}
    seen: list[dict[str, Any]] = []
    dt_s = data["step_s"]

    def device(message: Received) -> None:
        """Check a setpoint, then do exactly that."""
        if message.get("release"):
            return
        _, agent, name, _ = message.channel.split("/")
        spec, p, q = data["microgrids"][agent]["devices"][name], message["p_mw"], message["q_mvar"]
        seen.append(dict(message))
        assert math.isfinite(p)
        assert math.isfinite(q)
        at = state.setdefault(message.channel, {"p": 0.0, "soc": 0.5})
        answer: dict[str, Any] = {}
        if name == "ess":
            assert -spec["max_p_charge_mw"] <= p <= spec["max_p_discharge_mw"]
            assert math.hypot(p, q) <= max(spec["max_p_charge_mw"], spec["max_p_discharge_mw"]) + 1e-12
            if agent == "MG2":
                assert band["p_min_mw"] <= p <= band["p_max_mw"]
            elif (
                not grid_check and 0.2 < at["soc"] < 0.8
            ):  # nearer to its ends what the cells hold comes first
                assert abs(p - at["p"]) <= spec["ramp_mw_per_s"] * dt_s + 1e-12
            from_cells = p / spec["efficiency_discharge"] if p > 0 else p * spec["efficiency_charge"]
            at["soc"] -= from_cells * dt_s / 3600.0 / spec["max_e_mwh"]
            assert spec["min_soc"] - 1e-3 <= at["soc"] <= spec["max_soc"] + 1e-3  # 1e-3: standby losses
            answer["soc"] = at["soc"]
        elif name == "gen":
            assert 0.0 <= p <= spec["max_p_mw"]
        else:
            assert 0.0 <= p <= spec["max_p_mw"]
            p = min(p, message["p_available_mw"])
        at["p"] = p
        telemetry = {
            "type": "telemetry",
            "p_mw": p,
            **answer,
            "ack_seq": message["seq"],
            "ack_boot": message["boot"],
        }
        broker.publish(message.channel.replace("setpoint", "telemetry"), telemetry)

    def begin(message: Received) -> None:
        """Speak once, so that the devices are known to be there."""
        if message["state"] != "reset":
            return
        for agent, microgrid in data["microgrids"].items():
            for name in microgrid["devices"]:
                soc = {"soc": 0.5} if name == "ess" else {}
                telemetry = {"type": "telemetry", "p_mw": 0.0, **soc}
                broker.publish(f"devices/{agent}/{name}/telemetry", telemetry)

    broker.subscribe("devices/+/+/setpoint", device)
    for agent, microgrid in data["microgrids"].items():
        for name in microgrid["devices"]:
            broker.publish(
                f"devices/{agent}/{name}/status", {"type": "status", "state": "online"}, retain=True
            )
    env = MultiAgentMicrogrids(
        {"scenario": data, "centralized": False, "message_broker": broker, "devices": "emulated"}
    )
    assert env._exchange is not None
    for proxy in env._exchange.proxies:
        agent_ = proxy.agent
        honest = agent_.wanted
        monkeypatch.setattr(agent_, "wanted", lambda honest=honest: garbage_wants(rng, honest()))
    broker.subscribe("run/state", begin)
    await env.reset_async(seed=seed)
    while env.agents:
        _, _, _, _, infos = await env.step_async({})
        assert all(math.isfinite(p) for info in infos.values() for p in info["p_mw"].values())
    await env.close_async()
    assert broker.stats.callback_errors == 0, list(broker.stats.reports)
    assert len(seen) == 16 * 9
    assert len({round(m["p_mw"], 6) for m in seen}) > 8, "nothing but zeros would prove little"


LIMITS = SetpointLimits(-2.0, 3.0, 2.5, -1.0, 1.5)


@each_row(
    ("p_mw", "q_mvar", "more", "expected", "bound_by"),
    [
        (1.0, 0.0, {}, (1.0, 0.0), ()),
        (1.5, 2.0, {}, (1.5, 2.0), ()),  # at every bound
        (4.0, 0.0, {}, (1.5, 0.0), ("nameplate", "state of charge or ramp")),
        (-1.5, 0.0, {}, (-1.0, 0.0), ("state of charge or ramp",)),
        (1.0, 0.0, {"band": Band(-0.5, 0.5)}, (0.5, 0.0), ("band of limited authority",)),
        (0.5, 0.0, {"band": Band(-0.5, 0.5)}, (0.5, 0.0), ()),
        (1.5, 2.1, {}, (1.5, 2.0), ("apparent power",)),
        (1.5, -2.1, {}, (1.5, -2.0), ("apparent power",)),
        (1.5, 2.4, {"p_available_mw": 0.7}, (1.5, 2.4), ()),  # the sun gives less: more is left for q
        (1.5, 2.5, {"p_available_mw": 0.7}, (1.5, 2.4), ("apparent power",)),
        (0.7, 2.5, {"p_available_mw": 1.5}, (0.7, 2.4), ("apparent power",)),
    ],
)
def test_the_nearest_setpoint_within_the_bounds_leaves_and_the_bounds_that_were_met_are_named(
    p_mw: float,
    q_mvar: float,
    more: dict[str, Any],
    expected: tuple[float, float],
    bound_by: tuple[str, ...],
) -> None:
    done = clamp(p_mw, q_mvar, LIMITS, **more)
    assert (done.p_mw, done.q_mvar) == pytest.approx(expected)
    assert done.bound_by == bound_by


def test_a_range_of_one_point_is_a_range() -> None:
    done = clamp(1.0, 0.0, SetpointLimits(-1.0, 1.0, 1.0, 0.25, 0.25))
    assert done.p_mw == 0.25
    assert clamp(1.0, 0.0, SetpointLimits(-3.0, 3.0, 2.0, -3.0, 3.0)).bound_by == ()
    assert clamp(3.0, 0.0, SetpointLimits(-3.0, 3.0, 2.0, -3.0, 3.0)).bound_by == ("apparent power",)
