"""When a run begins and ends in simulated time, as rows of the profiles and a number of steps."""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from heron_mqtt.errors import ConfigError, HeronError
from powergrid.scenario import MAX_STEPS

if TYPE_CHECKING:
    from powergrid.scenario import LoadedScenario

MAX_DAYS = 36_525  # a hundred years
MAX_REALTIME_S = 86_400.0  # of a step, as in a scenario
DAY_S = 86_400.0


def chosen_time(
    loaded: LoadedScenario, start: str | None, until: str | None, days: float | None, steps: int
) -> tuple[LoadedScenario, int]:
    """Return the scenario with the row that the run begins with, and the number of its steps.

    Args:
        loaded: The scenario.
        start: Simulated time of the first step; None = the scenario's ``profiles.start_row``.
        until: Simulated time at which the last step ends; None = ``days`` or ``steps`` count.
        days: Length, simulated days; None = ``until`` or ``steps`` count.
        steps: Where nothing else is said.

    Raises:
        ConfigError: A time cannot be read, or is not one of the profiles; says which there are. Or the run
            would have more than ``MAX_STEPS`` steps.
    """
    step_s = loaded.scenario.step_s
    if days is not None and days <= MAX_DAYS:  # else it is refused already
        steps = max(1, round(days * DAY_S / step_s))
    if start is not None or until is not None:
        loaded, steps = _from_profiles(loaded, start, until, steps)
    if steps > MAX_STEPS:
        given = f"--until {until}" if until is not None else "--steps" if days is None else f"--days {days:g}"
        raise ConfigError(f"{given}: {steps} steps of {step_s:g} s; expected at most {MAX_STEPS}")
    return loaded, steps


def _from_profiles(
    loaded: LoadedScenario, start: str | None, until: str | None, steps: int
) -> tuple[LoadedScenario, int]:
    """Return what ``chosen_time`` does, where a time is given."""
    step_s = loaded.scenario.step_s
    profiles = loaded.scenario.profiles
    first, rows = _span(loaded)
    row = profiles.start_row
    if start is not None:
        row = _row("--start", start, first, step_s)
        if not 0 <= row < rows:
            last = first + timedelta(seconds=(rows - 1) * step_s)
            raise ConfigError(
                f"--start {start}: the profiles of {loaded.source} go from {first:%Y-%m-%d %H:%M} to "
                f"{last:%Y-%m-%d %H:%M}"
            )
        chosen = profiles.model_copy(update={"start_row": row})
        scenario = loaded.scenario.model_copy(update={"profiles": chosen})
        loaded = loaded.model_copy(update={"scenario": scenario})
    if until is not None:
        steps = _row("--until", until, first, step_s) - row
        if steps < 1:
            begins = first + timedelta(seconds=row * step_s)
            raise ConfigError(f"--until {until}: expected a time after the start, {begins:%Y-%m-%d %H:%M}")
    return loaded, steps


def _span(loaded: LoadedScenario) -> tuple[datetime, int]:
    """Return the time of the first row, and how many there are."""
    from powergrid.profiles import load_profiles

    profiles = loaded.scenario.profiles
    try:
        read = load_profiles(
            loaded.path(profiles.price_file), [profiles.price_column], step_s=loaded.scenario.step_s
        )
    except HeronError as exc:
        problems = exc.problems if isinstance(exc, ConfigError) else (str(exc),)
        raise ConfigError(*problems) from None
    return read.start, read.n_steps


def _row(option: str, text: str, first: datetime, step_s: float) -> int:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        expected = f'a date and time such as "{first:%Y-%m-%d %H:%M}"'
        raise ConfigError(f"{option} {text}: expected {expected}") from None
    if time.tzinfo is None:
        time = time.replace(tzinfo=first.tzinfo)
    elif first.tzinfo is None:
        raise ConfigError(f"{option} {text}: leave out the offset: the profiles' times have none")
    rows = (time - first).total_seconds() / step_s
    if rows != round(rows):
        near = first + timedelta(seconds=math.floor(rows) * step_s)
        raise ConfigError(
            f"{option} {text}: a step begins every {step_s:g} s: name such a time, for example "
            f"{near:%Y-%m-%d %H:%M:%S}"
        )
    return round(rows)
