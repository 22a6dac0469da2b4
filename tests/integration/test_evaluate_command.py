"""``heron-mqtt evaluate`` from outside."""

from __future__ import annotations

from pathlib import Path

import pytest

from heron_mqtt.config import shipped_config
from support.heron_command import run_heron

MORNING = 36  # steps, until the site that is cut off in steps 32 to 35 is back


@pytest.fixture
def mornings(tmp_path: Path) -> str:
    """The shipped training days, each as long as its morning."""
    shipped = shipped_config()
    text = (shipped / "training_days.toml").read_text("utf-8").replace("steps = 96 ", f"steps = {MORNING} ")
    file = tmp_path / "mornings.toml"
    file.write_text(text.replace('"profiles/', f'"{shipped}/profiles/'), "utf-8")
    return str(file)


def test_it_prints_what_policies_earn_over_calls_and_over_a_bad_network(mornings: str) -> None:
    check_that_policies_earn_over_messages_what_they_earn_over_calls(mornings, MORNING, ["learned"], seeds=1)


@pytest.mark.slow
def test_over_whole_days_too_policies_earn_over_messages_what_they_earn_over_calls() -> None:
    check_that_policies_earn_over_messages_what_they_earn_over_calls(
        "training_days", 96, ["rule", "learned"], seeds=2
    )


def check_that_policies_earn_over_messages_what_they_earn_over_calls(
    scenario: str, steps: int, policies: list[str], seeds: int
) -> None:
    named = [f"--policy={policy}" for policy in policies]
    common = ("evaluate", scenario, *named, "--seeds", str(seeds), "--json")
    calls = run_heron(*common, "--over", "calls", "--network", "partition")
    assert calls.code == 0, calls.err
    messages = run_heron(*common, "--network", "partition")
    assert messages.code == 0, messages.err
    of_calls = {(e["policy"], e["network"]): e for e in calls.result["evaluations"]}
    of_messages = {(e["policy"], e["network"]): e for e in messages.result["evaluations"]}
    assert set(of_messages) == {(p, n) for p in policies for n in ("", "partition")}
    for policy in policies:
        assert len(of_messages[policy, ""]["episodes"]) == seeds
        perfect, parted = of_messages[policy, ""]["episodes"], of_messages[policy, "partition"]["episodes"]
        for one, direct in zip(perfect, of_calls[policy, ""]["episodes"], strict=True):
            assert abs(one["score_usd"] - direct["score_usd"]) < 1e-6
            assert one["messages"] > steps
        for one, direct in zip(parted, of_calls[policy, "partition"]["episodes"], strict=True):
            assert abs(one["score_usd"] - direct["score_usd"]) < 1e-6
            assert one["missed"] == direct["missed"] > 0
        assert sum(one["missed"] for one in perfect) == 0


def test_what_is_wrong_is_one_line() -> None:
    ended = run_heron("evaluate", "training_days", "--policy", "no:Such", "--seeds", "1")
    assert ended.code == 2
    assert len(ended.errors) == 1
    assert "policy 'no:Such': cannot be imported" in ended.errors[0]
