"""Train the weights of ``powergrid.policies.LearnedPolicy`` by an evolution strategy, numpy only.

    python scripts/train_policy.py --output learned.npz                       on the shipped week
    python scripts/train_policy.py --profiles FOLDER --output learned.npz     on a year of series
    python scripts/train_policy.py ... --network lte_poor --network partition   over impaired networks

All candidates of a generation are copies of one batch, and meet the same days. What is learnt from is the
return of all microgrids plus the worth of the energy that is left, as ``heron-mqtt evaluate`` scores it. Days
of every fourth week, and of the week of 4 July 2016 (which is the shipped one), are held out.

Source: T. Salimans et al., Evolution Strategies as a Scalable Alternative to Reinforcement Learning, 2017
(antithetic samples, centred ranks, Adam).
"""

from __future__ import annotations

import argparse
import csv
import math
import sys
import time
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heron_mqtt.app.evaluate import mean_of
from heron_mqtt.errors import ConfigError
from heron_mqtt.program_arguments import ProgramArguments
from powergrid.envs import BatchedMicrogrids
from powergrid.policies.learned import N_WEIGHTS, read_weights
from powergrid.policies.scoring import stored_usd, with_policy
from powergrid.scenario import LoadedScenario, load_scenario

Array = NDArray[np.float64]
SHIPPED_WEEK = date(2016, 7, 4)
LOOK_EVERY = 5  # generations
HELD_OUT_DAYS = 32  # that the curve is measured on


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, and write checkpoint and learning curve.

    Raises:
        SystemExit: An argument, a checkpoint, a scenario or its series are wrong; says which in one line.
    """
    parser = ProgramArguments(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--scenario", default="training_days")
    parser.add_argument("--profiles", type=Path, help="folder with simbench_year.csv and price_year.csv")
    parser.add_argument("--output", type=_file(".npz"), required=True, help="the checkpoint, .npz")
    parser.add_argument("--curve", type=_file(".csv"), help="write there what held-out days say, CSV")
    parser.add_argument("--begin", type=Path, help="go on from this checkpoint instead of chance")
    parser.add_argument(
        "--network",
        action="append",
        default=[],
        metavar="NAME",
        help="train with the losses of this impaired network; of several, each day has one",
    )
    parser.add_argument("--generations", type=_whole(0), default=200)
    parser.add_argument("--rate", type=_rate, default=0.05, help="step of a weight in a generation, about")
    parser.add_argument("--pairs", type=_whole(1), default=16, help="antithetic pairs a generation")
    parser.add_argument("--days", type=_whole(1), default=8, help="days a generation")
    parser.add_argument("--seed", type=_whole(0), default=1)
    options = parser.parse_args(arguments)
    try:
        _train(options)
    except ConfigError as exc:
        parser.error(str(exc))


def _train(options: argparse.Namespace) -> None:
    loaded = with_policy(_on(load_scenario(options.scenario), options.profiles), "learned")
    trainer = Trainer(
        loaded, options.pairs, options.days, options.seed, networks=options.network, begin=options.begin
    )
    held_out = HeldOut(loaded, options.network)
    begun_s, curve = time.monotonic(), []
    for generation in range(options.generations + 1):
        if generation % LOOK_EVERY == 0 or generation == options.generations:
            above, half = held_out.above_rule(trainer.mean)
            curve.append((generation, f"{above:.3f}", f"{half:.3f}"))
            told = f"{time.monotonic() - begun_s:.0f} s  {above:.2f} ± {half:.2f} $ a day above the rule"
            sys.stdout.write(f"generation {generation}  {told}\n")
            sys.stdout.flush()
            np.savez(options.output, weights=trainer.mean)
            if options.curve is not None:
                _write(options.curve, curve)
        if generation < options.generations:
            trainer.improve(rate=options.rate)


def _whole(least: int) -> Callable[[str], int]:
    """Return the ``type`` of an argument that is a whole number of at least ``least``."""

    def convert(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number of at least {least}")
        return int(text)

    return convert


def _rate(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0.0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number above 0")
    return value


def _file(suffix: str) -> Callable[[str], Path]:
    """Return the ``type`` of an argument that is a file to write: after hours it is too late to say so."""

    def convert(text: str) -> Path:
        path = Path(text)
        if path.suffix != suffix or path.is_dir() or not path.parent.is_dir():
            raise argparse.ArgumentTypeError(f"{text!r}: expected a {suffix} file in a folder that exists")
        return path

    return convert


def _write(path: Path, curve: Sequence[tuple[Any, ...]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        rows = csv.writer(stream, lineterminator="\n")
        rows.writerow(["generation", "above_rule_usd", "half_width_usd"])
        rows.writerows(curve)


def _on(loaded: LoadedScenario, folder: Path | None) -> LoadedScenario:
    """Return the scenario on a year of series."""
    if folder is None:
        return loaded
    profiles = loaded.scenario.profiles.model_copy(
        update={
            "file": str((folder / "simbench_year.csv").resolve()),
            "price_file": str((folder / "price_year.csv").resolve()),
        }
    )
    return loaded.model_copy(update={"scenario": loaded.scenario.model_copy(update={"profiles": profiles})})


def is_held_out(day: date) -> bool:
    """Whether a day is kept from training: every fourth week, and the shipped one."""
    return _week(day) % 4 == 0


def _week(day: date) -> int:
    """Return which week a day is of, counted from the shipped one."""
    return (day - SHIPPED_WEEK).days // 7


class HeldOut:
    """Days that are never trained on, on which the learning curve is measured, each once and always the same.

    Those of the shipped week are not among them: policies are compared on it (``heron-mqtt evaluate``). On
    the shipped week alone, which has no other days, they are days of training with seeds of their own.

    Args:
        loaded: With the learned policy.
        networks: As ``Trainer``.
    """

    def __init__(self, loaded: LoadedScenario, networks: Sequence[str]) -> None:
        config: dict[str, Any] = {"observation": "local", "networks": list(networks)}
        one = BatchedMicrogrids({"scenario": loaded, "num_envs": 1})
        days = _days(one, held_out=True)
        rng = np.random.default_rng(SHIPPED_WEEK.toordinal())
        config["num_envs"] = n = min(HELD_OUT_DAYS, len(days))
        self._batch = BatchedMicrogrids({"scenario": loaded, **config})
        self._days = rng.choice(days, n, replace=False)
        self._seeds = rng.integers(0, 2**31, n)
        rule = BatchedMicrogrids({"scenario": with_policy(loaded, "rule"), **config})
        self._rule = day_scores(rule, self._days, self._seeds)

    def above_rule(self, weights: Array) -> tuple[float, float]:
        """Return the mean score above the rule's, $ a day, and half of its 95 % interval."""
        _put(self._batch, weights)
        gained = day_scores(self._batch, self._days, self._seeds) - self._rule
        found = mean_of(gained.tolist())
        return found.mean, found.half or 0.0


class Trainer:
    """An evolution strategy on a batch of copies.

    Args:
        loaded: With the learned policy.
        pairs: Antithetic pairs of candidates.
        n_days: Days that every candidate meets in a generation.
        seed: Of everything.
        networks: Impaired networks whose losses hold, of which each day has one; none = nothing is lost.
        begin: A checkpoint to go on from; None = from small random weights.

    Attributes:
        mean: (N_WEIGHTS,) the weights.
    """

    def __init__(
        self,
        loaded: LoadedScenario,
        pairs: int,
        n_days: int,
        seed: int,
        *,
        networks: Sequence[str] = (),
        begin: Path | None = None,
    ) -> None:
        self._rng = np.random.default_rng(seed)
        self._pairs, self._n_days = pairs, n_days
        self._batch = BatchedMicrogrids(
            {
                "scenario": loaded,
                "num_envs": 2 * pairs * n_days,
                "observation": "local",
                "networks": list(networks),
            }
        )
        self._rows = _days(self._batch, held_out=False)
        self.mean = 0.1 * self._rng.standard_normal(N_WEIGHTS) if begin is None else read_weights(begin)
        self._first, self._second, self._count = np.zeros(N_WEIGHTS), np.zeros(N_WEIGHTS), 0

    def improve(self, sigma: float = 0.1, rate: float = 0.05) -> float:
        """Take one generation; return the mean score of its candidates, $ a day."""
        noise = self._rng.standard_normal((self._pairs, N_WEIGHTS))
        weights = self.mean + sigma * np.concatenate([noise, -noise])
        scores = self._scores(weights)
        ranks = np.empty(len(scores))
        ranks[np.argsort(scores)] = np.linspace(-0.5, 0.5, len(scores))
        slope = weighted_sum(ranks[: self._pairs] - ranks[self._pairs :], noise) / (self._pairs * sigma)
        self._count += 1
        self._first = 0.9 * self._first + 0.1 * slope
        self._second = 0.99 * self._second + 0.01 * slope**2
        first = self._first / (1.0 - 0.9**self._count)
        second = self._second / (1.0 - 0.99**self._count)
        self.mean = self.mean + rate * first / (np.sqrt(second) + 1e-8) - 1e-4 * self.mean
        return float(scores.mean())

    def _scores(self, weights: Array) -> Array:
        """Return the (n_candidates,) mean scores, $ a day; every candidate meets the same days."""
        n = len(weights)
        rows = self._rng.choice(self._rows, self._n_days)
        seeds = self._rng.integers(0, 2**31, self._n_days)
        _put(self._batch, np.repeat(weights, self._n_days, axis=0))
        scores = day_scores(self._batch, np.tile(rows, n), np.tile(seeds, n))
        found: Array = scores.reshape(n, self._n_days).mean(axis=1)
        return found


def weighted_sum(factors: Array, rows: Array) -> Array:
    """Return the (n,) sum of (m, n) rows, each times its one of m factors, added one after another.

    Not as a product of matrices: its last bit depends on the processor, by the kernel that BLAS has for it.
    Of the scores only their order counts, so that nothing else in a checkpoint does.
    """
    total: Array = (factors[:, np.newaxis] * rows).sum(axis=0)
    return total


def _days(batch: BatchedMicrogrids, *, held_out: bool) -> NDArray[np.int64]:
    """Return the rows with which days begin: those that are trained on, or those held out for curves."""
    series, steps = batch.simulation.series, batch.max_episode_steps
    rows = range(0, series.last_start(steps) + 1, steps)
    on_a_year = series.n_rows > 7 * steps
    if on_a_year:
        dates = {row: series.local_clock(row).date() for row in rows}
        wanted = [row for row, day in dates.items() if is_held_out(day) == held_out and _week(day) != 0]
    else:
        wanted = list(rows)
    return np.array(wanted, dtype=np.int64)


def _put(batch: BatchedMicrogrids, weights: Array) -> None:
    """Give the learned policies of a batch these weights."""
    for policies in batch.policies.values():
        of_copies: list[Any] = list(policies)
        for policy in of_copies:
            policy.weights = weights


def day_scores(batch: BatchedMicrogrids, rows: NDArray[np.int64], seeds: NDArray[np.int64]) -> Array:
    """Return the (n,) scores of a day in each copy, $, with its row and seed."""
    batch.reset(seed=seeds.tolist(), options={"start_rows": rows})
    begin, prices = batch.states_of_charge(), []
    total: Any = 0.0
    for _ in range(batch.max_episode_steps):
        _, rewards, _, _, infos = batch.step()
        total = total + sum(rewards.values())
        first = next(iter(infos.values()))
        prices.append(first["price"])
    end = {(agent, name): soc for agent, info in infos.items() for name, soc in info["soc"].items()}
    score: Array = total + stored_usd(batch.scenario, begin, end, np.mean(prices, axis=0))
    return score


if __name__ == "__main__":
    main()
