"""``scripts/training_tables.py``: its tables follow from evaluations, and it writes them and nothing else."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from types import ModuleType

import pytest

from heron_mqtt.app.evaluate import BOUND, EpisodeScore, Evaluation, evaluate
from powergrid.policies.district_scores import DistrictScores
from powergrid.scenario import LoadedScenario, load_scenario

ROOT = Path(__file__).parents[4]
SEEDS = [0, 1]
NUMBER = re.compile(r"-?\d+\.\d\d ± \d+\.\d\d")


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return importlib.import_module("training_tables")


@pytest.fixture(scope="module")
def short() -> LoadedScenario:
    loaded = load_scenario("training_days")
    return loaded.model_copy(update={"scenario": loaded.scenario.model_copy(update={"steps": 3})})


def cells(table: str) -> list[list[str]]:
    """Return the rows of a Markdown table, without its head."""
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]]


def evaluation(policy: str, network: str, *scores: float, missed: int = 0) -> Evaluation:
    episodes = [
        EpisodeScore(
            seed=seed,
            score_usd=score,
            return_usd=0.0,
            cost_usd=-2.0 * score,
            violations=1,
            missed=missed,
            district=DistrictScores(-score, 1.0, 1.0, 1.0, None),
        )
        for seed, score in enumerate(scores)
    ]
    return Evaluation(policy, network, tuple(episodes))


def test_policies_are_compared_with_the_rule_and_with_rest(script: ModuleType) -> None:
    found = [
        evaluation("rule", "", -10.0, -20.0),
        evaluation("idle", "", -8.0, -18.0),
        evaluation("learned", "", -5.0, -15.0),
        evaluation(BOUND, "", -1.0, -11.0),
    ]
    rows = {row[0]: row[1:] for row in cells(script.policies_table(found))}
    # Both days 5 better than the rule: what makes days differ cancels. 63.53 = t(0.975, 1) * 5.
    assert rows["rule"] == ["-15.00 ± 63.53", "", "", "30.00 ± 127.06", "1.00"]
    assert rows["idle"] == ["-13.00 ± 63.53", "2.00 ± 0.00", "", "26.00 ± 127.06", "1.00"]
    assert rows["**learned**"][:3] == ["-10.00 ± 63.53", "5.00 ± 0.00", "3.00 ± 0.00"]
    assert rows["bound"] == ["-6.00 ± 63.53", "9.00 ± 0.00", "7.00 ± 0.00", "", ""]
    drawn = {row[0]: row[1:] for row in cells(script.district_table(found))}
    assert set(drawn) == {"rule", "**learned**"}
    assert drawn["rule"][0].startswith("1.15 ± ")  # (10 + 20) / (8 + 18)
    assert drawn["rule"][1:] == ["1.00 ± 0.00"] * 3 + [""]


def test_what_a_network_costs_is_told_against_the_same_policy_without_it(script: ModuleType) -> None:
    found = [
        evaluation(policy, network, score, score, missed=7 if network else 0)
        for policy, perfect, poor in (
            ("rule", -20, -24),
            ("learned", -10, -13),
            (script.CONTROL, -9, -12),
            ("field", -9, -11),
        )
        for network, score in (("", perfect), ("lte_poor", poor))
    ]
    rows = {(row[0], row[1]): row[2:] for row in cells(script.networks_table(found))}
    assert rows["rule", "perfect"] == ["-20.00 ± 0.00", "", "", "", "", "0"]
    assert rows["rule", "`lte_poor`"] == ["-24.00 ± 0.00", "", "4.00 ± 0.00", "", "", "7"]
    assert rows["**learned**", "`lte_poor`"] == ["-13.00 ± 0.00", "11.00 ± 0.00", "3.00 ± 0.00", "", "", "7"]
    assert rows["control", "`lte_poor`"][3:] == ["1.00 ± 0.00", "", "7"]
    assert rows["**field**", "`lte_poor`"] == [
        "-11.00 ± 0.00",
        "13.00 ± 0.00",
        "2.00 ± 0.00",
        "2.00 ± 0.00",
        "1.00 ± 0.00",
        "7",
    ]


@pytest.mark.slow
def test_its_rows_are_what_evaluations_come_to(
    script: ModuleType, short: LoadedScenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "POLICIES": ("rule", "idle", "mpc"),
        "TRAINED": ("rule", "learned"),
        "NETWORKS": ("lte_poor",),
    }.items():
        monkeypatch.setattr(script, name, value)
    tables = script.measure(short, SEEDS)
    rows = {row[0]: row[1:] for row in cells(tables["policies"])}
    names = ["rule", "idle", "mpc, noisy forecasts", "mpc, perfect forecasts", "bound, replayed", "bound"]
    assert sorted(rows) == sorted(names)
    idle = evaluate(short, ["idle"], seeds=SEEDS)[0].estimate("score_usd")
    assert rows["idle"][0] == f"{idle.mean:.2f} ± {idle.half:.2f}"
    assert [row[1] for row in cells(tables["networks"])] == ["perfect", "`lte_poor`"] * 2
    assert [row[0] for row in cells(tables["district"])] == [n for n in names if n not in ("idle", "bound")]


def test_it_writes_the_marked_tables_and_nothing_else(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before = script.PAGE.read_text(encoding="utf-8")
    page = tmp_path / "training.md"
    page.write_text(before, encoding="utf-8")
    made = {name: f"| a table | of {name} |" for name in ("policies", "networks", "district")}
    asked: list[tuple[int, bool]] = []

    def measure(loaded: LoadedScenario, seeds: list[int], *, with_mpc: bool) -> dict[str, str]:
        asked.append((len(seeds), with_mpc))
        return made

    monkeypatch.setattr(script, "measure", measure)
    monkeypatch.setattr(script, "PAGE", page)
    monkeypatch.setattr(script, "PICTURES", tmp_path)
    script.main(["--without-mpc"])
    assert page.read_text(encoding="utf-8") == before
    assert list(tmp_path.iterdir()) == [page]
    script.main(["--write"])
    assert asked == [(20, False), (20, True)]
    block = re.compile(r"(<!-- made by \S+, \w+: begin -->)(.*?)(<!-- made .*?-->)", re.DOTALL)
    after = page.read_text(encoding="utf-8")
    assert [found[2].strip() for found in block.finditer(after)] == list(made.values())
    assert block.sub(r"\1\3", after) == block.sub(r"\1\3", before)
    assert {path.name for path in tmp_path.iterdir()} == {page.name, *script.LINES}
    for name, lines in script.LINES.items():
        assert (tmp_path / name).read_text(encoding="utf-8") == script.draw(script.CURVES, lines)


def test_a_page_without_a_row_is_not_written(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(script, "measure", lambda *args, **kwargs: pytest.fail("it began to measure"))
    with pytest.raises(SystemExit):
        script.main(["--write", "--without-mpc"])
    assert "the page has the rows of mpc" in capsys.readouterr().err


def test_the_page_has_what_the_script_makes_and_its_words_are_of_its_tables(script: ModuleType) -> None:
    text = script.PAGE.read_text(encoding="utf-8")
    tables = {
        name: text.partition(script.BEGIN.format(name=name))[2].partition(script.END.format(name=name))[0]
        for name in ("policies", "networks", "district")
    }
    named = {script.NAMES.get(name, name) for name in (*script.POLICIES, script.PERFECT_MPC)}
    rows = {name: {row[0] for row in cells(table.strip())} for name, table in tables.items()}
    assert rows["policies"] == named | {"bound", "bound, replayed"}
    assert rows["district"] == (named | {"bound, replayed"}) - {"idle"}
    assert len(cells(tables["networks"].strip())) == len(script.TRAINED) * (1 + len(script.NETWORKS))
    known = {number.lstrip("-") for table in tables.values() for number in NUMBER.findall(table)}
    words = text.partition("## A policy that was trained here")[2]
    for table in tables.values():
        words = words.replace(table, "")
    told = [number.lstrip("-") for number in NUMBER.findall(words)]
    assert told
    assert [number for number in told if number not in known] == []
    for name, lines in script.LINES.items():
        assert f"({name})" in text
        assert (script.PICTURES / name).read_text(encoding="utf-8") == script.draw(script.CURVES, lines)


def rows_of_page(script: ModuleType, name: str) -> set[str]:
    text = script.PAGE.read_text(encoding="utf-8")
    table = text.partition(script.BEGIN.format(name=name))[2].partition(script.END.format(name=name))[0]
    return set(table.strip().splitlines()[2:])


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_rows_of_policies_come_out_again(script: ModuleType) -> None:
    """All days of the page, to its last digit. Not those of mpc and the bound, which take minutes."""
    policies = [name for name in script.POLICIES if name != "mpc"]
    found = evaluate(load_scenario(script.SCENARIO), policies, seeds=script.SEEDS)
    for name, table in (
        ("policies", script.policies_table(found)),
        ("district", script.district_table(found)),
    ):
        made = table.splitlines()[2:]
        assert len(made) == len(policies) - (name == "district")  # which is told beside idle
        assert [row for row in made if row not in rows_of_page(script, name)] == []


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("network", ["lte_poor", "partition"])
def test_the_rows_of_a_network_come_out_again(script: ModuleType, network: str) -> None:
    """All days of the page, to its last digit; over ``lan`` nothing is lost."""
    found = evaluate(
        load_scenario(script.SCENARIO),
        list(script.TRAINED),
        seeds=script.SEEDS,
        over="calls",
        networks=[network],
    )
    made = script.networks_table(found).splitlines()[2:]
    assert len(made) == 2 * len(script.TRAINED)
    assert [row for row in made if row not in rows_of_page(script, "networks")] == []
