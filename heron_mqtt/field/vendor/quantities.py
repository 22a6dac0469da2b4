"""From inputs to the quantities of our telemetry: by formula, in our units, within what they can be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from heron_mqtt.errors import MessageError
from heron_mqtt.field.vendor.formula import Formula
from heron_mqtt.field.vendor.inputs import InputReader
from heron_mqtt.field.vendor.numbers import clamped
from heron_mqtt.field.vendor.tables import FieldTable, QuantityTable
from heron_mqtt.field.vendor.units import Complain, per_si

QuantityValue = float | bool | int


class Quantity:
    """One field of our telemetry.

    Args:
        name: Which.
        table: Its unit, and its formula unless one input is it as it stands.
        readers: The inputs that a formula may use, by name.
        complain: Takes note of mistakes.
    """

    def __init__(
        self,
        name: str,
        table: FieldTable | QuantityTable,
        readers: Mapping[str, InputReader],
        complain: Complain,
    ) -> None:
        self.name = name
        self._table = table
        self._per_si = per_si(name, table, complain)
        self._formula: Formula | None = None
        self.inputs: tuple[str, ...] = (name,)
        self.waits_for_round = False
        self.within_s = 0.0
        if isinstance(table, QuantityTable):
            lists = [n for n, r in readers.items() if r.kind == "numbers"]
            loose = [n for n in lists if not readers[n].keeps_places]
            self._formula = Formula(table.formula, list(readers), complain, lists=lists, loose=loose)
            self.inputs = self._formula.names
            self.waits_for_round = table.update == "round"
            self.within_s = table.within_s
            if self._formula.is_sound and not self.inputs:
                complain("formula", "it uses no input: nothing would tell whether the device is there")
        if table.offline is not None and isinstance(table.offline, bool) != (name == "running"):
            expected = "true or false" if name == "running" else "a number"
            complain("offline", f"expected {expected}, as {name} is one")

    def value(self, inputs: Mapping[str, Any]) -> QuantityValue:
        """Return the quantity in our unit.

        Raises:
            MessageError: It is none that the quantity can have.
        """
        if self._formula is None:
            raw: Any = inputs[self.name]
        else:
            try:
                raw = self._formula.evaluate({name: inputs[name] for name in self.inputs})
            except MessageError as exc:
                raise MessageError(f"{self.name}: {exc}") from None
        return self._checked(raw)

    @property
    def offline(self) -> QuantityValue | None:
        """What it is while the device is offline; None = not known."""
        return None if self._table.offline is None else self._checked(self._table.offline)

    def _checked(self, raw: Any) -> QuantityValue:
        if self.name == "running":
            if isinstance(raw, str | list):
                raise MessageError(f"running: {raw!r}, expected true or false")
            return bool(raw)
        if isinstance(raw, bool | str | list):
            raise MessageError(f"{self.name}: {raw!r}, expected a number")
        if isinstance(self._table, QuantityTable):
            raw = clamped(raw, self._table.clamp, self._table.clamp_tolerance, f"{self.name}: the formula")
        value = float(raw) / self._per_si + 0.0
        if self.name == "ack_seq":
            if value < 0 or value != int(value):
                raise MessageError(f"ack_seq: {raw!r}, expected a sequence number")
            return int(value)
        if self.name == "soc" and not 0.0 <= value <= 1.0:
            raise MessageError(
                f"soc: {raw:g}: a state of charge of {value:g} is outside [0, 1] "
                "(clamp = [0, 100] takes a little beyond)"
            )
        if self.name == "vm_pu" and value < 0.0:
            raise MessageError(f"vm_pu: {raw:g}: a voltage must not be negative")
        return value
