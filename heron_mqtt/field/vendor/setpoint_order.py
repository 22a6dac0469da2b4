"""Whether a setpoint that is sent in several parts, one after the other, can mean another power in between.

Between two requests to registers, or during the ``pause_s`` between two messages, a device has a part of the
new setpoint and a part of the old one. This is harmless for numbers that only rise, or only fall, with the
power: the power in between lies between the old and the new one. It is not harmless for other numbers, such
as the size ``abs(p)`` with a separate sign, or the lower word of two. The old size with the new sign is a
power that was never requested, and so is the new upper word with the old lower word.

It is not harmless either for a number that only some powers set (``when``): a number from an earlier setpoint
is then in force together with the new parts.

So such a number must be sent at once with everything else that depends on the same quantity. A size may also
be 0 while the rest changes: a message before sends 0 in its place. Messages without a pause between them
count as sent at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from heron_mqtt.errors import MessageError
from heron_mqtt.field.vendor.cleaning_keys import Scalar
from heron_mqtt.field.vendor.payload_filling import without_device
from heron_mqtt.field.vendor.problems import Problems
from heron_mqtt.field.vendor.setpoint_message import MessagePlace, SetpointMessage
from heron_mqtt.field.vendor.setpoint_values import SetpointValues
from heron_mqtt.messages import Setpoint

SIZES_MW = tuple(digit * 10.0**power for power in range(-6, 3) for digit in (1, 3))  # 1 W to 300 MW
SAMPLES_MW = (*(-size for size in reversed(SIZES_MW)), 0.0, *SIZES_MW)
QUANTITIES = ("p_mw", "q_mvar")

WrittenSeries = dict[float, Scalar]
"""What is set at a place, by the quantity, MW or Mvar, positive = injected."""


class _SetPlace:
    """One place in one message, over all setpoints.

    Args:
        message: The number of its message.
        place: Where it is.
        request: The number of what is sent at once, in their order.
        series: What is set there.
    """

    def __init__(self, message: int, place: MessagePlace, request: int, series: WrittenSeries) -> None:
        self.message, self.place, self.request = message, place, request
        self._numbers = [v for _, v in sorted(series.items()) if isinstance(v, int | float)]
        self._is_number = len(self._numbers) == len(series)
        self._sides = [
            [v for p, v in sorted(series.items(), key=lambda item: sign * item[0]) if sign * p >= 0.0]
            for sign in (1, -1)
        ]
        on_each_side = ({v for p, v in series.items() if sign * p > 0.0} for sign in (1, -1))
        self._is_mode = all(len(contents) <= 1 for contents in on_each_side)
        self.is_zero = self._is_number and not any(self._numbers)
        self.depends = len(set(series.values())) > 1

    @property
    def turns(self) -> bool:
        """Whether its number neither only rises nor only falls with the quantity.

        A switch, and a mode that is the same for all powers of a sign, hold no size.
        """
        is_switch = len(set(self._numbers)) <= 2 or self._is_mode
        return self._is_number and not (is_switch or _rises(self._numbers) or _rises(self._numbers[::-1]))

    @property
    def is_kept(self) -> bool:
        """Whether some powers leave there what an earlier one has set."""
        return self._is_number and len(self._numbers) < len(SAMPLES_MW)

    @property
    def is_size(self) -> bool:
        """Whether it holds a size, with or without its other side: 0 or more, rising on each side of 0."""
        return (self.turns or self.is_kept) and all(_rises([0.0, *side]) for side in self._sides)


def check_order(messages: Sequence[SetpointMessage], values: SetpointValues, problems: Problems) -> None:
    """Complain about parts of a setpoint that together mean another power before all of it is sent.

    What needs something that the device says first is not looked at.
    """
    carried, _ = values.quantities({name for message in messages for name in message.names})
    for quantity in (each for each in QUANTITIES if each in carried):
        written = list(_places(messages, values, quantity))
        dependent = [each for each in written if each.depends]
        for each in (each for each in dependent if each.turns or each.is_kept):
            others = [o for o in dependent if o.request != each.request and not (each.is_size and o.is_size)]
            if not each.turns:  # what is set before the rest is in force only with that
                others = [o for o in others if o.request < each.request]
            cleared = [z.request for z in written if z.place[:2] == each.place[:2] and z.is_zero]
            is_cleared = each.is_size and any(
                all(clear <= other.request < each.request for other in others) for clear in cleared
            )
            if others and not is_cleared:
                problems.add(f"setpoint.messages[{each.message}].{each.place.key}", _why(each, others[0]))


def _why(each: _SetPlace, other: _SetPlace) -> str:
    if each.place.topic:
        name, other_name = each.place.key, f"messages[{other.message}].{other.place.key}"
        when, ways = "before or after a pause_s", "send both in one message, or without a pause between them"
        before = f"send 0 there in a message before {other_name}"
    else:
        name, other_name = (key.removeprefix("registers.") for key in (each.place.key, other.place.key))
        when = "in another request"
        ways = 'write both in one request (neighbours in one message, function = "multiple")'
        before = f"0 into {name} in a message before {other_name}"
    if each.is_size:
        ways += f", or {before}"
    is_set = "sent" if each.place.topic else "written"
    turns = "its number turns round where the power changes its sign"
    return (
        f"{turns if each.turns else 'not every power sets it'}, and {other_name} is {is_set} {when}: "
        "in between the device has a part of the old setpoint and a part of the new one, which is a "
        f"power that was never requested; {ways}"
    )


def _places(
    messages: Sequence[SetpointMessage], values: SetpointValues, quantity: str
) -> Iterator[_SetPlace]:
    """Yield each place that a setpoint sets, in the order in which it is sent."""
    context = without_device()
    found: dict[tuple[int, MessagePlace], WrittenSeries] = {}
    for size in SAMPLES_MW:
        setpoint = Setpoint.model_validate({"p_mw": 0.0, "q_mvar": 0.0, "lease_s": 1.0, quantity: size})
        try:
            rendered = values.render(setpoint, context)
            for i, message in enumerate(messages):
                if message.applies(rendered, setpoint):
                    for place, value in message.contents(rendered, context).items():
                        found.setdefault((i, place), {})[size] = value
        except MessageError:
            continue
    request = 0
    for i, message in enumerate(messages):
        of_registers = message.requests()
        for places in of_registers:
            for place in places:
                if (i, place) in found:
                    yield _SetPlace(i, place, request, found[i, place])
            request += 1
        if not of_registers:
            request += message.waits
            for (number, place), series in found.items():
                if number == i:
                    yield _SetPlace(i, place, request, series)


def _rises(numbers: Sequence[Scalar]) -> bool:
    return all(
        isinstance(a, int | float) and isinstance(b, int | float) and a <= b for a, b in pairwise(numbers)
    )
