"""The places of a device that hold the size of a power: what 0 sets there, and what else they depend on."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise, product
from typing import Any

from heron_mqtt.field.vendor.told_content import APPARENT_NAMES, ToldContent, tokens

Effects = Mapping[Any, ToldContent]
"""What the messages of one setpoint set: what stands at each topic, member of a JSON object, or register."""

ROUNDED = 5e-3  # of the numbers of all powers: so near to that of a small power is rounded
TENTH, SMALL = 0.1, 0.02  # of the largest size: where it is looked at how a number rises with it
LIMITED = 0.7  # of the largest power: so much of the other one may limit a power that is not small
LEVELS = 8  # so many numbers at a place are a size
NOISE = 0.02  # of a step: so little differs by rounding


def sizes_in(driving: Mapping[float, Effects]) -> frozenset[Any]:
    """Return the places that hold the size of a power: on one side of 0 more than two contents (off, on)."""
    found: set[Any] = set()
    for side in (1.0, -1.0):
        contents: dict[Any, set[Any]] = {}
        for p_mw, effects in driving.items():
            if p_mw * side > 0.0:
                for place, content in effects.items():
                    contents.setdefault(place, set()).add(content)
        found |= {place for place, several in contents.items() if len(several) > 2}
    return frozenset(found)


def named(place: Any) -> str:
    """Return a place for people."""
    return " ".join(filter(None, map(named, place))) if isinstance(place, tuple) else str(place).strip("'")


def not_at_rest(
    driving: Mapping[float, Effects], zero: Effects, mixed: Collection[Any]
) -> tuple[Any, ToldContent] | None:
    """Return a place with the size of a power, and what 0 sets there, if that is neither 0 nor rest.

    Rest is what the smallest powers come near to. A number that neither only rises nor only falls on a side,
    as a checksum, is no size.
    """
    for place in sizes_in(driving) & zero.keys() - set(mixed):
        content = zero[place]
        if content.says_off or (content.numbers and not any(content.numbers)):
            continue
        every = [effects[place] for effects in driving.values() if place in effects]
        if content.shape not in {each.shape for each in every}:
            return place, content
        sides = [_numbers_of_side(driving, place, content, side) for side in (1.0, -1.0)]
        nearest = [rows[0] for rows in sides if rows]
        columns = [[list(column) for column in zip(*rows, strict=False)] for rows in sides if rows]
        for i, at_0 in enumerate(content.numbers):
            near = [row[i] for row in nearest if i < len(row)]
            numbers = [number for each in columns if i < len(each) for number in each[i]]
            slack = ROUNDED * (max(numbers) - min(numbers)) if numbers else 0.0
            is_between = len(near) == 2 and min(near) - slack <= at_0 <= max(near) + slack
            if at_0 == 0.0 or is_between:
                continue
            if any(i < len(each) and _is_beyond(each[i], at_0) for each in columns):
                return place, content
    return None


def _numbers_of_side(
    driving: Mapping[float, Effects], place: Any, content: ToldContent, side: float
) -> list[tuple[float, ...]]:
    """Return the numbers at a place for the powers of one side, smallest first, in texts that are alike."""
    powers = sorted((p for p in driving if p * side > 0.0), key=abs)
    told = [driving[p][place] for p in powers if place in driving[p]]
    return [each.numbers for each in told if each.shape == content.shape]


def _turns(numbers: Sequence[float]) -> bool | None:
    """Whether numbers rise and fall; None: they do neither."""
    steps = [b - a for a, b in pairwise(numbers)]
    rises, falls = any(s > 0.0 for s in steps), any(s < 0.0 for s in steps)
    return (rises and falls) if rises or falls else None


def _is_beyond(numbers: Sequence[float], at_0: float) -> bool:
    """Whether the number of 0 is not where the numbers of rising powers begin."""
    if _turns(numbers) is not False:
        return False
    return (at_0 - numbers[0]) * (numbers[-1] - numbers[0]) > 0.0


def moved_rest(
    driving: Mapping[float, Effects], zero: Effects, zero_here: Effects
) -> tuple[Any, ToldContent, ToldContent] | None:
    """Return a place with the size of a power where a 0 sets another number than another 0, and both.

    Args:
        driving: What each power sets, MW or Mvar.
        zero: What 0 sets.
        zero_here: What it sets with something else beside it.
    """
    for place in sorted(sizes_in(driving) & zero.keys() & zero_here.keys(), key=named):
        rows = [_numbers_of_side(driving, place, zero_here[place], side) for side in (1.0, -1.0)]
        is_size = all(_turns(column) is False for row in rows for column in zip(*row, strict=False))
        if is_size and zero[place].numbers != zero_here[place].numbers:
            return place, zero[place], zero_here[place]
    return None


def bent_by_other(
    told: Mapping[float, Mapping[float, Effects]], sizes: Collection[Any], largest: float
) -> tuple[Any, float, float] | None:
    """Return a place with the size of a quantity that another one turns round, or multiplies; and where.

    A limit by the other one (a circle of apparent power) only cuts the size, and a power factor or a ratio
    has another number for each of its sizes: neither is meant.

    Args:
        told: What each size sets, by what is beside it and by the size, MW or Mvar; 0 among both.
        sizes: The places that hold sizes of the quantity.
        largest: The largest size, MW or Mvar.

    Returns:
        The place, and two numbers beside the quantity for which it goes different ways; None: there is none.
    """
    for place, part, is_turned in product(sorted(sizes, key=named), (TENTH, SMALL), (True, False)):
        steps = {b: _step_at(of_sizes, place, part * largest) for b, of_sizes in told.items()}
        moved = {b: step for b, step in steps.items() if step}
        most = max(map(abs, moved.values()), default=0.0)
        alike: list[dict[float, float]] = []
        for b, step in moved.items():
            size = step if is_turned else abs(step)
            for group in alike:
                of_group = next(iter(group.values()))
                if math.isclose(size, of_group, rel_tol=NOISE):
                    group[b] = size
                    break
            else:
                alike.append({b: size})
        if is_turned:
            alike = [
                group for group in alike if math.isclose(abs(next(iter(group.values()))), most, rel_tol=NOISE)
            ]
            levels = {abs(b) for group in alike for b in group}
            is_bent = len(alike) > 1 and len(levels) > 1
        else:
            alike = [group for group in alike if len({abs(b) for b in group}) > 1]
            is_bent = part == SMALL and len(alike) > 1
        if is_bent:
            return place, min(alike[0], key=abs) + 0.0, min(alike[1], key=abs) + 0.0
    return None


def sent_twice(driving: Mapping[float, Effects]) -> tuple[Any, float] | None:
    """Return the one place with sizes where both signs send the same numbers, and one of these numbers.

    As where bits are cut off by hand (``w % 65536`` of 40 kW). Numbers of a few levels may be programs.

    Args:
        driving: What each power sets that is not told as 0, by MW or Mvar.
    """
    places = sizes_in(driving)
    if len(places) != 1:
        return None
    (place,) = places
    sides: dict[Any, tuple[list[float], list[float]]] = {}
    for power in sorted(driving, key=abs):
        content = driving[power].get(place)
        if content is not None and len(content.numbers) == 1:
            rest = frozenset((where, each) for where, each in driving[power].items() if where != place)
            sides.setdefault((content.shape, rest), ([], []))[power < 0.0].append(content.numbers[0])
    for both in sides.values():
        if all(len(set(side)) >= LEVELS and _turns(side) is False for side in both):
            low, high = max(map(min, both)), min(map(max, both))
            if high - low > NOISE * (max(map(max, both)) - min(map(min, both))):
                return place, (low + high) / 2.0
    return None


def moved_by_reactive(
    told: Mapping[float, Mapping[float, Effects]], plain: Mapping[float, Effects], largest: float
) -> tuple[Any, float, float] | None:
    """Return a place of the active power where reactive power sets another number; and both, MW and Mvar.

    Only where reactive power has a place of its own, so that this one holds no apparent power; a limit by
    reactive power may only make it less, where both are large.

    Args:
        told: What each reactive power sets, by the active power beside it and by itself, MW and Mvar.
        plain: What each active power sets without the other, by MW.
        largest: The largest active power, MW.
    """
    of_p = sizes_in(plain)
    of_q = frozenset[Any]().union(*map(sizes_in, told.values())) - of_p
    few = {p: _nearest(of_sizes, SMALL * largest) for p, of_sizes in told.items() if p}
    if not any(len({each.get(place) for each in few.values()}) == 1 for place in of_q):
        return None
    for (p_mw, of_sizes), place in product(told.items(), sorted(of_p, key=named)):
        at_0, rest = (each.get(0.0, {}).get(place) for each in (of_sizes, plain))
        if at_0 is None or rest is None or tokens(at_0.name) & APPARENT_NAMES:
            continue
        for q_mvar, effects in of_sizes.items():
            here = effects.get(place, at_0)
            if here.shape != at_0.shape:
                continue
            is_small = abs(p_mw) <= 2.0 * TENTH * largest and abs(q_mvar) < LIMITED * largest
            for number, before, zero in zip(here.numbers, at_0.numbers, rest.numbers, strict=False):
                more = (number - before) * (before - zero or number - before)
                is_alike = math.isclose(number, before, rel_tol=NOISE)
                if not is_alike and (p_mw == 0.0 or is_small or more > 0.0):
                    return place, p_mw, q_mvar
    return None


def _nearest(told: Mapping[float, Effects], size: float) -> Effects:
    """Return what the size that is nearest to one sets; nothing if there is none."""
    return told[min(told, key=lambda each: abs(each - size))] if told else {}


def _step_at(told: Mapping[float, Effects], place: Any, size: float) -> float:
    """Return by how much the number at a place is more for a size than for 0; 0 = it cannot be said."""
    nearest = min((p for p in told if p > 0.0), key=lambda p: abs(p - size), default=0.0)
    both = [told[p][place].numbers for p in (0.0, nearest) if p in told and place in told[p]]
    if len(both) < 2 or not len(both[0]) == len(both[1]) == 1:
        return 0.0
    return both[1][0] - both[0][0]
