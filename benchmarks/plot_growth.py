"""Plot how a step grows: with the number of agents, of buses, of devices.

heron-mqtt bench --json > bench.json && python benchmarks/plot_growth.py bench.json docs
python benchmarks/growth.py > growth.json && python benchmarks/plot_growth.py growth.json docs
"""

from __future__ import annotations

import json
import math
import re
import sys
from pathlib import Path
from typing import Any, NamedTuple

WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 640, 400, 70, 20, 190, 50
COLOURS = ("#1f6f8b", "#b5482a", "#888888", "#bbbbbb")
Points = list[tuple[int, float]]


class Plot(NamedTuple):
    """One picture: its file, what its horizontal axis counts, and its lines in ms, by name."""

    file: str
    axis: str
    lines: dict[str, Points]


def plots(report: dict[str, Any]) -> list[Plot]:
    """Return what a report of ``heron-mqtt bench`` or of ``growth.py`` has to show."""
    if "rows" in report:
        return [Plot("growth.svg", "agents", _by_agents(report["rows"]))]
    buses, devices = report["buses"], report["devices"]
    return [
        Plot(
            "growth-buses.svg",
            "buses",
            {
                "runpp": _line(buses, "buses", "runpp us"),
                "compiled solve": _line(buses, "buses", "solve us"),
                "raw KLU": _line(buses, "buses", "raw KLU us"),
            },
        ),
        Plot(
            "growth-devices.svg",
            "devices",
            {
                "step in memory": _line(devices, "devices", "in memory us"),
                "centralized step": _line(devices, "devices", "centralized us"),
            },
        ),
    ]


def _line(rows: list[dict[str, Any]], x: str, y_us: str) -> Points:
    return sorted((int(row[x]), row[y_us] / 1e3) for row in rows)


def _by_agents(rows: list[dict[str, Any]]) -> dict[str, Points]:
    names = {
        "step, wall clock": "ms",
        "step, CPU of all": "CPU ms",
        "R, wall clock": "R ms",
        "R, CPU of all": "R CPU ms",
    }
    found: dict[str, Points] = {name: [] for name in names}
    for row in rows:
        match = re.fullmatch(r"exchange N = (\d+) over mosquitto", row["what"])
        if match:
            for name, column in names.items():
                found[name].append((int(match[1]), row["raw"][column]))
    return found


def draw(plot: Plot) -> str:
    """Return an SVG with both axes logarithmic."""
    sizes = [n for line in plot.lines.values() for n, _ in line]
    times = [ms for line in plot.lines.values() for _, ms in line]
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
    parts.append(f'<text x="{(LEFT + right) / 2}" y="{HEIGHT - 10}" text-anchor="middle">{plot.axis}</text>')
    for (name, line), colour in zip(plot.lines.items(), COLOURS, strict=False):
        path = " ".join(f"{x(n):.1f},{y(ms):.1f}" for n, ms in line)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        n, ms = line[-1]
        parts.append(f'<text x="{x(n) + 8:.1f}" y="{y(ms) + 4:.1f}" fill="{colour}">{name}</text>')
    return "\n".join([*parts, "</svg>", ""])


if __name__ == "__main__":
    for plot in plots(json.loads(Path(sys.argv[1]).read_text())):
        (Path(sys.argv[2]) / plot.file).write_text(draw(plot))
