"""``scripts/train_policy.py``: its days of training and of curves, what it learns, and what it writes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from heron_mqtt.app.evaluate import evaluate
from powergrid.envs import BatchedMicrogrids
from powergrid.policies.learned import CHECKPOINT, N_WEIGHTS, read_weights
from powergrid.policies.scoring import with_policy
from powergrid.scenario import load_scenario
from support.script_module import load_script

SCRIPT = Path(__file__).parents[4] / "scripts" / "train_policy.py"
STEPS = 96
JANUARY = datetime(2016, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script(SCRIPT)


def test_curves_are_measured_on_days_that_are_neither_trained_on_nor_of_the_shipped_week(
    script: ModuleType,
) -> None:
    series = SimpleNamespace(
        n_rows=366 * STEPS,
        last_start=lambda steps: 366 * STEPS - steps,
        local_clock=lambda row: JANUARY + timedelta(minutes=15 * int(row)),
    )
    batch: Any = SimpleNamespace(simulation=SimpleNamespace(series=series), max_episode_steps=STEPS)
    held_out, trained = (
        {series.local_clock(row).date() for row in script._days(batch, held_out=which)}
        for which in (True, False)
    )
    shipped = {script.SHIPPED_WEEK + timedelta(days=i) for i in range(7)}
    assert not held_out & trained
    assert not (held_out | trained) & shipped
    assert len(held_out | trained) == 366 - 7
    assert len(held_out) > script.HELD_OUT_DAYS


def test_each_day_of_a_curve_is_there_once(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "day_scores", lambda batch, days, seeds: 0.0 * days)
    found = script.HeldOut(with_policy(load_scenario("training_days"), "learned"), [])
    assert sorted(found._days) == [STEPS * day for day in range(7)]


@pytest.mark.slow
def test_a_day_scores_what_it_does_when_policies_are_evaluated(script: ModuleType) -> None:
    loaded = load_scenario("training_days")
    seeds = [3, 4]
    batch = BatchedMicrogrids({"scenario": with_policy(loaded, "learned"), "num_envs": 2})
    _, infos = batch.reset(seed=seeds)
    found = script.day_scores(batch, infos["MG1"]["start_row"], np.array(seeds))
    expected = [one.score_usd for one in evaluate(loaded, ["learned"], seeds=seeds)[0].episodes]
    assert found == pytest.approx(expected, abs=1e-6)


def test_the_strategy_climbs_a_hill_of_which_it_knows_scores_alone(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scores are those of a known hill: nothing is simulated."""
    top = np.linspace(-1.0, 1.0, N_WEIGHTS)
    given: list[Any] = []
    monkeypatch.setattr(script, "_put", lambda batch, weights: given.append(weights))
    monkeypatch.setattr(script, "day_scores", lambda *args: -((given[-1] - top) ** 2).sum(axis=1))
    loaded = with_policy(load_scenario("training_days"), "learned")
    trainer = script.Trainer(loaded, pairs=8, n_days=1, seed=1)
    before = float(((trainer.mean - top) ** 2).sum())
    for _ in range(100):
        trainer.improve()
    assert ((trainer.mean - top) ** 2).sum() < 0.5 * before
    assert len(given[0]) == 16  # antithetic: the mean of all candidates is where they are tried around
    assert (given[-1][:8] + given[-1][8:]).std(axis=0) == pytest.approx(0.0, abs=1e-12)


def test_a_step_has_the_same_last_bit_on_every_processor(script: ModuleType) -> None:
    """Sums in a fixed order, without fused operations; a product of matrices differs with the BLAS kernel."""
    rng = np.random.default_rng(1)
    factors, rows = rng.standard_normal(16), rng.standard_normal((16, N_WEIGHTS))
    expected = [0.0] * N_WEIGHTS
    for factor, row in zip(factors.tolist(), rows.tolist(), strict=True):
        expected = [total + factor * entry for total, entry in zip(expected, row, strict=True)]
    assert script.weighted_sum(factors, rows).tolist() == expected


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_training_writes_checkpoint_and_curve_and_a_seed_makes_them_again(
    script: ModuleType, tmp_path: Path
) -> None:
    def trained(name: str, *more: str) -> tuple[Any, list[list[str]]]:
        output, curve = tmp_path / f"{name}.npz", tmp_path / f"{name}.csv"
        few = ["--pairs", "1", "--days", "1", "--generations", "1"]
        script.main(["--output", str(output), "--curve", str(curve), *few, *more])
        lines = curve.read_text(encoding="utf-8").splitlines()
        assert lines[0] == "generation,above_rule_usd,half_width_usd"
        return read_weights(output), [line.split(",") for line in lines[1:]]

    one, curve = trained("one", "--begin", str(CHECKPOINT))
    again, curve_again = trained("again", "--begin", str(CHECKPOINT))
    assert np.array_equal(one, again)
    assert curve == curve_again
    assert [row[0] for row in curve] == ["0", "1"]
    assert not np.array_equal(one, read_weights(CHECKPOINT))
    held_out = script.HeldOut(with_policy(load_scenario("training_days"), "learned"), [])
    for row, weights in zip(curve, (read_weights(CHECKPOINT), one), strict=True):
        above, half = held_out.above_rule(weights)
        assert row[1:] == [f"{above:.3f}", f"{half:.3f}"]
    other, _ = trained("other", "--begin", str(CHECKPOINT), "--seed", "2", "--network", "lte_poor")
    assert not np.array_equal(one, other)


def test_what_is_wrong_is_one_line(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, short = str(tmp_path / "a.npz"), str(tmp_path / "short.npz")
    np.savez(short, weights=np.zeros(3))
    for wrong, complaint in (
        (["--generations", "-1"], "--generations: '-1': expected a whole number of at least 0"),
        (["--days", "0"], "--days: '0': expected a whole number of at least 1"),
        (["--pairs", "two"], "--pairs: 'two': expected a whole number of at least 1"),
        (["--seed", "-1"], "--seed: '-1': expected"),
        (["--rate", "nan"], "--rate: 'nan': expected a number above 0"),
        (["--rate", "-0.1"], "--rate: '-0.1': expected"),
        (["--output", str(tmp_path / "no" / "a.npz")], "expected a .npz file in a folder that exists"),
        (["--output", str(tmp_path)], "expected a .npz file"),
        (["--curve", str(tmp_path / "a.npz")], "--curve: "),
        (["--profiles", str(tmp_path)], "simbench_year.csv: no such file"),
        (["--begin", str(tmp_path / "no.npz")], "no.npz: cannot be read"),
        (["--begin", short], "expected 225 finite weights"),
        (["--network", "nowhere"], "nowhere: no such network file"),
        (["--scenario", "nowhere"], "nowhere: no such scenario file"),
    ):
        with pytest.raises(SystemExit, match="2"):
            script.main(["--output", output, "--generations", "0", "--pairs", "1", "--days", "1", *wrong])
        said = capsys.readouterr().err
        assert complaint in said, said
        assert said.count("\n") == 1, said
    assert list(tmp_path.iterdir()) == [Path(short)]
