"""Where the points of SunSpec models stand: read from the SunSpec Alliance's own definitions.

pysunspec2 carries them (sunspec2/models/json/model_<id>.json of github.com/sunspec/models), for every model
there is. Only these files of it are used, not its client: that is blocking and has no leases to care for.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from heron_mqtt.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Point:
    """One point of a model.

    Attributes:
        name: Of the point.
        offset: Registers from the beginning of its group.
        type: How its registers are read.
        sf: Its scale factor, a power of ten, or the name of the point that holds it; None = none.
        size: Registers.
        words: What its numbers mean, for those that are names.
    """

    name: str
    offset: int
    type: str
    sf: str | int | None
    size: int
    words: dict[int, str]


@dataclass(frozen=True, slots=True)
class PointGroup:
    """Points that stand together, and the groups behind them.

    Attributes:
        name: Of the group.
        count: How often it stands there: a number (0 = as often as fits), or the point that says it.
        points: By name.
        groups: Behind the points, in order.
    """

    name: str
    count: str | int
    points: dict[str, Point]
    groups: tuple[PointGroup, ...]

    @property
    def own_size(self) -> int:
        """Registers of its points, without the groups behind them."""
        return sum(point.size for point in self.points.values())


@cache
def layout(model: int) -> PointGroup | None:
    """Return the definition of a model; None if there is none of that number (a vendor's own).

    Raises:
        ConfigError: pysunspec2 is not installed.
    """
    try:
        files = resources.files("sunspec2")
    except ModuleNotFoundError:
        raise ConfigError("this needs pysunspec2: pip install 'heron-mqtt[modbus]'") from None
    file = files / "models" / "json" / f"model_{model}.json"
    if not file.is_file():
        return None
    return _group(json.loads(file.read_text(encoding="utf-8"))["group"])


def _group(defined: dict[str, Any]) -> PointGroup:
    points: dict[str, Point] = {}
    offset = 0
    for each in defined["points"]:
        sf = each.get("sf")
        words = {s["value"]: s["name"] for s in each.get("symbols", ()) if isinstance(s["value"], int)}
        point = Point(each["name"], offset, each["type"], sf, int(each["size"]), words)
        points[point.name] = point
        offset += point.size
    groups = tuple(_group(g) for g in defined.get("groups", ()))
    return PointGroup(defined["name"], defined.get("count", 1), points, groups)
