"""What the power did about a setpoint, by numbers alone: reactions, noise, drift, settling."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heron_mqtt.app.probe.step_response import known_factor, power_before, step_response
from heron_mqtt.app.probe.verdicts import SetpointAck, judge, kw
from heron_mqtt.field.vendor.tables import SetpointTable

TABLE = SetpointTable.model_validate(
    {"messages": [{"topic": "box/set", "payload": "{p}"}], "release": "zero"}
)


def before(level: float = 0.0, noise: float = 0.0, slope: float = 0.0) -> list[tuple[float, float]]:
    rng = random.Random(1)
    return [(0.2 * n, level + slope * (0.2 * n - 8.0) + rng.gauss(0.0, noise)) for n in range(41)]


def after(
    final: float, delay_s: float, *, level: float = 0.0, noise: float = 0.0
) -> list[tuple[float, float]]:
    rng = random.Random(2)
    return [(0.2 * n, (final if 0.2 * n >= delay_s else level) + rng.gauss(0.0, noise)) for n in range(1, 51)]


@given(
    level=st.floats(-1.0, 1.0),
    asked=st.sampled_from([-0.5, -0.01, 0.0005, 0.5]),
    gain=st.sampled_from([-1.0, 1e-3, 0.4, 1.0, 3.0, 1e3]),
    delay_s=st.floats(0.0, 5.0),
)
def test_without_noise_factor_and_delay_are_exact(
    level: float, asked: float, gain: float, delay_s: float
) -> None:
    final = gain * asked
    response = step_response(power_before(before(level)), after(final, delay_s, level=level), asked, 10.0)
    if abs(final - level) < 1e-9:
        return
    assert response.factor == pytest.approx(gain)
    assert response.reacted_after_s is not None
    assert response.settled_after_s is not None
    assert delay_s - 1e-9 <= response.reacted_after_s <= max(delay_s, 0.2) + 0.2
    assert response.settled_after_s == pytest.approx(response.reacted_after_s)


@given(seed=st.integers(0, 500), noise=st.floats(1e-6, 1e-3))
def test_noise_alone_is_hardly_ever_a_reaction(seed: int, noise: float) -> None:
    rng = random.Random(seed)
    samples = [(0.2 * n, rng.gauss(0.0, noise)) for n in range(50)]
    response = step_response(
        power_before(samples), [(t, rng.gauss(0.0, noise)) for t, _ in samples[1:]], 0.01, 10.0
    )
    assert not response.has_reacted


def test_a_drift_goes_on_and_is_no_reaction() -> None:
    found = power_before(before(0.1, slope=0.002))
    assert found.p_mw == pytest.approx(0.1)
    assert found.drift_mw_s == pytest.approx(0.002)
    going_on = [(0.2 * n, 0.1 + 0.002 * 0.2 * n) for n in range(1, 51)]
    assert not step_response(found, going_on, 0.5, 10.0).has_reacted


def test_one_wrong_value_is_neither_noise_nor_reaction() -> None:
    samples = before()
    samples[20] = (samples[20][0], 9.9)
    found = power_before(samples)
    assert (found.p_mw, found.noise_mw) == (0.0, 0.0)
    came = after(0.0, 0.0)
    came[10] = (came[10][0], 9.9)
    response = step_response(found, came, 0.5, 10.0)
    assert (response.has_reacted, response.reacted_after_s) == (False, None)


def test_a_power_that_still_moves_at_the_end_has_not_settled() -> None:
    rising = [(0.2 * n, 0.01 * n) for n in range(1, 51)]
    response = step_response(power_before(before()), rising, 0.5, 10.0)
    assert response.has_reacted
    assert response.settled_after_s is None
    delay = judge(response, SetpointAck("sent", 0.1), TABLE, None, [(1.0, 0.0)])[2]
    assert not delay.is_good
    assert "did not settle" in delay.text


def test_what_is_measured_along_is_told_from_a_wrong_scale() -> None:
    response = step_response(power_before(before(-2.0)), after(-1.5, 0.4, level=-2.0), 0.5, 10.0)
    factor = judge(response, SetpointAck("sent", 0.1), TABLE, None, [(1.0, -2.0)])[1]
    assert not factor.is_good
    assert "p_mw also measures something else" in factor.text


def test_one_value_tells_no_level() -> None:
    with pytest.raises(ValueError, match="expected 2 samples at least, got 1"):
        power_before([(0.0, 1.0)])


@pytest.mark.parametrize(
    ("factor", "words"), [(1000.0, "kW"), (0.00104, "kW"), (3.1, "three phases"), (0.5, ""), (1.0, "")]
)
def test_usual_mistakes_are_named(factor: float, words: str) -> None:
    found = known_factor(factor)
    assert words in found
    assert bool(found) == bool(words)


@pytest.mark.parametrize(
    ("p_mw", "text"), [(0.0005, "500 W"), (-0.0012, "-1.2 kW"), (0.0, "0 kW"), (12.5, "12.5 MW")]
)
def test_powers_are_shown_in_units_that_fit(p_mw: float, text: str) -> None:
    assert kw(p_mw) == text
