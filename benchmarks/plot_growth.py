"""Plot how the step grows with the number of agents, from the benchmark's JSON.

heron-mqtt bench --json > bench.json && python benchmarks/plot_growth.py bench.json docs/growth.svg
"""

from __future__ import annotations

import json
import math
import re
import sys
from pathlib import Path
from typing import Any

WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 640, 400, 70, 20, 190, 50
SERIES = {"ms": "#1f6f8b", "CPU ms": "#b5482a", "R ms": "#888888", "R CPU ms": "#bbbbbb"}
NAMES = {
    "ms": "step, wall clock",
    "CPU ms": "step, CPU of all",
    "R ms": "R, wall clock",
    "R CPU ms": "R, CPU of all",
}


def points(report: dict[str, Any]) -> dict[str, list[tuple[int, float]]]:
    """Return N and milliseconds of each series."""
    found: dict[str, list[tuple[int, float]]] = {name: [] for name in SERIES}
    for row in report["rows"]:
        match = re.fullmatch(r"exchange N = (\d+) over mosquitto", row["what"])
        if match:
            for name, taken in found.items():
                taken.append((int(match[1]), row["raw"][name]))
    return found


def draw(found: dict[str, list[tuple[int, float]]]) -> str:
    """Return an SVG with both axes logarithmic."""
    sizes = [n for taken in found.values() for n, _ in taken]
    times = [ms for taken in found.values() for _, ms in taken]
    low, high = math.floor(math.log10(min(times))), math.ceil(math.log10(max(times)))
    first, last = math.log10(min(sizes)), math.log10(max(sizes))

    def x(n: float) -> float:
        return LEFT + (math.log10(n) - first) / (last - first) * (WIDTH - LEFT - RIGHT)

    def y(ms: float) -> float:
        return HEIGHT - BOTTOM - (math.log10(ms) - low) / (high - low) * (HEIGHT - TOP - BOTTOM)

    right = WIDTH - RIGHT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
    ]
    for exponent in range(low, high + 1):
        at = y(10.0**exponent)
        parts.append(f'<path d="M{LEFT} {at:.1f}H{right}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{10.0**exponent:g} ms</text>')
    parts += [
        f'<text x="{x(n):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{n}</text>'
        for n in sorted(set(sizes))
    ]
    parts.append(f'<text x="{(LEFT + right) / 2}" y="{HEIGHT - 10}" text-anchor="middle">agents</text>')
    for name, taken in found.items():
        line = " ".join(f"{x(n):.1f},{y(ms):.1f}" for n, ms in taken)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{SERIES[name]}" stroke-width="2"/>')
        n, ms = taken[-1]
        parts.append(
            f'<text x="{x(n) + 8:.1f}" y="{y(ms) + 4:.1f}" fill="{SERIES[name]}">{NAMES[name]}</text>'
        )
    return "\n".join([*parts, "</svg>", ""])


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(draw(points(json.loads(Path(sys.argv[1]).read_text()))))
