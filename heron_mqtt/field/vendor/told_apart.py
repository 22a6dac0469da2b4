"""Whether what a mapping sends tells the powers of the two signs, and 0, apart."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import product
from typing import Any

from heron_mqtt.field.vendor.cleaning_keys import Scalar
from heron_mqtt.field.vendor.told_content import ASIDE_NAMES, ToldContent, tokens
from heron_mqtt.field.vendor.told_sizes import Effects, named, not_at_rest, sent_twice, sizes_in

SMALLEST: float = 1e-3  # of the device's largest power: below it a wrong sign is noise


def powers_to_try(range_mw: tuple[float, float]) -> list[float]:
    """Return powers within the range of a device, MW, of each sign that it has; not 0."""
    largest = max(map(abs, range_mw))
    found = [p for p in range_mw if p]
    for sign, bound in zip((-1.0, 1.0), range_mw, strict=True):
        decade = 10.0 ** math.ceil(math.log10(largest)) if largest else 0.0
        while sign * bound > 0.0 and decade > SMALLEST * largest / 10.0:
            sizes = (decade, decade / 2.0, decade / 5.0)
            found += [sign * p for p in sizes if SMALLEST * largest <= p < abs(bound)]
            decade /= 10.0
    return found


def together(requests: Sequence[Effects]) -> dict[Any, ToldContent]:
    """Return what several requests set, one after the other."""
    return {place: what for request in requests for place, what in request.items()}


def confusions(
    told: Mapping[float, Effects],
    zero: Effects,
    words_of_zero: Collection[Scalar] = (),
    *,
    unit: str = "MW",
    sizes: Collection[Any] = (),
    own_sizes: frozenset[Any] = frozenset(),
    ever: Collection[Effects] = (),
    mixed: Collection[Any] = (),
) -> Iterator[str]:
    """Return what a device cannot tell apart, for people; a power that it is told as 0 is none.

    A device keeps what no later message sets, so 0 has to change what it holds after any two setpoints. What
    holds the size of a power has to be set by 0, too, unless a mode that no power has says that it is over.

    Args:
        told: What each power sets, by MW or Mvar, positive = injected.
        zero: What a setpoint of 0 sets.
        words_of_zero: The words in that which may be a power's: numbers, and texts that do not say off.
        unit: MW, or Mvar for reactive power.
        sizes: Places that hold the size of a power, active or reactive: none of them is a mode.
        own_sizes: Those of this one: an earlier setpoint may have set each of them.
        ever: What setpoints of it set besides, as with the other quantity beside it.
        mixed: Places with sizes of the other quantity, as a power factor has: their rest is not known.
    """
    low, high = min(told, default=0.0), max(told, default=0.0)
    if not any(isinstance(word, int | float) for word in words_of_zero):
        low, high = min(low, 0.0), max(high, 0.0)  # a threshold may be above small powers of one side
    for p_mw in (low, high) if words_of_zero else ():
        if p_mw and told[p_mw] == zero:
            shown = ", ".join(map(repr, words_of_zero))
            yield (
                f"0 {unit} would send the device the same as {p_mw:g} {unit}: {shown}; give 0 its own word, "
                "such as off, idle or stop"
            )
            return
    driving = {p_mw: effects for p_mw, effects in told.items() if effects != zero}
    for p_mw in told.keys() - driving.keys():
        if any(0.0 < other / p_mw < 1.0 for other in driving):  # it is not too small to be told
            yield f"0 {unit} would send the device the same as {p_mw:g} {unit}: give 0 a number of its own"
            return
    sizes_here = sizes_in(driving)
    own_sizes = sizes_here.union(own_sizes)
    by_effect = {frozenset(effects.items()): p_mw for p_mw, effects in driving.items() if p_mw > 0.0}
    for p_mw, effects in driving.items():
        other = by_effect.get(frozenset(effects.items()))
        if p_mw < 0.0 and other is not None and not _is_rounded(effects, zero, own_sizes):
            yield f"{p_mw:g} {unit} would send the device the same as {other:g} {unit}"
            break
    if (twice := sent_twice(driving)) is not None:
        place, number = twice
        yield f"{named(place)}: {number:g} may be a power above 0 and one below 0: give it more bits"
    if (stays := _other_sign_stays(driving)) is not None:
        other, p_mw, taken_for = stays
        yield (
            f"after {other:g} {unit}, {p_mw:g} {unit} would leave the device as {taken_for:g} {unit} does: "
            "let its messages clear what the other sign has set"
        )
        return
    held: dict[frozenset[Any], float] = {}
    for (_, before), (p_mw, effects) in product((*driving.items(), (0.0, {})), driving.items()):
        held.setdefault(frozenset({**before, **effects}.items()), p_mw)
    every_size = own_sizes.union(sizes)
    powers = [*driving.values(), *(effects for effects in ever if effects != zero)]
    aside = _aside(every_size, powers)
    says_its_own = any(
        place not in every_size and _is_of_0(place, content, powers, aside) for place, content in zero.items()
    )
    set_by_powers = frozenset[Any]().union(*driving.values())
    is_plain = not (says_its_own or own_sizes)  # a constant that only 0 sends ends no word of a power
    counting = {place: c for place, c in zero.items() if place in set_by_powers} if is_plain else zero
    for before, effects in product((*driving.values(), {}), driving.values()):
        left = held.get(frozenset({**before, **effects, **counting}.items()))
        if left is not None:
            yield f"0 {unit} would leave the device as {left:g} {unit} does: a message for 0 has to clear it"
            return
    if (clash := _left_by_other_side(driving, zero, own_sizes, every_size)) is not None:
        p_mw, other, place = clash
        yield (
            f"{p_mw:g} {unit} would leave what {other:g} {unit} has set ({named(place)}), and no mode says "
            "which of the two counts: let its messages clear that"
        )
        return
    if not says_its_own and (kept := own_sizes - zero.keys()):
        place = min(map(named, kept))
        yield f"0 {unit} would leave a power in force ({place}): let a message for 0 clear it"
        return
    if not says_its_own and (wrong := not_at_rest(driving, zero, mixed)) is not None:
        place, content = wrong
        yield (
            f"0 {unit} would set {named(place)} to {content}, which no small power comes near to: "
            "let 0 come to 0, or to the number of rest"
        )


def passed_through(
    told: Mapping[float, Sequence[Effects]], zero: Effects, *, unit: str = "MW"
) -> Iterator[str]:
    """Return which power a device has on its way from one to another, beyond both, for people; at most one.

    After each request but the last it has a part of the new setpoint and a part of the old one. A request may
    be refused, so that it stays there.

    Args:
        told: What each power sets, request by request, by MW or Mvar, positive = injected.
        zero: What a setpoint of 0 sets.
        unit: MW, or Mvar for reactive power.
    """
    every = {p: whole for p, requests in told.items() if (whole := together(requests)) != zero}
    sizes = sizes_in(every)
    driving = {p: whole for p, whole in every.items() if not _is_rounded(whole, zero, sizes)}
    starts = [*driving.items(), *((0.0, {**effects, **zero}) for effects in driving.values())]
    powers_in: dict[frozenset[Any], list[float]] = {}  # many ways lead through the same states
    for (before, effects), after in product(starts, driving):
        held = dict(effects)
        for request in told[after][:-1]:
            held.update(request)
            state = frozenset(held.items())
            if state not in powers_in:
                powers_in[state] = [p for p, whole in driving.items() if whole.items() <= state]
            for p in powers_in[state]:
                if driving[p] in (effects, driving[after]):  # a power that is rounded to the same
                    continue
                if not min(before, after, 0.0) <= p <= max(before, after, 0.0):
                    yield (
                        f"on the way from {before:g} to {after:g} {unit} the device would have {p:g} {unit} "
                        "between two requests: write both in one (neighbouring registers in one message, "
                        'function = "multiple"), or send 0 first'
                    )
                    return


def _is_rounded(effects: Effects, zero: Effects, sizes: Collection[Any]) -> bool:
    """Whether a power is told as 0 beside a switch that is on: each size is that of 0."""
    held = [place for place in sizes if place in effects]
    return bool(held) and all(effects[place] == zero.get(place) for place in held)


def _other_sign_stays(driving: Mapping[float, Effects]) -> tuple[float, float, float] | None:
    """Return two powers, one after the other, and one of the other sign of which all is in force then.

    That one sets all places of the second, and more: a word for its sign that the second does not take back.
    """
    by_places: dict[frozenset[Any], dict[frozenset[Any], float]] = {}
    for p, effects in driving.items():
        by_places.setdefault(frozenset(effects), {})[frozenset(effects.items())] = p
    for (other, before), (p, effects) in product(driving.items(), driving.items()):
        state = {**before, **effects}
        for places, powers in by_places.items():
            if effects.keys() < places <= state.keys():
                found = powers.get(frozenset((place, state[place]) for place in places))
                if found is not None and found * p < 0.0:
                    return other, p, found
    return None


def _left_by_other_side(
    driving: Mapping[float, Effects], zero: Effects, sizes: frozenset[Any], every_size: frozenset[Any]
) -> tuple[float, float, Any] | None:
    """Return a power, one of the other sign, and a place with the size of that, which both leave in force.

    It is in force if what says whether and which way the device is driven is the same for both. Where nothing
    says that, each message is taken for a command that ends the one before, unless 0 clears each of them.
    """
    for (other, before), (p, effects) in product(driving.items(), driving.items()):
        if p * other >= 0.0:
            continue
        modes = [
            place
            for place, content in effects.items()
            if place not in every_size and place in before and content.is_mode
        ]
        kept = (before.keys() & sizes) - effects.keys()
        if not modes:
            kept &= zero.keys()
        if kept and all(before[place] == effects[place] for place in modes):
            return p, other, min(kept, key=named)
    return None


def _aside(sizes: Collection[Any], powers: Sequence[Effects]) -> frozenset[str]:
    """Return the words that name something beside the power: of a lamp whose power it is, no lamp."""
    own = [each[place].name for each in powers for place in sizes if place in each]
    return ASIDE_NAMES - tokens(" ".join((*map(named, sizes), *own)))


def _is_of_0(place: Any, content: ToldContent, powers: Sequence[Effects], aside: frozenset[str]) -> bool:
    """Whether what 0 sets at a place is set there by no power, and says that a power is over.

    Where powers set it, too, what is known to be a mode may say so by any word; elsewhere it has to say off.
    A constant that merely differs says nothing, also if it is 0, unless it clears a 1 where a number stands
    for a name (a register 101); nor does what is off beside the power.
    """
    at_powers = [effects[place] for effects in powers if place in effects]
    if content in at_powers or content.says_off is False:
        return False
    if aside & tokens(f"{content.name} {named(place[1:])}"):
        return False
    if content.says_off is True:
        return True
    is_numbered = isinstance(place[-1], str) and place[-1].isdigit()
    is_cleared = is_numbered and content.is_nought and all(each.is_truth for each in at_powers)
    return bool(at_powers) and (content.is_mode or is_cleared)
