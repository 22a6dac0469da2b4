"""A network as a drawing: where each bus is, and what connects them; for a one-line diagram.

The network's own coordinates are used where they make a drawing: every bus has some, no two are at one place,
and few branches cross. Otherwise the feeders are laid out as a tree: the way from the external grid goes from
left to right, and what branches off lies below. The same network gives the same drawing.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heron_mqtt.messages import NetworkModel

MAX_BUSES = 3_000
"""Of a drawing; a larger network is not drawn."""
MAX_CROSSING_SHARE = 0.05
"""Of the branches: with more crossings, coordinates are no drawing (feeders drawn over each other)."""

Points = dict[int, tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Branch:
    """What connects two buses.

    Attributes:
        table: ``line``, ``trafo`` or ``link`` (closed switches between buses, and what has no loading).
        name: For people.
        start, end: Buses; the high-voltage side first.
        is_closed: Whether power can flow.
    """

    table: str
    name: str
    start: int
    end: int
    is_closed: bool


def network_model(
    net: Any, agents: Mapping[int, str], devices: Sequence[tuple[str, str, int]]
) -> NetworkModel | None:
    """Return a network as it is drawn.

    Args:
        net: pandapowerNet.
        agents: By bus, the microgrid that it belongs to.
        devices: Label (AGENT/DEVICE), kind and bus of each.

    Returns:
        Buses, lines and transformers in the order of the network's tables, as in results of the power flow;
        None for a network of more than ``MAX_BUSES``.
    """
    if len(net.bus) > MAX_BUSES:
        return None
    branches = list(_branches(net))
    roots = [int(bus) for bus in net.ext_grid.bus[net.ext_grid.in_service]]
    own = _own_points(net, branches)
    points = own or tree_points([int(bus) for bus in net.bus.index], branches, roots)
    place = {int(bus): position for position, bus in enumerate(net.bus.index)}
    ends = {
        table: [(b, place[b.start], place[b.end]) for b in branches if b.table == table]
        for table in ("line", "trafo", "link")
    }
    return NetworkModel(
        laid_out=own is None,
        bus=[_name(name, "bus", index) for index, name in zip(net.bus.index, net.bus.name, strict=True)],
        bus_kv=[float(kv) for kv in net.bus.vn_kv],
        bus_agent=[agents.get(bus, "") for bus in place],
        bus_x=[round(points[bus][0], 4) for bus in place],
        bus_y=[round(points[bus][1], 4) for bus in place],
        line=[b.name for b, _, _ in ends["line"]],
        line_from=[start for _, start, _ in ends["line"]],
        line_to=[end for _, _, end in ends["line"]],
        line_open=[position for position, (b, _, _) in enumerate(ends["line"]) if not b.is_closed],
        trafo=[b.name for b, _, _ in ends["trafo"]],
        trafo_hv=[start for _, start, _ in ends["trafo"]],
        trafo_lv=[end for _, _, end in ends["trafo"]],
        link_from=[start for b, start, _ in ends["link"] if b.is_closed],
        link_to=[end for b, _, end in ends["link"] if b.is_closed],
        supply=[place[bus] for bus in roots],
        device=[label for label, _, _ in devices],
        device_kind=[kind for _, kind, _ in devices],
        device_bus=[place[bus] for _, _, bus in devices],
    )


def _name(name: object, what: str, index: object) -> str:
    text = "" if name is None else str(name).strip()
    return text[:100] if text and text.lower() not in {"nan", "none"} else f"{what} {index}"


def _branches(net: Any) -> Iterator[Branch]:
    switches = net.switch[~net.switch.closed] if len(net.switch) else net.switch
    opened = {(str(kind), int(element)) for kind, element in zip(switches.et, switches.element, strict=True)}
    for table, letter, start, end in (
        ("line", "l", "from_bus", "to_bus"),
        ("trafo", "t", "hv_bus", "lv_bus"),
    ):
        rows = net[table]
        for index, name, a, b, works in zip(
            rows.index, rows.name, rows[start], rows[end], rows.in_service, strict=True
        ):
            is_closed = bool(works) and (letter, int(index)) not in opened
            yield Branch(table, _name(name, table, index), int(a), int(b), is_closed)
    for bus, element, kind, is_closed in zip(
        net.switch.bus, net.switch.element, net.switch.et, net.switch.closed, strict=True
    ):
        if kind == "b":
            yield Branch("link", "", int(bus), int(element), bool(is_closed))
    if len(net.impedance):
        for a, b, works in zip(
            net.impedance.from_bus, net.impedance.to_bus, net.impedance.in_service, strict=True
        ):
            yield Branch("link", "", int(a), int(b), bool(works))
    if len(net.trafo3w):
        for hv, mv, lv, works in zip(
            net.trafo3w.hv_bus, net.trafo3w.mv_bus, net.trafo3w.lv_bus, net.trafo3w.in_service, strict=True
        ):
            yield Branch("link", "", int(hv), int(mv), bool(works))
            yield Branch("link", "", int(hv), int(lv), bool(works))


# -- the network's own coordinates ---------------------------------------------------------------------


def _own_points(net: Any, branches: Sequence[Branch]) -> Points | None:
    """Return the network's coordinates, y growing downwards; None where they are no drawing."""
    if "geo" not in net.bus:
        return None
    points: Points = {}
    for bus, text in zip(net.bus.index, net.bus.geo, strict=True):
        point = _point(text)
        if point is None:
            return None
        points[int(bus)] = (point[0], 0.0 - point[1])
    _set_apart(points, branches)
    if len(set(points.values())) < len(points):
        return None
    if crossings(branches, points) > MAX_CROSSING_SHARE * len(branches):
        return None
    return points


def _set_apart(points: Points, branches: Sequence[Branch]) -> None:
    """Move the lower side of a transformer or switch away from the place that both sides share."""
    lengths = sorted(math.dist(points[b.start], points[b.end]) for b in branches if b.table == "line")
    apart = 0.5 * lengths[len(lengths) // 2] if lengths else 1.0
    for b in branches:
        if b.table != "line" and points[b.start] == points[b.end]:
            x, y = points[b.end]
            points[b.end] = (x, y + apart)


def _point(text: object) -> tuple[float, float] | None:
    try:
        coordinates = json.loads(text)["coordinates"] if isinstance(text, str) else None
        x, y = float(coordinates[0]), float(coordinates[1])  # type: ignore[index]
    except (ValueError, TypeError, KeyError, IndexError):
        return None
    return (x, y) if math.isfinite(x) and math.isfinite(y) else None


def crossings(branches: Sequence[Branch], points: Points) -> int:
    """Return how many pairs of closed branches cross each other."""
    ends = np.array([(*points[b.start], *points[b.end]) for b in branches if b.is_closed])
    if len(ends) < 2:
        return 0
    a, b = ends[:, :2], ends[:, 2:]
    found = 0
    for i in range(len(ends) - 1):
        c, d = a[i + 1 :], b[i + 1 :]
        on_both_sides = _side(a[i], b[i], c) * _side(a[i], b[i], d) < 0.0
        found += int(np.count_nonzero(on_both_sides & (_side(c, d, a[i]) * _side(c, d, b[i]) < 0.0)))
    return found


def _side(a: NDArray[np.float64], b: NDArray[np.float64], c: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return on which side of the line from a to b a point c is, by the sign."""
    ab, ac = b - a, c - a
    found: NDArray[np.float64] = ab[..., 0] * ac[..., 1] - ab[..., 1] * ac[..., 0]
    return found


# -- laid out ------------------------------------------------------------------------------------------


def tree_points(buses: Sequence[int], branches: Sequence[Branch], roots: Sequence[int]) -> Points:
    """Lay a network out as a tree from its external grids: x counts branches, y counts feeders' ends.

    The longest way goes on straight. What branches off lies below, the farthest branch highest, so that in a
    radial network nothing crosses where a branch is drawn down first and then to the right.
    """
    children, depth, order = _spanning_tree(buses, branches, roots)
    length: dict[int, int] = {}
    for bus in reversed(order):
        length[bus] = 1 + max((length[child] for child in children[bus]), default=0)
    points: Points = {}
    heads = [bus for bus in reversed(order) if depth[bus] == 0]
    for row in range(len(buses)):
        if not heads:
            break
        bus = heads.pop()
        while True:  # along the feeder, to its end
            points[bus] = (float(depth[bus]), float(row))
            if not children[bus]:
                break
            *laterals, bus = sorted(children[bus], key=lambda child: length[child])
            heads += laterals
    return points


def _spanning_tree(
    buses: Sequence[int], branches: Sequence[Branch], roots: Sequence[int]
) -> tuple[dict[int, list[int]], dict[int, int], list[int]]:
    """Return children, depth and order of a walk in breadth; what is not connected begins its own tree."""
    near: dict[int, list[int]] = defaultdict(list)
    for branch in branches:
        if branch.is_closed:
            near[branch.start].append(branch.end)
            near[branch.end].append(branch.start)
    children: dict[int, list[int]] = {bus: [] for bus in buses}
    depth: dict[int, int] = {}
    order: list[int] = []
    for root in (*roots, *buses):
        if root in depth:
            continue
        depth[root] = 0
        waiting = [root]
        for bus in waiting:  # grows while it is walked
            for other in near[bus]:
                if other not in depth:
                    depth[other] = depth[bus] + 1
                    children[bus].append(other)
                    waiting.append(other)
        order += waiting
    return children, depth, order
