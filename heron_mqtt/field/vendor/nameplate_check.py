"""Whether what a mapping sends is for a device with this nameplate: powers, and 0, told apart and sendable.

All of it is computed without the device, for powers within the nameplate; what depends on inputs of the
device, or on what is learned, is found when it is sent.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from heron_mqtt.errors import MessageError
from heron_mqtt.field.vendor.cleaning_keys import Scalar
from heron_mqtt.field.vendor.command_places import CommandPlaces
from heron_mqtt.field.vendor.outgoing import NotExpressible
from heron_mqtt.field.vendor.payload_filling import without_device
from heron_mqtt.field.vendor.setpoint_writer import UNITS, ZERO, SentSetpoint, SetpointWriter
from heron_mqtt.field.vendor.told_apart import confusions, passed_through, powers_to_try, sizes_in, together
from heron_mqtt.field.vendor.words import is_off
from heron_mqtt.messages import Setpoint

NEAR_REST = (0.02, 0.05)  # of the largest power


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
        self._context = without_device()
        self._is_known_later = writer.waits_for_device(writer.messages)

    def problems(self) -> list[str]:
        """Return why the mapping is not for the device, for people; empty: it is."""
        return [*self._unsendable(), *self._zero_is_no_rest(), *self._confusions()]

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

    def _zero_is_no_rest(self) -> Iterator[str]:
        """Yield which value that is sent says off for a power and not for 0, or makes of 0 a small power.

        What is the same for 0 and for small powers of both signs is rounded, wherever the device begins to
        count; so is what has an ``offset``. Nothing else may differ between 0 and the largest power: beside
        the least current of a charger 0 may send that it is off.
        """
        bounds = [bound for bound in self._range_mw if bound]
        if self._is_known_later:
            return
        try:
            rest, *full = (self._of_power(p_mw) for p_mw in (0.0, *bounds))
            is_flat = [
                not any(self._differing(rest, self._of_power(part * bound)) for part in NEAR_REST)
                for bound in bounds
            ]
        except MessageError:
            return
        is_raised = any(is_flat) and (len(is_flat) == 1 or not all(is_flat))
        for name in sorted(self._powers):
            at_0 = rest.values[name].json
            if not isinstance(at_0, str):
                rises = any(abs(float(sent.values[name].json)) > abs(at_0) for sent in full)
                is_alone = all(self._differing(rest, sent) <= {name} for sent in full)
                counts = not self._values[name].table.offset
                if at_0 and is_raised and rises and is_alone and counts:
                    yield f"setpoint.values.{name}: 0 is sent as small powers are, {at_0:g}: 0 needs its own"
                continue
            for bound, sent in zip(bounds, full, strict=True):
                word = sent.values[name].json
                if not is_off(at_0) and isinstance(word, str) and is_off(word):
                    what = f"0 is sent as {at_0!r}, {bound:g} MW as {word!r}: expected the other way"
                    yield f"setpoint.values.{name}: {what} (of a contact that blocks, send true or false)"

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
        if "q_mvar" in self._writer.quantities:
            largest = max(map(abs, self._range_mw))
            sizes = powers_to_try((-largest, largest))
            asked |= {("q_mvar", p_mw): sizes for p_mw in sorted({0.0, *self._range_mw}, key=abs)}
            asked |= {("p_mw", q_mvar): powers_to_try(self._range_mw) for q_mvar in (-largest, largest)}
        sent = {series: self._each_sent(*series, [0.0, *sizes]) for series, sizes in asked.items()}
        indices = {one.indices for each in sent.values() for one in each.values()}
        places = CommandPlaces([m.command for m in self._messages], indices, self._values.names)
        told = {series: self._told(of_sizes, places) for series, of_sizes in sent.items()}
        zero = told["p_mw", 0.0].get(0.0)
        if zero is None:
            return []
        return list(dict.fromkeys(self._of_series(told, together(zero), self._words_of_zero())))

    def _of_series(
        self,
        told: Mapping[tuple[str, float], Mapping[float, Sequence[Mapping[Any, Any]]]],
        zero: Mapping[Any, Any],
        words: Sequence[Scalar],
    ) -> Iterator[str]:
        """Yield the same, given what is told: what 0 of both sets, and its words."""
        whole = {series: {p: together(r) for p, r in of_sizes.items()} for series, of_sizes in told.items()}
        sizes = frozenset().union(*(sizes_in(each) for each in whole.values()))
        for (quantity, beside), every in whole.items():
            unit, other = UNITS[quantity], UNITS["q_mvar" if quantity == "p_mw" else "p_mw"]
            shown = f"{unit} (with {beside:g} {other})" if beside else unit
            zero_here = every.pop(0.0, zero)
            told_as_0 = zero_here if beside else None  # with a power beside it, which is then the same
            each = {size: effects for size, effects in every.items() if effects != told_as_0}
            of_words = words if quantity == "p_mw" and not beside else ()
            for its_zero in (zero, zero_here) if beside else (zero,):
                yield from confusions(each, its_zero, of_words, unit=shown, sizes=sizes)
            requests = {p: r for p, r in told[quantity, beside].items() if p}
            yield from passed_through(requests, zero_here, unit=shown)

    def _told(
        self, of_sizes: Mapping[float, SentSetpoint], places: CommandPlaces
    ) -> dict[float, list[dict[Any, Any]]]:
        """Return what the requests of each size set, if they fit what they write to."""
        found: dict[float, list[dict[Any, Any]]] = {}
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

    def _requests(self, sent: SentSetpoint, places: CommandPlaces) -> list[dict[Any, Any]]:
        """Return what a setpoint sets, request by request; messages that no pause parts are one."""
        found: list[dict[Any, Any]] = []
        for message in (self._messages[i] for i in sent.indices):
            requests = message.effects(sent.values, self._context, places)
            if found and not (message.waits or message.is_of_registers):
                found[-1].update(requests.pop(0))
            found += requests
        return found

    def _sent(self, setpoint: Setpoint) -> SentSetpoint:
        return self._writer.sent(setpoint, self._context)

    def _of_power(self, p_mw: float) -> SentSetpoint:
        return self._sent(ZERO.model_copy(update={"p_mw": p_mw}))
