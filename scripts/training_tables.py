"""Measure the policies that were trained here, and write the tables and the curves of docs/training.md.

    python scripts/training_tables.py                 print the tables; 3 minutes of an idle core
    python scripts/training_tables.py --write         put them into the page, and draw its curves
    python scripts/training_tables.py --without-mpc   print them without what takes longest

Everything comes from seeds and from files of the repository: the same commit gives the same tables.
"""

from __future__ import annotations

import csv
import dataclasses
import itertools
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from schema_tables import between

from heron_mqtt.app.evaluate import (
    BOUND,
    IDLE,
    Evaluation,
    MeanEstimate,
    evaluate,
    idle_of,
    mean_of,
)
from heron_mqtt.cli.evaluate_commands import DISTRICT_COLUMNS
from heron_mqtt.program_arguments import ProgramArguments
from powergrid.policies.learned import LearnedPolicy
from powergrid.scenario import LoadedScenario, load_scenario

ROOT = Path(__file__).resolve().parent.parent
PAGE, CURVES = ROOT / "docs" / "training.md", ROOT / "docs" / "training"
PICTURES = ROOT / "docs"
BEGIN, END = (f"<!-- made by scripts/training_tables.py, {{name}}: {edge} -->" for edge in ("begin", "end"))
SCENARIO, SEEDS = "training_days", range(20)
POLICIES = ("rule", "idle", "random", "learned", "field", "mpc")
CONTROL = "training_tables:ControlPolicy"
TRAINED = ("rule", "learned", CONTROL, "field")
NETWORKS = ("lan", "lte_poor", "partition")
PERFECT_MPC = "mpc, perfect forecasts"
NAMES = {
    "learned": "**learned**",
    "field": "**field**",
    CONTROL: "control",
    "mpc": "mpc, noisy forecasts",
}
LINES = {
    "training-curve-learned.svg": {"learned.csv": ("learned: without losses", "#3c7a4a")},
    "training-curves.svg": {
        "field.csv": ("field: with the losses of lte_poor and partition", "#b5482a"),
        "control.csv": ("control: without losses", "#3a6ea5"),
    },
}
"""Picture -> the curves in it -> what each is called, and its colour."""


class ControlPolicy(LearnedPolicy):
    """What ``FieldPolicy`` is compared with: trained on for as long from the same weights, without losses."""

    shipped: ClassVar[Path] = CURVES / "control.npz"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print or write."""
    parser = ProgramArguments(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--write", action="store_true", help="write docs/training.md and its curves")
    parser.add_argument("--without-mpc", action="store_true", help="leave model-predictive control out")
    options = parser.parse_args(arguments)
    if options.write and options.without_mpc:
        parser.error("--write with --without-mpc: the page has the rows of mpc")
    tables = measure(load_scenario(SCENARIO), list(SEEDS), with_mpc=not options.without_mpc)
    for name, table in tables.items():
        sys.stdout.write(f"{name}:\n\n{table}\n\n")
    if options.write:
        page = PAGE.read_text(encoding="utf-8")
        for name, table in tables.items():
            page = between(page, BEGIN.format(name=name), END.format(name=name), table)
        PAGE.write_text(page, encoding="utf-8")
        for name, lines in LINES.items():
            (PICTURES / name).write_text(draw(CURVES, lines), encoding="utf-8")


def measure(loaded: LoadedScenario, seeds: Sequence[int], *, with_mpc: bool = True) -> dict[str, str]:
    """Return every table of the page by its name.

    Args:
        loaded: The scenario.
        seeds: One episode each.
        with_mpc: Also model-predictive control, with the scenario's forecasts and with perfect ones.
    """
    policies = [name for name in POLICIES if with_mpc or name != "mpc"]
    direct = evaluate(loaded, policies, seeds=seeds, with_bound=True, progress=_say)
    if with_mpc:
        foreseen = evaluate(_foretold(loaded), ["mpc"], seeds=seeds, progress=_say)[0]
        direct.insert(len(policies), dataclasses.replace(foreseen, policy=PERFECT_MPC))
    direct.sort(key=lambda one: one.policy == BOUND)  # what nothing exceeds stands last
    impaired = evaluate(loaded, TRAINED, seeds=seeds, over="calls", networks=NETWORKS, progress=_say)
    return {
        "policies": policies_table(direct),
        "networks": networks_table(impaired),
        "district": district_table(direct),
    }


def _foretold(loaded: LoadedScenario) -> LoadedScenario:
    """Return the scenario with forecasts of what will be."""
    forecast = loaded.scenario.forecast.model_copy(update={"kind": "perfect"})
    return loaded.model_copy(update={"scenario": loaded.scenario.model_copy(update={"forecast": forecast})})


def policies_table(found: Sequence[Evaluation]) -> str:
    """Return what each policy earns where nothing is lost."""
    of = {one.policy: one for one in found}
    rule, idle = of["rule"], of[IDLE]
    lines = [
        "| policy | score, $ a day | above rule, $ | above idle, $ | cost, $ | violations |",
        "|---|---|---|---|---|---|",
    ]
    for one in found:
        above = "" if one is rule else _text(one.gain(rule))
        above_idle = "" if one in (rule, idle) else _text(one.gain(idle))
        cost, broken = _text(one.estimate("cost_usd")), f"{one.estimate('violations').mean:.2f}"
        if one.policy == BOUND:
            cost = broken = ""
        name, score = NAMES.get(one.policy, one.policy), _text(one.estimate("score_usd"))
        lines.append(_row(name, score, above, above_idle, cost, broken))
    return "\n".join(lines)


def district_table(found: Sequence[Evaluation]) -> str:
    """Return what all microgrids draw from the grid with each policy, as ratios to idle."""
    idle = idle_of(found, "")
    assert idle is not None
    lines = [_row("policy", *DISTRICT_COLUMNS.values()), "|---" * (len(DISTRICT_COLUMNS) + 1) + "|"]
    for one in found:
        if one is not idle and one.policy != BOUND:
            ratios = [one.district_ratio(name, idle) for name in DISTRICT_COLUMNS]
            lines.append(
                _row(NAMES.get(one.policy, one.policy), *("" if r is None else _text(r) for r in ratios))
            )
    return "\n".join(lines)


def networks_table(found: Sequence[Evaluation]) -> str:
    """Return what each policy keeps over impaired networks."""
    of = {(one.policy, one.network): one for one in found}
    lines = [
        "| policy | network | score, $ a day | above rule, same network, $ | lost to the network, $ | "
        "above learned, same network, $ | above control, same network, $ | phases missed |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (policy, network), one in of.items():
        above = "" if policy == "rule" else _text(one.gain(of["rule", network]))
        lost = "" if not network else _text(_lost(of[policy, ""], one))
        trained = _text(one.gain(of["learned", network])) if policy in (CONTROL, "field") else ""
        by_losses = _text(one.gain(of[CONTROL, network])) if policy == "field" else ""
        missed = f"{one.estimate('missed').mean:.0f}"
        where = f"`{network}`" if network else "perfect"
        lines.append(
            _row(
                NAMES.get(policy, policy),
                where,
                _text(one.estimate("score_usd")),
                above,
                lost,
                trained,
                by_losses,
                missed,
            )
        )
    return "\n".join(lines)


def _lost(perfect: Evaluation, one: Evaluation) -> MeanEstimate:
    pairs = zip(perfect.episodes, one.episodes, strict=True)
    return mean_of([without.score_usd - with_it.score_usd for without, with_it in pairs])


def draw(folder: Path, lines: Mapping[str, tuple[str, str]]) -> str:
    """Return learning curves as a picture, SVG: $ a day above the rule on held-out days.

    Args:
        folder: That the curves are in.
        lines: File of a curve -> what it is called, and its colour.
    """
    width, height, left, top, right, bottom = 640, 300, 60, 20, 20, 70
    curves = {name: _points(folder / name) for name in lines}
    scores = [score for points in curves.values() for _, score in points]
    low, high = min(scores) - 0.2, max(scores) + 0.2
    last = max(generation for points in curves.values() for generation, _ in points)

    def x(generation: float) -> float:
        return left + (width - left - right) * generation / last

    def y(score: float) -> float:
        return top + (height - top - bottom) * (high - score) / (high - low)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        'font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for score in _marks(low, high, at_most=8):
        parts.append(f'<text x="{left - 8}" y="{y(score) + 4:.1f}" text-anchor="end">{score} $</text>')
        parts.append(f'<path d="M{left} {y(score):.1f}H{width - right}" stroke="#ccc"/>')
    for generation in _marks(0, last, at_most=10):
        at = f'x="{x(generation):.1f}" y="{height - bottom + 18}"'
        parts.append(f'<text {at} text-anchor="middle">{generation}</text>')
    for number, (name, (label, colour)) in enumerate(lines.items()):
        path = " ".join(f"{x(generation):.1f},{y(score):.1f}" for generation, score in curves[name])
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [
            f'<circle cx="{x(generation):.1f}" cy="{y(score):.1f}" r="3" fill="{colour}"/>'
            for generation, score in curves[name]
        ]
        below = height - 30 + 16 * number
        parts.append(f'<path d="M{left} {below - 4}h24" stroke="{colour}" stroke-width="2"/>')
        parts.append(f'<text x="{left + 32}" y="{below}">{label}</text>')
    parts.append(f'<text x="{width - right}" y="{height - 30}" text-anchor="end">generation</text></svg>')
    return "\n".join(parts) + "\n"


def _marks(low: float, high: float, *, at_most: int) -> range:
    """Return the multiples of 1, 2, 5, 10, ... from low to high: as many as there may be."""
    widths = (digit * 10**power for power in itertools.count() for digit in (1, 2, 5))
    return next(
        marks
        for width in widths
        if len(marks := range(math.ceil(low / width) * width, math.floor(high) + 1, width)) <= at_most
    )


def _points(path: Path) -> list[tuple[int, float]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return [(int(row["generation"]), float(row["above_rule_usd"])) for row in csv.DictReader(stream)]


def _text(value: MeanEstimate) -> str:
    return f"{value.mean:.2f}" if value.half is None else f"{value.mean:.2f} ± {value.half:.2f}"


def _row(*cells: str) -> str:
    return "|" + "".join(f" {cell} |" if cell else " |" for cell in cells)


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    main()
