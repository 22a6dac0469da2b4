"""A run on the terminal: what is shown while it goes on, and at its end."""

from __future__ import annotations

import io
import math
from typing import Any

import pytest
from rich.console import Console

from heron_mqtt.app.run_summary import AgentTotals, Summary
from heron_mqtt.cli.console import FILE_WIDTH, ConsoleProgress, make_console, print_summary
from heron_mqtt.cli.quiet_progress import QuietProgress
from heron_mqtt.field.gateway.device_stats import DeviceStats
from heron_mqtt.protocols.p2p import SettledTrade


def console(*, terminal: bool = False, width: int = 120) -> Console:
    file = io.StringIO()
    return Console(
        file=file,
        force_terminal=terminal,
        width=width,
        markup=False,
        emoji=False,
        highlight=False,
        legacy_windows=False,
    )


def shown(where: Console) -> str:
    assert isinstance(where.file, io.StringIO)
    return where.file.getvalue()


def summary(name: str = "MG1", **fields: Any) -> Summary:
    totals = AgentTotals(reward=-12.5, net_mwh=-0.5, imported_mwh=0.75, exported_mwh=0.25, cost=12.25)
    plain: dict[str, Any] = {
        "scenario": "small",
        "mode": "distributed",
        "broker": "embedded",
        "seed": 7,
        "step_s": 900.0,
        "agents": {name: totals},
        "steps": 3,
        "step_ms": [1.0, 2.0, 4.0],
        "vm_min_pu": 0.98,
        "vm_max_pu": 1.02,
        "loading_max_percent": 37.5,
    }
    return Summary(**{**plain, **fields})


def infos(name: str = "MG1", **changes: Any) -> dict[str, dict[str, Any]]:
    plain: dict[str, Any] = {
        "p_load_mw": -0.114,
        "p_mw": {"gen": 0.1, "ess": -0.025},
        "soc": {"ess": 0.63},
        "net_mwh": 0.0102,
        "vm_pu": {"min": 1.005, "max": 1.016},
        "trades": [SettledTrade(name, "MG2", 0.0091, 60.0)],
        "fallbacks": {},
    }
    return {name: {**plain, **changes}}


# -- while it runs -------------------------------------------------------------------------------------


def test_in_a_pipe_every_eighth_step_and_the_last_is_a_line() -> None:
    where = console()
    with ConsoleProgress(where, 19) as progress:
        for step in range(1, 20):
            progress.step(summary(steps=step), 50.0, infos())
    lines = shown(where).splitlines()
    assert [line.split()[1] for line in lines] == ["8/19", "16/19", "19/19"]
    for told in ("50.00 $/MWh", "4.0 ms", "MG1: gen +0.100 ess -0.025 soc 0.63 vm 1.005..1.016"):
        assert told in lines[0]


def test_on_a_terminal_the_table_is_drawn_in_place() -> None:
    where = console(terminal=True)
    with ConsoleProgress(where, 19) as progress:
        progress.step(summary(steps=1), 50.0, infos())
    for told in ("step 1/19", "50.00 $/MWh", "MG1", "-114", " 63", "+10.2", "1.005-1.016", "+9.1"):
        assert told in shown(where), told


def test_a_model_that_stands_in_is_marked() -> None:
    where = console()
    with ConsoleProgress(where, 1) as progress:
        progress.step(summary(steps=1), 50.0, infos(fallbacks={"ess": "no telemetry"}))
    assert "ess -0.025*" in shown(where)
    assert "gen +0.100 " in shown(where)


def test_a_note_is_shown_at_once_and_whole() -> None:
    where = console()
    long = "waiting for a remote agent: " + "x" * 200
    with ConsoleProgress(where, 1) as progress:
        progress.note(long)
        assert shown(where) == f"{long}\n"


def test_beside_json_standard_output_stays_untouched(capsys: pytest.CaptureFixture[str]) -> None:
    progress = QuietProgress()
    progress.note("broker: mqtt://127.0.0.1:1883")
    progress.step(summary(), 50.0, infos())
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == "broker: mqtt://127.0.0.1:1883\n"


@pytest.mark.parametrize("name", ["[red]MG1[/red]", "[/]", ":smile:", "#3 50%"])
def test_names_are_shown_as_they_are(name: str) -> None:
    where = console()
    with ConsoleProgress(where, 1) as progress:
        progress.step(summary(name, steps=1), 50.0, infos(name))
    print_summary(where, summary(name, scenario=name))
    assert shown(where).count(name) == 3


# -- at the end ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("width", "tables"), [(80, 2), (120, 2), (160, 1)])
def test_no_number_of_a_device_is_cut_off_on_a_narrow_terminal(width: int, tables: int) -> None:
    device = DeviceStats().as_dict() | {
        "authority": "limited",
        "changes": [],
        "lost": 0,
        "duplicated": 0,
        "telemetry": 1234567,
        "age_s": {"p50": 0.2431, "p99": 0.4841},
        "round_trip_s": {"p50": 0.0187, "p99": 1.1274},
        "fallbacks": 12345,
        "longest_fallback": 1234,
        "tracking_error_mw": 0.004481,
        "residual_mw": 0.012333,
    }
    where = console(width=width)
    print_summary(where, summary(devices={"MG1/ess": device}))
    told = shown(where)
    assert "…" not in told
    for part in ("lost/dup/late", "1234567", "12345/1234", "243.1/484.1", "18.7/1127.4", "4.481", "12.333"):
        assert part in told, part
    assert told.count("MG1/ess") == tables
    assert max(map(len, told.splitlines())) <= width


def test_the_summary_tells_energy_cost_and_what_became_of_the_messages() -> None:
    where = console()
    messages = {"published": 5, "received": 4, "duplicated": 3, "rejected": 2, "lost": 1}
    made = summary(
        messages=messages,
        deadline_misses=6,
        fallbacks=7,
        overruns=8,
        trades=9,
        traded_mwh=0.25,
        void_trades=1,
    )
    print_summary(where, made)
    told = shown(where)
    for part in (
        "small: ran 3 steps, distributed over embedded broker, seed 7",
        "0.750", "0.250", "12.25", "-12.50",
        "trades  9 (0.2500 MWh), 1 reports void",
        "voltage  0.9800 .. 1.0200 pu",
        "loading  at most 37.5 %",
        "step time  median 2.00 ms, p99 4.00 ms, longest 4.00 ms",
        "messages  5 published, 4 received, 3 duplicated, 2 rejected, 1 lost",
        "deadlines  6 missed, 7 fallbacks",
        "real time  8 steps began late",
    ):  # fmt: skip
        assert part in told, part


def test_a_centralized_run_tells_nothing_of_messages() -> None:
    where = console()
    print_summary(where, summary(mode="centralized", broker="none"))
    assert "ran 3 steps, centralized, seed 7" in shown(where)
    assert "messages" not in shown(where)


def test_an_interrupted_run_says_so_and_what_is_unknown_is_not_made_up() -> None:
    where = console()
    nothing = {"steps": 0, "step_ms": [], "vm_min_pu": math.inf, "vm_max_pu": -math.inf}
    print_summary(where, summary(interrupted=True, **nothing, loading_max_percent=-math.inf))
    assert "interrupted after 0 steps" in shown(where)
    assert "inf" not in shown(where)
    assert "voltage" not in shown(where)


def test_a_run_that_diverged_at_once_says_so() -> None:
    where = console()
    nothing = {"steps": 1, "step_ms": [1.0], "vm_min_pu": math.inf, "vm_max_pu": -math.inf}
    print_summary(where, summary(diverged="no convergence", **nothing, loading_max_percent=-math.inf))
    assert "FAILED  the power flow diverged in step 0: no convergence" in shown(where)
    assert "unknown: no step has a solution" in shown(where)
    assert " inf" not in shown(where)


def test_tables_in_a_file_are_wide_enough_for_their_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    made = make_console()
    assert made.width >= FILE_WIDTH or made.is_terminal


# -- an emergency stop ---------------------------------------------------------------------------------

STOP: dict[str, Any] = {"first_step": 1, "last_step": 2, "active": True, "who": "ann", "why": "smoke"}


def test_a_stop_in_force_is_in_the_table_in_red() -> None:
    where = console(terminal=True)
    print_summary(where, summary(estop=STOP))
    (line,) = [line for line in shown(where).splitlines() if "EMERGENCY STOP" in line]
    assert "IN FORCE since step 1, by ann: smoke" in line
    assert "\x1b[1;31m" in line


def test_a_stop_that_was_released_is_told_without_a_warning() -> None:
    where = console(terminal=True)
    print_summary(where, summary(estop={**STOP, "active": False, "why": ""}))
    (line,) = [line for line in shown(where).splitlines() if "EMERGENCY STOP" in line]
    assert "in force in steps 1 to 2 and released, by ann: no reason given" in line
    assert "\x1b[1;31m" not in line


def test_a_run_without_a_stop_says_nothing_of_one() -> None:
    where = console()
    print_summary(where, summary())
    assert "STOP" not in shown(where)
