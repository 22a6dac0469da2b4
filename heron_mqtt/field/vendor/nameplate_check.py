"""Whether what a mapping sends is for a device with this nameplate: powers, and 0, told apart and sendable.

All of it is computed without the device, for powers within the nameplate; what depends on inputs of the
device, or on what is learned, is found when it is sent.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from heron_mqtt.errors import MessageError
from heron_mqtt.field.vendor.cleaning_keys import Scalar
from heron_mqtt.field.vendor.command_places import CommandPlace, CommandPlaces, SentTexts
from heron_mqtt.field.vendor.outgoing import NotExpressible
from heron_mqtt.field.vendor.payload_filling import text_of, without_device
from heron_mqtt.field.vendor.setpoint_writer import UNITS, ZERO, SentSetpoint, SetpointWriter
from heron_mqtt.field.vendor.told_apart import confusions, passed_through, powers_to_try, together
from heron_mqtt.field.vendor.told_content import REACTIVE_NAMES, ToldContent, tokens
from heron_mqtt.field.vendor.told_sizes import Effects, bent_by_other, named, sizes_in
from heron_mqtt.field.vendor.told_switches import swapped
from heron_mqtt.field.vendor.words import is_off
from heron_mqtt.messages import Setpoint

NEAR_REST = (0.02, 0.05)  # of the largest power
BESIDE = (0.1, 0.6)  # of the largest active power: so much beside reactive power, and all of it


class NameplateCheck:
    """Looks at what a mapping sends for the powers of one device.

    Args:
        writer: Makes the messages.
        range_mw: From the lowest to the highest power of the device, MW, positive = injected.
    """

    def __init__(self, writer: SetpointWriter, range_mw: tuple[float, float]) -> None:
        self._writer = writer
        self._messages, self._values, self._powers = writer.messages, writer.values, writer.powers
        self._range_mw = range_mw
        self._ranges = {"p_mw": range_mw}  # of each quantity that is sent, MW or Mvar
        if "q_mvar" in writer.quantities:
            largest = max(map(abs, range_mw))
            self._ranges["q_mvar"] = (-largest, largest)
        self._context = without_device()
        self._is_known_later = writer.waits_for_device(writer.messages)

    def problems(self) -> list[str]:
        """Return why the mapping is not for the device, for people; empty: it is."""
        found = [*self._unsendable(), *self._cut(), *self._zero_is_no_rest(), *self._confusions()]
        return list(dict.fromkeys(found))

    def _unsendable(self) -> Iterator[str]:
        """Yield why no power of a sign that the device has fits into what carries it."""
        if self._is_known_later:
            return
        for bound in self._range_mw:
            problem = ""
            for p_mw in (0.01 * bound, bound) if bound else ():
                try:
                    self._writer.encode(ZERO.model_copy(update={"p_mw": p_mw}), self._context)
                except NotExpressible:
                    break  # it is meant: said where it is asked for
                except MessageError as exc:
                    problem = str(exc)
                else:
                    break
            else:
                if problem:
                    yield f"no power {'below' if bound < 0.0 else 'above'} 0 can be sent: {problem}"

    def _cut(self) -> Iterator[str]:
        """Yield which value has no bits for the largest power, so that it would be cut without a word."""
        if self._is_known_later:
            return
        for quantity, range_mw in self._ranges.items():
            for bound in range_mw:
                with contextlib.suppress(MessageError):
                    setpoint = ZERO.model_copy(update={quantity: bound})
                    for name, number in self._values.cut_by_wrap(setpoint, self._context):
                        bits = self._values[name].table.wrap
                        yield (
                            f"setpoint.values.{name}: {bound:g} {UNITS[quantity]} is {number:g}, which does "
                            f"not fit into wrap = {bits}: give min and max, or more bits"
                        )

    def _zero_is_no_rest(self) -> Iterator[str]:
        """Yield which value that is sent makes of 0 a small power.

        What is the same for 0 and for small powers of both signs is rounded, wherever the device begins to
        count; so is what has an ``offset``. Nothing else may differ between 0 and the largest power: beside
        the least current of a charger 0 may send that it is off.
        """
        if self._is_known_later:
            return
        for quantity, range_mw in self._ranges.items():
            bounds = [bound for bound in range_mw if bound]
            try:
                rest, *full = (self._of(quantity, size) for size in (0.0, *bounds))
                is_flat = [
                    not any(self._differing(rest, self._of(quantity, part * bound)) for part in NEAR_REST)
                    for bound in bounds
                ]
            except MessageError:
                continue
            sent = frozenset(name for m in self._messages for name in m.sent)
            for name in sorted(self._values.powers(sent, quantity)):
                at_0 = rest.values[name].json
                if isinstance(at_0, str):
                    continue
                rises = any(abs(float(sent.values[name].json)) > abs(at_0) for sent in full)
                is_alone = all(self._differing(rest, sent) <= {name} for sent in full)
                counts = not self._values[name].table.offset
                is_raised = any(is_flat) and (len(is_flat) == 1 or not all(is_flat))
                if at_0 and is_raised and rises and is_alone and counts:
                    yield f"setpoint.values.{name}: 0 is sent as small powers are, {at_0:g}: 0 needs its own"

    def _differing(self, one: SentSetpoint, other: SentSetpoint) -> set[str]:
        """Return the values by which two setpoints tell the device something else; ``""``: other messages."""
        names = self._values.lasting({name for i in one.indices for name in self._messages[i].sent})
        found = {name for name in names if one.values[name].json != other.values[name].json}
        return found if one.indices == other.indices else {*found, ""}

    def _confusions(self) -> list[str]:
        """Return which powers of the device, and 0, the messages do not tell apart.

        Reactive power is tried up to the largest of them, Mvar; each of the two without the other and with
        the most of it of either sign. What depends on inputs of the device is left out.
        """
        asked = {("p_mw", 0.0): powers_to_try(self._range_mw)}
        if "q_mvar" in self._ranges:
            largest = self._ranges["q_mvar"][1]
            sizes = powers_to_try(self._ranges["q_mvar"])
            beside = {part * bound for bound in self._range_mw for part in (0.0, *BESIDE, 1.0)}
            asked |= {("q_mvar", p_mw): sizes for p_mw in sorted(beside, key=abs)}
            asked |= {("p_mw", q_mvar): powers_to_try(self._range_mw) for q_mvar in (-largest, largest)}
        sent = {series: self._each_sent(*series, [0.0, *sizes]) for series, sizes in asked.items()}
        texts = {series: {p: _texts_of(one) for p, one in each.items()} for series, each in sent.items()}
        every = [one for each in texts.values() for one in each.values()]
        at_0 = texts["p_mw", 0.0].get(0.0)
        places = CommandPlaces([m.command for m in self._messages], every, at_0, self._values.names)
        told = {series: self._told(of_sizes, places) for series, of_sizes in sent.items()}
        zero = told["p_mw", 0.0].get(0.0)
        if zero is None:
            return []
        return list(dict.fromkeys(self._of_series(told, together(zero), self._words_of_zero())))

    def _of_series(
        self,
        told: Mapping[tuple[str, float], Mapping[float, Sequence[Effects]]],
        zero: Effects,
        words: Sequence[Scalar],
    ) -> Iterator[str]:
        """Yield the same, given what is told: what 0 of both sets, and its words."""
        whole = {series: {p: together(r) for p, r in of_sizes.items()} for series, of_sizes in told.items()}
        sizes_of = {quantity: frozenset[Any]() for quantity, _ in whole}
        ever: dict[str, list[Effects]] = {quantity: [] for quantity in sizes_of}
        for (quantity, _), every in whole.items():
            sizes_of[quantity] |= sizes_in(every)
            ever[quantity] += [effects for size, effects in every.items() if size and effects != zero]
        sizes = frozenset[Any]().union(*sizes_of.values())
        yield from swapped(whole["p_mw", 0.0], zero, [b for b in self._range_mw if b], sizes)
        yield from self._bent(whole, sizes_of)
        for place, content in zero.items():
            is_reactive = tokens(content.name) & REACTIVE_NAMES
            if is_reactive and any(content.numbers) and place not in sizes:
                yield f"0 is sent with {named(place)} = {content}: a stop is 0 Mvar, too"
        for (quantity, beside), every in whole.items():
            unit, other = UNITS[quantity], _other_unit(quantity)
            shown = f"{unit} (with {beside:g} {other})" if beside else unit
            zero_here = every.get(0.0, zero)
            told_as_0 = zero_here if beside else None  # with a power beside it, which is then the same
            each = {size: effects for size, effects in every.items() if size and effects != told_as_0}
            of_words = words if quantity == "p_mw" and not beside else ()
            for its_zero in (zero, zero_here) if beside else (zero,):
                yield from confusions(
                    each,
                    its_zero,
                    of_words,
                    unit=shown,
                    sizes=sizes,
                    own_sizes=sizes_of[quantity],
                    ever=ever[quantity],
                    mixed=sizes_of.get("q_mvar" if quantity == "p_mw" else "p_mw", ()),
                )
            requests = {p: r for p, r in told[quantity, beside].items() if p}
            yield from passed_through(requests, zero_here, unit=shown)

    def _bent(
        self,
        told: Mapping[tuple[str, float], Mapping[float, Effects]],
        sizes_of: Mapping[str, frozenset[Any]],
    ) -> Iterator[str]:
        """Yield where active power changes the sign or the scale of reactive power, or the reverse."""
        largest = max(map(abs, self._range_mw))
        for quantity, sizes in sizes_of.items():
            of_it = {beside: each for (name, beside), each in told.items() if name == quantity}
            if (bent := bent_by_other(of_it, sizes, largest)) is not None:
                place, one, other = bent
                yield (
                    f"{named(place)}: what is made of {UNITS[quantity]} has another sign or scale with "
                    f"{one:g} {_other_unit(quantity)} than with {other:g} {_other_unit(quantity)}"
                )

    def _told(
        self, of_sizes: Mapping[float, SentSetpoint], places: CommandPlaces
    ) -> dict[float, list[dict[CommandPlace, ToldContent]]]:
        """Return what the requests of each size set, if they fit what they write to."""
        found: dict[float, list[dict[CommandPlace, ToldContent]]] = {}
        for size, one in of_sizes.items():
            with contextlib.suppress(MessageError):
                found[size] = self._requests(one, places)
        return found

    def _each_sent(self, quantity: str, beside: float, sizes: Sequence[float]) -> dict[float, SentSetpoint]:
        """Return what is sent for each size of a quantity, MW or Mvar, beside one of the other, if it can."""
        other = "q_mvar" if quantity == "p_mw" else "p_mw"
        found: dict[float, SentSetpoint] = {}
        for size in sizes:
            with contextlib.suppress(MessageError):
                found[size] = self._sent(ZERO.model_copy(update={other: beside, quantity: size}))
        return found

    def _words_of_zero(self) -> list[Scalar]:
        """Return the words that 0 is sent as, without those that say off."""
        rendered = self._values.render(ZERO, self._context)
        words = {
            word
            for name in self._powers
            if isinstance(word := rendered[name].json, str) or self._values[name].table.words is not None
        }
        return sorted((w for w in words if not (isinstance(w, bool) or is_off(w))), key=str)

    def _requests(self, sent: SentSetpoint, places: CommandPlaces) -> list[dict[CommandPlace, ToldContent]]:
        """Return what a setpoint sets, request by request; messages that no pause parts are one."""
        found: list[dict[CommandPlace, ToldContent]] = []
        for message in (self._messages[i] for i in sent.indices):
            requests = message.effects(sent.values, self._context, places)
            if found and not (message.waits or message.is_of_registers):
                found[-1].update(requests.pop(0))
            found += requests
        return found

    def _sent(self, setpoint: Setpoint) -> SentSetpoint:
        return self._writer.sent(setpoint, self._context)

    def _of(self, quantity: str, size: float) -> SentSetpoint:
        return self._sent(ZERO.model_copy(update={quantity: size}))


def _other_unit(quantity: str) -> str:
    return UNITS["q_mvar" if quantity == "p_mw" else "p_mw"]


def _texts_of(sent: SentSetpoint) -> SentTexts:
    return SentTexts(sent.indices, partial(text_of, values=sent.values))
