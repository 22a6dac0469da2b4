"""The table [impairment]: what it refuses, with which words, and the files that are shipped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from heron_mqtt.config import validate
from heron_mqtt.errors import ConfigError
from heron_mqtt.messaging.impairment import ImpairmentTable, NetworkFile, load_impairment, shipped_networks
from support.rows import each_row


def _problems(impairment: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        validate(NetworkFile, {"impairment": impairment}, "net.toml")
    return str(caught.value)


def _table(**keys: Any) -> ImpairmentTable:
    return ImpairmentTable.model_validate(keys)


@each_row(
    ("rule", "expected"),
    [
        ({"los": 0.1}, "net.toml: impairment.rules[0].los: unknown key; did you mean 'loss'?"),
        ({"loss": 1.5}, "net.toml: impairment.rules[0].loss = 1.5: should be less than or equal to 1"),
        ({"loss": -0.1}, "net.toml: impairment.rules[0].loss = -0.1: should be greater than or equal to 0"),
        ({"loss": "1%"}, "net.toml: impairment.rules[0].loss = '1%': should be a valid number"),
        ({"delay_s": float("nan")}, "net.toml: impairment.rules[0].delay_s = nan: should be"),
        ({"pattern": "a+"}, "filter 'a+': '+' must be a whole level"),
        ({"pattern": ["a/#", "#/b"]}, "filter '#/b': '#' must be the whole last level"),
        ({"pattern": []}, "at least one channel or filter"),
        ({"direction": "up"}, "impairment.rules[0].direction = 'up'"),
        ({"exempt": True, "loss": 0.1, "delay_s": 1.0}, "nothing to do for delay_s, loss; drop one"),
        (
            {"jitter": "uniform"},
            "jitter (a distribution other than 'none') and jitter_s (above 0) go together",
        ),
        ({"jitter_s": 0.1}, "jitter (a distribution other than 'none') and jitter_s (above 0) go together"),
        ({"jitter": "poisson", "jitter_s": 0.1}, "impairment.rules[0].jitter = 'poisson'"),
        ({"jitter": "normal", "jitter_s": 0.1, "jitter_shape": 1.0}, "jitter_shape belongs to"),
        (
            {"jitter": "pareto", "jitter_s": 0.1, "jitter_shape": 0.0},
            "rules[0].jitter_shape = 0.0: should be",
        ),
        ({"reorder": 0.1}, "reorder (a probability) and reorder_s (a time) go together"),
        ({"reorder_s": 0.1}, "reorder (a probability) and reorder_s (a time) go together"),
        ({"delay_s": 2.0, "max_delay_s": 1.0}, "delay_s must not exceed max_delay_s, got 2.0 > 1.0"),
        ({"burst": {"enter": 0.1}}, "net.toml: impairment.rules[0].burst.leave: missing"),
        ({"burst": {"enter": 0.0, "leave": 0.1}}, "rules[0].burst.enter = 0.0: should be greater than 0"),
    ],
)
def test_a_wrong_rule_is_refused_with_file_key_value_and_expectation(
    rule: dict[str, Any], expected: str
) -> None:
    assert expected in _problems({"rules": [rule]})


@each_row(
    ("window", "expected"),
    [
        ({}, "either begin_s and end_s, or begin_step and end_step"),
        ({"begin_s": 1.0}, "either begin_s and end_s, or begin_step and end_step"),
        ({"begin_s": 1.0, "end_step": 4}, "either begin_s and end_s, or begin_step and end_step"),
        ({"begin_s": 1.0, "end_s": 2.0, "begin_step": 1, "end_step": 2}, "either begin_s and end_s, or"),
        ({"begin_s": 2.0, "end_s": 2.0}, "a partition must begin before it ends, got 2.0 .. 2.0"),
        ({"begin_step": 8, "end_step": 4}, "a partition must begin before it ends, got 8 .. 4"),
        ({"begin_step": 1, "end_step": 4, "hold": True}, "hold needs begin_s and end_s"),
        ({"begin_step": -1, "end_step": 4}, "partitions[0].begin_step = -1: should be"),
    ],
)
def test_a_wrong_partition_is_refused_with_its_reason(window: dict[str, Any], expected: str) -> None:
    assert expected in _problems({"partitions": [window]})


def test_every_problem_is_named_at_once() -> None:
    problems = _problems({"seed": -1, "rules": [{"loss": 2.0}, {"delay": 1.0}], "max_in_flight": 0})
    assert len(problems.splitlines()) == 4


def test_rules_match_by_filter_and_direction() -> None:
    rule = _table(rules=[{"pattern": ["devices/#", "p2p/MG1/+"], "direction": "out"}]).rules[0]
    assert rule.matches("out", "devices/MG1/ess/setpoint")
    assert rule.matches("out", "p2p/MG1/MG2")
    assert not rule.matches("out", "p2p/MG2/MG1")
    assert not rule.matches("in", "devices/MG1/ess/setpoint")


def test_a_window_holds_its_begin_and_not_its_end() -> None:
    seconds, steps = _table(
        partitions=[{"begin_s": 1.0, "end_s": 2.0}, {"begin_step": 4, "end_step": 6}]
    ).partitions
    assert [seconds.is_open(t, 0) for t in (0.9, 1.0, 1.9, 2.0)] == [False, True, True, False]
    assert [steps.is_open(0.0, n) for n in (3, 4, 5, 6, None)] == [False, True, True, False, False]


def test_an_empty_table_is_a_perfect_network() -> None:
    table = _table()
    assert table.rules == []
    assert table.partitions == []
    assert table.seed is None


@pytest.mark.parametrize("name", ["lan", "lte_good", "lte_poor", "satellite", "partition"])
@pytest.mark.parametrize("spelling", ["{}", "{}.toml", "networks/{}", "config/networks/{}.toml"])
def test_a_shipped_network_is_found_by_each_of_its_names(
    name: str, spelling: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_impairment(spelling.format(name)).name == name


def test_the_shipped_networks_are_these() -> None:
    assert shipped_networks() == ["lan", "lte_good", "lte_poor", "partition", "satellite"]


def test_shipped_networks_never_lose_presence_run_state_or_the_emergency_stop() -> None:
    for name in shipped_networks():
        for channel in ("run/state", "estop", "agents/MG1/status", "devices/MG1/ess/status"):
            table = load_impairment(name)
            rule = next(rule for rule in table.rules if rule.matches("in", channel))
            assert (rule.loss, rule.burst) == (0.0, None), (name, channel)


def test_a_file_of_ones_own_is_named_after_itself(tmp_path: Path) -> None:
    path = tmp_path / "barn.toml"
    path.write_text("[impairment]\n[[impairment.rules]]\ndelay_s = 1\n")
    table = load_impairment(path)
    assert table.name == "barn"
    assert table.rules[0].delay_s == 1.0


@pytest.mark.parametrize("name", ["lte_por", "../networks/lan", "networks/../lan", "/etc/lan", "", "."])
def test_an_unknown_network_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(
        ConfigError, match="no such network file; shipped networks are: lan, lte_good, lte_poor"
    ):
        load_impairment(name)


def test_other_tables_in_a_network_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.toml"
    path.write_text("[impairment]\n[network]\nsource = 'x'\n")
    with pytest.raises(ConfigError, match=r"net.toml: network: unknown key"):
        load_impairment(path)
