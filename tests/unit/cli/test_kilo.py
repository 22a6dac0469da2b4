"""Powers as people read them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heron_mqtt.cli.kilo import kilo
from support.rows import each_row


@each_row(
    ("mega", "shown"),
    [
        (0.0, "0"),
        (-1e-12, "0"),
        (0.0123, "12.3"),
        (-0.105263, "-105.3"),
        (9.9999999, "10000"),
        (12.3456, "12346"),
        (250.0, "250000"),
        (1.5e-6, "0.0015"),
        (math.nan, "nan"),
        (1e300, "1e+303"),
    ],
)
def test_a_power_has_four_digits_and_no_exponent(mega: float, shown: str) -> None:
    assert kilo(mega) == shown


def test_a_sign_is_shown_where_it_tells_the_direction() -> None:
    assert [kilo(mega, signed=True) for mega in (12.3456, -0.5, 0.0, -0.0)] == ["+12346", "-500", "+0", "+0"]


@given(st.floats(1e-6, 1e8))
def test_what_is_shown_is_the_power(mega: float) -> None:
    assert "e" not in kilo(mega)
    assert float(kilo(mega)) == pytest.approx(mega * 1e3, rel=1e-3, abs=1e-6)
