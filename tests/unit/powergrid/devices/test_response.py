"""How power follows its setpoint within a step: mean and end, against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest

from powergrid.devices.response import mean_and_end
from support.rows import each_row


@each_row(
    ("how", "mean_mw", "end_mw"),
    [
        ({}, 5.0, 5.0),
        ({"response_delay_s": 4.0}, 0.4 * 1.0 + 0.6 * 5.0, 5.0),
        ({"response_delay_s": 10.0}, 1.0, 1.0),
        ({"response_delay_s": 99.0}, 1.0, 1.0),
        ({"ramp_mw_per_s": 0.1}, 2.0, 2.0),
        ({"ramp_mw_per_s": 0.1, "response_delay_s": 5.0}, 0.5 * 1.0 + 0.5 * 1.5, 1.5),
        ({"ramp_mw_per_s": 0.4}, 5.0, 5.0),
        ({"lag_s": 10.0}, 5.0 - 4.0 * (1.0 - math.exp(-1.0)), 5.0 - 4.0 * math.exp(-1.0)),
        (
            {"lag_s": 5.0, "response_delay_s": 5.0},
            (5.0 * 1.0 + 5.0 * 5.0 - 4.0 * 5.0 * (1.0 - math.exp(-1.0))) / 10.0,
            5.0 - 4.0 * math.exp(-1.0),
        ),
    ],
)
@each_row("sign", [1.0, -1.0])
def test_a_step_of_ten_seconds_from_one_to_five(
    how: dict[str, float], mean_mw: float, end_mw: float, sign: float
) -> None:
    got = mean_and_end(sign * 1.0, sign * 5.0, 10.0, **how)
    assert got == (pytest.approx(sign * mean_mw), pytest.approx(sign * end_mw))
