"""Whether what a setpoint writes into several registers, one after the other, can mean another power.

Between two requests a device has a part of the new setpoint and a part of the old one. Registers that rise,
or fall, with the power are each between their old and their new number then. With one that turns round, as
the size ``abs(p)`` beside a sign, or the lower word of two, that does not help: the old size with the new
sign is a power that nobody has asked for, and so is the new upper word with the old lower one.

So such a register has to be written in one request with all others that the same quantity decides; or, if it
is a size, it has to hold 0 while they change: a message before them writes 0 into it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from heron_mqtt.errors import MessageError
from heron_mqtt.field.vendor.built_ins import BuiltIns
from heron_mqtt.field.vendor.cleaning_keys import Scalar
from heron_mqtt.field.vendor.payload_filling import MessageContext
from heron_mqtt.field.vendor.problems import Problems
from heron_mqtt.field.vendor.setpoint_message import SetpointMessage
from heron_mqtt.field.vendor.setpoint_values import SetpointValues
from heron_mqtt.messages import Setpoint

SIZES_MW = tuple(digit * 10.0**power for power in range(-6, 3) for digit in (1, 3))  # 1 W to 300 MW
SAMPLES_MW = (*(-size for size in reversed(SIZES_MW)), 0.0, *SIZES_MW)
QUANTITIES = ("p_mw", "q_mvar")

WrittenSeries = dict[float, Scalar]
"""What is written into a register, by the quantity, MW or Mvar, positive = injected."""


class _Register:
    """One register in one message, over all setpoints.

    Args:
        message: The number of its message.
        name: Its name.
        request: The number of the request that writes it, in their order.
        series: What is written.
    """

    def __init__(self, message: int, name: str, request: int, series: WrittenSeries) -> None:
        self.message, self.name, self.request = message, name, request
        self._numbers = [v for _, v in sorted(series.items()) if isinstance(v, int | float)]
        self._is_number = len(self._numbers) == len(series)
        self._sides = [
            [v for p, v in sorted(series.items(), key=lambda item: sign * item[0]) if sign * p >= 0.0]
            for sign in (1, -1)
        ]
        self.is_zero = self._is_number and not any(self._numbers)
        self.depends = len(set(series.values())) > 1

    @property
    def turns(self) -> bool:
        """Whether its number neither only rises nor only falls with the quantity."""
        return self._is_number and not (_rises(self._numbers) or _rises(self._numbers[::-1]))

    @property
    def is_size(self) -> bool:
        """Whether its number turns round at 0, from which it rises on both sides."""
        return self.turns and all(_rises([0.0, *side]) for side in self._sides)


def check_order(messages: Sequence[SetpointMessage], values: SetpointValues, problems: Problems) -> None:
    """Complain about registers of a setpoint that together mean another power between two requests.

    What needs something that the device says first is not looked at.
    """
    carried, _ = values.quantities({name for message in messages for name in message.names})
    for quantity in (each for each in QUANTITIES if each in carried):
        written = list(_registers(messages, values, quantity))
        dependent = [each for each in written if each.depends]
        for each in (each for each in dependent if each.turns):
            others = [o for o in dependent if o.request != each.request and not (each.is_size and o.is_size)]
            cleared = [z.request for z in written if z.name == each.name and z.is_zero]
            is_cleared = each.is_size and any(
                all(clear <= other.request < each.request for other in others) for clear in cleared
            )
            if others and not is_cleared:
                problems.add(
                    f"setpoint.messages[{each.message}].registers.{each.name}", _why(each, others[0])
                )


def _why(each: _Register, other: _Register) -> str:
    ways = 'write both in one request (neighbours in one message, function = "multiple")'
    if each.is_size:
        ways += f", or 0 into {each.name} in a message before {other.name}"
    return (
        f"its number turns round where the power changes its sign, and {other.name} is written in another "
        "request: in between the device has a part of the old setpoint and a part of the new one, which is a "
        f"power that nobody has asked for; {ways}"
    )


def _registers(
    messages: Sequence[SetpointMessage], values: SetpointValues, quantity: str
) -> Iterator[_Register]:
    """Yield each register that a setpoint writes, in the order of the requests."""
    context = MessageContext(BuiltIns(lambda: 0.0, lambda: "0"))
    found: dict[tuple[int, str], WrittenSeries] = {}
    for size in SAMPLES_MW:
        setpoint = Setpoint.model_validate({"p_mw": 0.0, "q_mvar": 0.0, "lease_s": 1.0, quantity: size})
        try:
            rendered = values.render(setpoint, context)
            for i, message in enumerate(messages):
                if message.applies(rendered, setpoint):
                    for name, value in message.register_values(rendered, context).items():
                        found.setdefault((i, name), {})[size] = value
        except MessageError:
            continue
    request = 0
    for i, message in enumerate(messages):
        for names in message.requests():
            for name in names:
                if (i, name) in found:
                    yield _Register(i, name, request, found[i, name])
            request += 1


def _rises(numbers: Sequence[Scalar]) -> bool:
    return all(
        isinstance(a, int | float) and isinstance(b, int | float) and a <= b for a, b in pairwise(numbers)
    )
