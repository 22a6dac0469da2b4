"""What a test setpoint proved of a mapping: sign, factor, delay, acknowledgement and release, a line each."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from heron_mqtt.app.probe.step_response import LEAST_SAMPLES, PowerSample, StepResponse, known_factor
from heron_mqtt.field.vendor.tables import SetpointTable
from heron_mqtt.units import KW_PER_MW, W_PER_MW

FACTOR_TOLERANCE = 0.1  # how far the power may be from the setpoint: losses, a meter's error


@dataclass(frozen=True, slots=True)
class Verdict:
    """One thing that a test setpoint tells.

    Attributes:
        name: sign, factor, delay, acknowledgement or release.
        is_good: Whether it is as a run needs it.
        text: Why, in one line; what to change where it is not good.
    """

    name: str
    is_good: bool
    text: str


@dataclass(frozen=True, slots=True)
class SetpointAck:
    """What was said of a setpoint.

    Attributes:
        confirm: What the mapping takes for it: answer, power or sent.
        after_s: When it came, s; None = it did not.
        rejected: Why the setpoint was not taken.
    """

    confirm: str
    after_s: float | None = None
    rejected: str | None = None


def kw(p_mw: float) -> str:
    """Return a power for people."""
    size = abs(p_mw)
    if size >= 10.0:
        return f"{p_mw:.4g} MW"
    return f"{p_mw * KW_PER_MW:.4g} kW" if size >= 1e-3 or size == 0.0 else f"{p_mw * W_PER_MW:.3g} W"


def judge(
    response: StepResponse,
    ack: SetpointAck,
    table: SetpointTable,
    released: str | None,
    after: Sequence[PowerSample],
) -> list[Verdict]:
    """Return every verdict.

    Args:
        response: What the power did.
        ack: What the device answered.
        table: How setpoints are sent.
        released: Why the device was not handed back; None = it was.
        after: The power since the release; times from then on, s.
    """
    return [
        _sign(response),
        _factor(response),
        _delay(response, ack, table),
        _acknowledgement(ack, table),
        _release(response, released, after),
    ]


def _no_reaction(response: StepResponse) -> str:
    if response.final_mw is None:
        return "unknown: no power came after the setpoint"
    return f"unknown: the power stayed at {kw(response.final_mw)} (it was {kw(response.before.p_mw)})"


def _sign(response: StepResponse) -> Verdict:
    factor = response.factor
    if factor is None:
        return Verdict("sign", False, _no_reaction(response))
    assert response.final_mw is not None
    came = f"asked for {kw(response.asked_mw)}, came {kw(response.final_mw)}"
    if abs(response.final_mw) <= response.before.noise_mw * 3.0:
        return Verdict("sign", False, f"unknown: {came}, which is within the noise of 0")
    if factor < 0.0:
        return Verdict(
            "sign",
            False,
            f"opposite: {came}; look at the device: if it did the opposite, change sign in "
            "[setpoint.values], otherwise change sign where p_mw is read",
        )
    return Verdict("sign", True, f"{came}: + is injected into the grid")


def _factor(response: StepResponse) -> Verdict:
    factor = response.factor
    if factor is None:
        return Verdict("factor", False, _no_reaction(response))
    assert response.final_mw is not None
    size = abs(factor)
    leeway = FACTOR_TOLERANCE + 3.0 * response.before.noise_mw / abs(response.asked_mw) / math.sqrt(
        max(1, response.samples // 3)
    )
    if abs(size - 1.0) <= leeway:
        return Verdict("factor", True, f"{size:.3g}: the power is what was asked for")
    text = f"{size:.3g}: asked for {kw(response.asked_mw)}, came {kw(response.final_mw)}"
    added = response.added
    if added is not None and abs(abs(added) - 1.0) <= leeway:
        text += (
            f"; the change of {kw(response.final_mw - response.before.p_mw)} is right: p_mw also "
            "measures something else; it must be the power of the device alone"
        )
    elif why := known_factor(size):
        text += f"; {why}"
    elif size < 1.0:
        text += "; less than asked for: a limit in the device (state of charge, rating), or a wrong scale"
    else:
        text += "; more than asked for: a wrong scale, or p_mw also measures something else"
    return Verdict("factor", False, text)


def _delay(response: StepResponse, ack: SetpointAck, table: SetpointTable) -> Verdict:
    reacted, settled, every_s = response.reacted_after_s, response.settled_after_s, response.before.every_s
    if not response.has_reacted or reacted is None:
        return Verdict("delay", False, _no_reaction(response))
    every = f"a value every {every_s:.2g} s"
    if settled is None:
        return Verdict(
            "delay",
            False,
            f"reacted after {reacted:.2g} s, did not settle while the setpoint held; try a longer --for "
            f"({every})",
        )
    text = f"reacted after {reacted:.2g} s, settled after {settled:.2g} s ({every})"
    if ack.confirm == "power" and table.settle_s < reacted - every_s:
        return Verdict(
            "delay",
            False,
            f'{text}; confirm = "power" accepts a power from before it as the answer: settle_s = '
            f"{table.settle_s:g} is too short, use settle_s = {math.ceil(settled + every_s)}",
        )
    return Verdict("delay", True, text)


def _acknowledgement(ack: SetpointAck, table: SetpointTable) -> Verdict:
    name = "acknowledgement"
    if ack.rejected is not None:
        is_silence = ack.rejected.startswith("not acknowledged: ")
        return Verdict(name, False, ack.rejected if is_silence else f"rejected: {ack.rejected}")
    if ack.after_s is None:
        within_s = table.answer_within_s + table.settle_s
        return Verdict(name, False, f"none came within {within_s:g} s")
    match ack.confirm:
        case "answer":
            return Verdict(name, True, f"the device answered within {ack.after_s:.2g} s")
        case "power":
            return Verdict(name, True, f"power came {ack.after_s:.2g} s after the setpoint")
        case _:
            return Verdict(name, True, "none is expected: the setpoint counts as sent")


def _release(response: StepResponse, released: str | None, after: Sequence[PowerSample]) -> Verdict:
    if released is not None:
        return Verdict("release", False, f"NOT handed back: {released}")
    if not after:
        return Verdict("release", False, "it was sent, but no power came after it")
    late = statistics.median(p for t, p in after if t >= after[-1][0] * 2.0 / 3.0)
    if not response.has_reacted or response.final_mw is None:
        return Verdict("release", True, f"it was sent; the power is {kw(late)}")
    band = max(0.1 * abs(response.final_mw - response.before.p_mw), 3.0 * response.before.noise_mw)
    if abs(late - response.final_mw) <= band:
        return Verdict(
            "release",
            False,
            f"it was sent, but {after[-1][0]:.2g} s later the power is still {kw(late)}: does the "
            "release return the device to its own control?",
        )
    at_s = next((t for t, p in after if abs(p - response.final_mw) > band), after[-1][0])
    seen = "" if len(after) >= LEAST_SAMPLES else ", by one value"
    return Verdict("release", True, f"left the setpoint {at_s:.2g} s after it, is at {kw(late)} now{seen}")
