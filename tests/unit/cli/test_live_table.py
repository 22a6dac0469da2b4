"""A run on a terminal while it goes on: nothing cut, nothing written across, the stop in red."""

from __future__ import annotations

import io
import re
import sys
from typing import Any

import pytest
from rich.console import Console

from heron_mqtt.app.run_summary import AgentTotals, Summary
from heron_mqtt.cli.console import ConsoleProgress
from heron_mqtt.cli.live_table import LiveTable
from heron_mqtt.cli.logs import set_up_logging
from heron_mqtt.cli.sparkline import sparkline
from heron_mqtt.cli.streams import GuardedStream
from heron_mqtt.protocols.p2p import SettledTrade

STOP = {"active": True, "first_step": 4, "last_step": 5, "who": "ann", "why": "smoke in the battery room"}


def summary(**fields: Any) -> Summary:
    totals = AgentTotals(reward=0.0, net_mwh=0.0, imported_mwh=0.0, exported_mwh=0.0, cost=0.0)
    plain: dict[str, Any] = {"scenario": "s", "mode": "distributed", "broker": "embedded", "seed": 7}
    plain |= {"step_s": 900.0, "agents": {"MG1": totals}, "steps": 3, "step_ms": [4.0]}
    return Summary(**{**plain, **fields})


def infos(**changes: Any) -> dict[str, dict[str, Any]]:
    one = {
        "p_load_mw": -1.23456,
        "p_mw": {"generator": 1.5836, "ess": -0.105263},
        "soc": {"ess": 0.63},
        "net_mwh": 0.0102,
        "vm_pu": {"min": 0.9653, "max": 1.0164},
        "trades": [SettledTrade("MG1", "MG2", 0.0091, 60.0)],
        "fallbacks": {},
        "missed": 0,
    }
    return {"MG1": {**one, **changes}}


def drawn(
    table: LiveTable, width: int, encoding: str = "utf-8", *, styled: bool = False, **fields: Any
) -> str:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding)
    console = Console(
        file=file, force_terminal=True, width=width, markup=False, emoji=False, highlight=False,
        color_system="standard", legacy_windows=False,
    )  # fmt: skip
    told = fields.pop("infos", infos())
    table.note(summary(**fields), 57.81, told)
    console.print(table.drawn(summary(**fields), 57.81, told))
    file.flush()
    found = raw.getvalue().decode(encoding)
    return found if styled else re.sub(r"\x1b\[[0-9;]*m", "", found)


@pytest.mark.parametrize("width", [48, 60, 80, 200])
def test_no_value_is_cut_at_any_width(width: int) -> None:
    shown = drawn(LiveTable(10), width)
    assert "…" not in shown
    assert max(map(len, shown.splitlines())) <= width
    for value in ("generator +1584", "ess -105.3", "63", "57.81 $/MWh", "step 3/10"):
        assert value in shown
    assert ("0.965-1.016" in shown) == (width >= 60)
    assert ("+9.1" in shown) == (width >= 80)


def test_a_stop_in_force_is_red_above_the_table_and_an_event() -> None:
    table = LiveTable(10)
    drawn(table, 80)
    stopped = drawn(table, 80, styled=True, estop=STOP)
    line = next(line for line in stopped.splitlines() if "EMERGENCY STOP since step 4, by ann: smoke" in line)
    assert "41m" in line, "white on red"
    assert "emergency stop in force" in stopped
    released = drawn(table, 80, estop={**STOP, "active": False})
    assert "EMERGENCY" not in released
    assert "emergency stop released" in released


def test_a_model_that_stands_in_is_an_event_once_and_its_end_is_one() -> None:
    table = LiveTable(10)
    silent = infos(fallbacks={"ess": "device silent"})
    for _ in range(3):
        shown = drawn(table, 80, infos=silent)
    assert shown.count("MG1/ess: its model replaces it: device silent") == 1
    assert "ess -105.3*" in shown
    assert "MG1/ess is back" in drawn(table, 80)


def test_a_terminal_without_utf_8_gets_ascii() -> None:
    shown = drawn(LiveTable(10), 80, "latin-1", infos=infos(fallbacks={"ess": "Wärme"}))
    assert "\u2581" not in shown
    assert "63" in shown


def test_a_character_that_the_stream_has_not_is_no_traceback() -> None:
    raw = io.BytesIO()
    stream = GuardedStream(io.TextIOWrapper(raw, "ascii"))
    stream.write("50 % ▁\n")
    stream.flush()
    assert raw.getvalue() == b"50 % \\u2581\n"


def test_a_sparkline_has_a_fixed_scale_where_one_is_given() -> None:
    assert sparkline([0.0, 0.5, 1.0], low=0.0, high=1.0) == "▁▅█"
    assert sparkline([0.9, 0.9], low=0.0, high=1.0, ascii_only=True) == "@@"
    assert sparkline([2.0, -1.0], low=0.0, high=1.0) == "█▁", "beyond the scale is its end"


def test_the_log_goes_to_what_standard_error_is_now(monkeypatch: pytest.MonkeyPatch) -> None:
    import logging

    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    set_up_logging(verbose=False)
    later = io.StringIO()
    monkeypatch.setattr(sys, "stderr", later)
    logging.getLogger("heron_mqtt.gateway").warning("MG1: emergency stop pressed by ann")
    assert "emergency stop pressed by ann" in later.getvalue()


def test_without_a_terminal_standard_error_is_left_alone() -> None:
    where = Console(file=io.StringIO(), force_terminal=True, width=80)
    before = sys.stderr
    with ConsoleProgress(where, 3):
        assert sys.stderr is before
