"""GatewayTable: what a scenario says of a device's place in the gateway, and what is wrong with it."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from heron_mqtt.field.gateway.settings import BandTable, DeviceSettings, GatewayTable, authority_problem
from heron_mqtt.messages import Level


def test_what_is_left_out_has_a_default() -> None:
    table = GatewayTable()
    assert (table.stale_after_s, table.band, table.gate_steps, table.gate_residual_mw) == (5.0, None, 4, None)
    assert (table.tolerance, table.max_rate_per_s) == (0.1, 100.0)
    settings = DeviceSettings()
    assert (settings.authority, settings.kind, settings.is_real, settings.gap_mw) == (
        *("emulated", None, False, (0.0, 0.0)),
    )
    assert settings.gateway == table


@pytest.mark.parametrize(
    ("field", "least", "beyond"),
    [
        ("stale_after_s", 1e-9, 0.0),
        ("gate_steps", 1, 0),
        ("gate_steps", 10_000, 10_001),
        ("gate_residual_mw", 1e-9, 0.0),
        ("tolerance", 0.0, -1e-9),
        ("max_rate_per_s", 1e-9, 0.0),
    ],
)
def test_what_is_beyond_its_bound_is_refused(field: str, least: float, beyond: float) -> None:
    assert getattr(GatewayTable.model_validate({field: least}), field) == least
    with pytest.raises(ValidationError, match=field):
        GatewayTable.model_validate({field: beyond})


@pytest.mark.parametrize(
    ("low_mw", "high_mw", "holds"),
    [(0.0, 0.0, True), (-1.0, 0.0, True), (0.0, 1.0, True), (-1.0, -0.1, False)],
)
def test_a_band_holds_zero_to_the_edge(low_mw: float, high_mw: float, holds: bool) -> None:
    if holds:
        assert BandTable(p_min_mw=low_mw, p_max_mw=high_mw).p_max_mw == high_mw
    else:
        with pytest.raises(
            ValidationError, match=r"a band must hold 0 \(the safe state\), got -1\.0 \.\. -0\.1"
        ):
            BandTable(p_min_mw=low_mw, p_max_mw=high_mw)


def test_a_device_counts_as_steady_within_a_twentieth_of_its_larger_side_unless_told_otherwise() -> None:
    assert GatewayTable().gate_mw((-1.0, 2.0)) == pytest.approx(0.1)
    assert GatewayTable().gate_mw((-4.0, 2.0)) == pytest.approx(0.2)
    assert GatewayTable(gate_residual_mw=0.5).gate_mw((-1.0, 2.0)) == 0.5


LEVELS: list[tuple[Level | None, bool, bool, str | None]] = [
    # level, real, with a band: what is wrong
    (None, True, True, None),
    (None, True, False, None),
    ("emulated", False, False, None),
    (
        *("emulated", True, False),
        "authority = 'emulated' is for emulators, and a real device is at the other end (external or "
        "mapping); expected simulated, shadow, limited, full",
    ),
    ("full", True, False, None),
    ("limited", True, True, None),
    (
        *("limited", False, False),
        "authority = 'limited' needs gateway.band, the setpoints it allows (p_min_mw, p_max_mw)",
    ),
]


@pytest.mark.parametrize(("level", "is_real", "has_band", "problem"), LEVELS)
def test_a_level_that_cannot_be_held_is_named_with_those_that_can(
    level: Level | None, is_real: bool, has_band: bool, problem: str | None
) -> None:
    settings = GatewayTable(band=BandTable(p_min_mw=-0.5, p_max_mw=0.5) if has_band else None)
    assert authority_problem(level, settings, (-1.0, 1.0), is_real=is_real) == problem


@pytest.mark.parametrize(
    ("low_mw", "high_mw", "fits"),
    [
        (-1.0, 2.0, True),
        (-0.5, 0.5, True),
        (-1.0 - 1e-9, 2.0 + 1e-9, True),  # a rounding
        (-1.0 - 3e-9, 2.0, False),
        (-1.0, 2.0 + 3e-9, False),
    ],
)
def test_a_band_is_a_part_of_the_nameplate(low_mw: float, high_mw: float, fits: bool) -> None:
    settings = GatewayTable(band=BandTable(p_min_mw=low_mw, p_max_mw=high_mw))
    problem = authority_problem("limited", settings, (-1.0, 2.0), is_real=True)
    told = (
        f"gateway.band {low_mw} .. {high_mw} MW reaches beyond the nameplate -1.0 .. 2.0 MW; "
        "expected a part of it"
    )
    assert problem == (None if fits else told)
