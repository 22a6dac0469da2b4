"""What ``heron-mqtt evaluate`` prints of its evaluations."""

from __future__ import annotations

import pytest

from heron_mqtt.app.evaluate import DISTRICT_SCORES, EpisodeScore, Evaluation
from heron_mqtt.cli.evaluate_commands import DISTRICT_COLUMNS, _print
from powergrid.policies.district_scores import DistrictScores


def evaluation(policy: str, network: str, ramping_mw: float, load_factor: float | None = 0.5) -> Evaluation:
    district = DistrictScores(1.0, 2.0, ramping_mw, 4.0, load_factor)
    return Evaluation(policy, network, (EpisodeScore(0, -10.0, -10.0, district=district),))


def test_every_district_score_has_its_column() -> None:
    assert tuple(DISTRICT_COLUMNS) == DISTRICT_SCORES


def test_ratios_are_to_idle_over_the_same_network(capsys: pytest.CaptureFixture[str]) -> None:
    pairs = [("idle", 2.0), ("rule", 3.0)]
    found = [evaluation(policy, "", ramping) for policy, ramping in pairs]
    found += [evaluation(policy, "lan", 10.0 * ramping - 10.0) for policy, ramping in pairs]
    found += [evaluation("learned", "", 1.0, None), Evaluation("bound", "", found[0].episodes)]
    _print("any", 1, found)
    rows = [
        [cell.strip() for cell in line.split("│")[1:-1]]
        for line in capsys.readouterr().out.partition("ratio to idle")[2].splitlines()
        if line.startswith("│")
    ]
    assert rows == [
        ["idle", "-", "1.00", "1.00", "1.00", "1.00", "1.00"],
        ["rule", "-", "1.00", "1.00", "1.50", "1.00", "1.00"],
        ["idle", "lan", "1.00", "1.00", "1.00", "1.00", "1.00"],
        ["rule", "lan", "1.00", "1.00", "2.00", "1.00", "1.00"],
        ["learned", "-", "1.00", "1.00", "0.50", "1.00", "-"],
    ]


def test_without_idle_there_are_no_ratios(capsys: pytest.CaptureFixture[str]) -> None:
    _print("any", 1, [evaluation("rule", "", 1.0)])
    assert "idle" not in capsys.readouterr().out
