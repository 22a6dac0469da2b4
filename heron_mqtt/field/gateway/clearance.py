"""The check of all setpoints together, as messages: plans go up, clearances come down.

What a clearance leaves of a setpoint is never more than was planned: same direction, at most its size.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from dataclasses import replace

from heron_mqtt.field.gateway.device_link import SetpointRequest
from heron_mqtt.messages import Clearance, SetpointPlan

NO_CLEARANCE = "no clearance before the deadline"


def make_plan(allowed: Mapping[str, SetpointRequest]) -> SetpointPlan:
    """Return the plan message: for each device the power to expect of its setpoint."""
    fields: dict[str, float] = {}
    for name, wanted in allowed.items():
        fields[f"p_{name}"] = expected_p_mw(wanted)
        fields[f"q_{name}"] = wanted.q_mvar
    return SetpointPlan.model_validate(fields)


def expected_p_mw(wanted: SetpointRequest) -> float:
    """Return the power that a setpoint leads to, MW: PV gives no more than there is, a load draws no more.

    A consumer that can draw more than its present demand, into a store or to catch up, follows its setpoint.
    """
    if wanted.reach_mw is None:
        return wanted.p_mw
    return (min if wanted.reach_mw > 0.0 or wanted.p_mw > 0.0 else max)(wanted.p_mw, wanted.reach_mw)


def tracking_error_mw(wanted: SetpointRequest, measured_mw: float) -> float:
    """Return how far a measured power is from what the device was told, MW.

    Every power between the setpoint and ``expected_p_mw`` counts as followed: the data give the available
    power of the model, and a real plant may have more.
    """
    expected = expected_p_mw(wanted)
    low, high = min(expected, wanted.p_mw), max(expected, wanted.p_mw)
    return measured_mw - min(high, max(low, measured_mw))


def apply_clearance(
    allowed: MutableMapping[str, SetpointRequest], clearance: Clearance | None
) -> dict[str, str]:
    """Reduce setpoints to what was cleared; all of them to 0 where there is no clearance.

    Returns:
        By device, what reduced it.
    """
    if clearance is not None and clearance.limit is None:
        return {}
    p = clearance.values("p_") if clearance is not None else {}
    q = clearance.values("q_") if clearance is not None else {}
    reasons: dict[str, str] = {}
    for name, wanted in allowed.items():
        planned = expected_p_mw(wanted)
        p_mw, q_mvar = _no_more(p.get(name, 0.0), planned), _no_more(q.get(name, 0.0), wanted.q_mvar)
        if (p_mw, q_mvar) != (planned, wanted.q_mvar):
            allowed[name] = replace(wanted, p_mw=p_mw, q_mvar=q_mvar)
            limit = NO_CLEARANCE if clearance is None else clearance.limit or "the check of all together"
            reasons[name] = f"{limit} ({planned:.6g} -> {p_mw:.6g} MW)"
    return reasons


def _no_more(cleared: float, planned: float) -> float:
    """Return ``cleared`` cut to the side and size of ``planned``."""
    low, high = sorted((0.0, planned))
    return min(max(cleared, low), high)
