"""Every example runs, and shows what it says that it shows."""

from __future__ import annotations

import re
import runpy
import sys

import pytest

from support.doc_pages import PAGES, ROOT

pytestmark = pytest.mark.usefixtures("built_once")

EXAMPLES = ROOT / "docs" / "examples"


def _run(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str, *argv: str) -> str:
    """Run an example as a program, in this process; return what it and its children print."""
    monkeypatch.setattr(sys, "argv", [name, *argv])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    printed, errors = capfd.readouterr()
    assert "Traceback" not in errors, errors
    return printed


@pytest.mark.parametrize("mode", [(), ("--distributed",)], ids=["centralized", "distributed"])
def test_the_loop_compares_own_policies_with_random_actions(
    mode: tuple[str, ...], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    printed = _run(capfd, monkeypatch, "01_pettingzoo_loop.py", "--steps", "8", *mode)
    assert "MG1 acts on     p_gen, p_ess, p_pv, q_pv" in printed
    assert re.search(r"own policies +MG1 +-?\d+\.\d\d \$", printed)
    assert re.search(r"random +MG1 +-?\d+\.\d\d \$", printed)


def test_the_device_of_ones_own_gives_whole_kilowatts(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    printed = _run(capfd, monkeypatch, "02_device_of_your_own.py", "--steps", "2")
    assert "wanted +0.0333 MW, the device gave +0.0330 MW" in printed
    assert "wanted -0.0333 MW, the device gave -0.0330 MW" in printed
    assert "fallbacks {}" in printed


def test_the_broker_of_ones_own_carries_a_whole_episode(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    printed = _run(capfd, monkeypatch, "04_broker_of_your_own.py", "--steps", "4")
    assert "missed [0, 0, 0]" in printed
    assert "    4 records in agents.MG1.action" in printed
    assert "    4 records in p2p.MG1.MG2" in printed  # at night nobody sells: one offer a step


def test_names_of_the_logs_topics_never_collide() -> None:
    topic_of = runpy.run_path(str(EXAMPLES / "04_broker_of_your_own.py"))["topic_of"]
    channels = ["a/b", "a.b", "a_2fb", "a%2Fb", "a/b/", "A/b", "ä/b", "a/_b"]
    names = [topic_of(channel) for channel in channels]
    assert len(set(names)) == len(channels)
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+", name) for name in names)


def test_the_agent_of_ones_own_decides_in_a_process_of_its_own(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    printed = _run(capfd, monkeypatch, "05_agent_of_your_own.py", "--steps", "2")
    lines = [line for line in printed.splitlines() if line.startswith("MG3: ")]
    assert len(lines) == 2
    assert all("'gen': 0.0, 'ess': -0.04" in line and line.endswith("missed 0") for line in lines)


def test_the_tour_shows_every_message_and_equal_rewards(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    printed = _run(capfd, monkeypatch, "06_distributed_mode_with_proxy.py", "--steps", "12")
    for shown in (
        "operators/system_operator/price   price",
        "agents/MG1/observation            observation",
        "-> MG1 is told: price 50.0 $/MWh",
        "-> MG2 follows a command",
        "p2p/MG1/MG2                       offer",
        "p2p/MG2/MG1                       accept",
        "p2p/MG1/MG2                       confirm",
        "agents/MG1/action                 action",
        "settled: MG1 sells",
    ):
        assert shown in printed
    steps = re.findall(r"missed 0: (.*)", printed)
    assert len(steps) == 3
    differences = re.findall(
        r"(centralized|in memory|embedded MQTT).*median +([\d.]+) ms.*difference (\S+)", printed
    )
    assert [name for name, _, _ in differences] == ["centralized", "in memory", "embedded MQTT"]
    assert all(float(difference) < 1e-9 for _, _, difference in differences)


def test_every_example_is_named_in_a_page() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    for example in EXAMPLES.glob("0*.py"):
        assert example.name in text, f"no page tells of {example.name}"
