"""``heron-mqtt top``: a snapshot as a screen."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from heron_mqtt.cli.top_table import TopScreen


def drawn(**more: Any) -> list[str]:
    """Return the lines of a screen with one environment, which has nothing but these keys."""
    empty: dict[str, Any] = {"run": None, "price": None, "stop": None, "problems": [], "events": []}
    environment = {"env_id": "lab", "microgrids": {}, "devices": {}, **empty, **more}
    snapshot = {"broker": "mqtt://127.0.0.1:1883", "connected": True, "environments": [environment]}
    console = Console(file=(file := io.StringIO()), width=80)
    console.print(TopScreen().draw(snapshot, 80, None))
    return file.getvalue().splitlines()


@pytest.mark.parametrize(
    ("run", "line"),
    [
        ({"state": "running", "step": 0}, "lab: running, step 0"),
        ({"state": "reset", "step": None}, "lab: reset"),
        (None, "lab: no run"),
    ],
)
def test_a_run_is_shown_with_its_step_once_it_has_one(run: dict[str, Any] | None, line: str) -> None:
    assert drawn(run=run)[1] == line


@pytest.mark.parametrize(("rejected", "more"), [(0, ""), (7, "; 7 setpoints rejected since")])
def test_a_stop_is_shown_with_the_setpoints_that_were_rejected_in_it(rejected: int, more: str) -> None:
    stop = {"who": "ann", "why": "smoke", "since": None}
    assert drawn(stop=stop, rejected_in_stop=rejected)[2] == f"EMERGENCY STOP by ann: smoke{more}"
