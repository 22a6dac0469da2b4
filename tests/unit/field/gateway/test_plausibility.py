"""Plausibility: telemetry at the very edge of what a device can do is its own, a hair beyond is not."""

from __future__ import annotations

import math

import pytest

from heron_mqtt.errors import MessageError
from heron_mqtt.field.gateway.plausibility import Plausibility
from heron_mqtt.field.gateway.settings import GatewayTable
from heron_mqtt.messages import Telemetry
from support.field_rig import NOON

TOLERANCE = 0.25  # exact in binary, as the powers below: the edges are where they are written


def checks(low_mw: float, high_mw: float, s_max_mva: float | None = None) -> Plausibility:
    return Plausibility(
        "MG1/ess",
        GatewayTable(tolerance=TOLERANCE),
        nameplate_mw=(low_mw, high_mw),
        s_max_mva=s_max_mva,
        tell=lambda what: None,
        monotonic=lambda: 0.0,
        now=lambda: NOON,
    )


# Nameplate, MW; lowest and highest power accepted, MW: a quarter of the larger side beyond each.
RANGES = [((-1.0, 2.0), (-1.5, 2.5)), ((-2.0, 1.0), (-2.5, 1.5)), ((0.0, 4.0), (-1.0, 5.0))]


@pytest.mark.parametrize(("nameplate", "edges"), RANGES)
def test_power_at_the_nameplate_and_a_tolerance_above_is_accepted(
    nameplate: tuple[float, float], edges: tuple[float, float]
) -> None:
    for p_mw in (*nameplate, *edges):
        checks(*nameplate).check_telemetry(Telemetry(p_mw=p_mw))


@pytest.mark.parametrize(("nameplate", "edges"), RANGES)
def test_power_just_beyond_the_tolerance_is_refused(
    nameplate: tuple[float, float], edges: tuple[float, float]
) -> None:
    for p_mw in (math.nextafter(edges[0], -math.inf), math.nextafter(edges[1], math.inf)):
        with pytest.raises(MessageError, match=r"outside the nameplate .* by more than 25%"):
            checks(*nameplate).check_telemetry(Telemetry(p_mw=p_mw))


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_reactive_power_up_to_a_tolerance_above_the_apparent_power_is_accepted(sign: float) -> None:
    for q_mvar in (4.0, 5.0):
        checks(-1.0, 1.0, s_max_mva=4.0).check_telemetry(Telemetry(p_mw=0.0, q_mvar=sign * q_mvar))


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_reactive_power_just_beyond_the_tolerance_is_refused(sign: float) -> None:
    q_mvar = sign * math.nextafter(5.0, math.inf)
    with pytest.raises(MessageError, match=r"beyond the apparent power of 4\.0 MVA by more than 25%"):
        checks(-1.0, 1.0, s_max_mva=4.0).check_telemetry(Telemetry(p_mw=0.0, q_mvar=q_mvar))


def test_reactive_power_of_a_device_without_a_known_apparent_power_is_not_judged() -> None:
    checks(-1.0, 1.0).check_telemetry(Telemetry(p_mw=0.0, q_mvar=1e3))
