"""When a run begins and ends: times become rows of the profiles and steps."""

from __future__ import annotations

import pytest

from heron_mqtt.app.run_time import chosen_time
from heron_mqtt.errors import ConfigError
from powergrid.scenario import LoadedScenario, load_scenario


@pytest.fixture(scope="module")
def loaded() -> LoadedScenario:
    """A week from 2016-07-04 00:00, in steps of 15 minutes."""
    return load_scenario("three_microgrids")


@pytest.mark.parametrize(
    ("start", "until", "days", "row", "steps"),
    [
        (None, None, None, 0, 7),
        (None, None, 2.0, 0, 192),
        ("2016-07-05 06:00", None, None, 120, 7),
        ("2016-07-05T06:00", None, 0.5, 120, 48),
        ("2016-07-05 06:00", "2016-07-05 08:00", None, 120, 8),
        (None, "2016-07-04 01:00", None, 0, 4),
        ("2016-07-10 23:45", "2016-07-11 02:00", None, 671, 9),  # beyond the file, which begins again
    ],
)
def test_times_become_a_row_and_steps(
    loaded: LoadedScenario, start: str | None, until: str | None, days: float | None, row: int, steps: int
) -> None:
    chosen, found = chosen_time(loaded, start, until, days, 7)
    assert (chosen.scenario.profiles.start_row, found) == (row, steps)
    assert loaded.scenario.profiles.start_row == 0


@pytest.mark.parametrize(
    ("start", "until", "told"),
    [
        ("yesterday", None, '--start yesterday: expected a date and time such as "2016-07-04 00:00"'),
        (
            "2016-07-05 06:10",
            None,
            "a step begins every 900 s: name such a time, for example",
        ),
        ("2017-01-01", None, "go from 2016-07-04 00:00 to 2016-07-10 23:45"),
        ("2016-07-05", "2016-07-05", "--until 2016-07-05: expected a time after the start, 2016-07-05 00:00"),
    ],
)
def test_what_is_no_time_of_the_profiles_is_refused(
    loaded: LoadedScenario, start: str, until: str | None, told: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        chosen_time(loaded, start, until, None, 7)
    assert told in str(refused.value)
