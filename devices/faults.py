"""Faults on demand: what an emulator does wrong, from when on and for how long."""

from __future__ import annotations

from dataclasses import dataclass, field

from heron_mqtt.errors import ConfigError
from heron_mqtt.messages import Fault, FaultKind
from heron_mqtt.messages import parse as parse_message

SILENT: frozenset[FaultKind] = frozenset({"silence", "reboot"})
"""Kinds during which nothing is heard and nothing is said."""


@dataclass(slots=True)
class FaultState:
    """The fault in force; it ends after a number of setpoints.

    Attributes:
        planned: Faults that begin with the n-th setpoint (from 0), from the command line.
    """

    planned: dict[int, Fault] = field(default_factory=dict)
    active: Fault | None = None
    left: int = 0
    _count: int = 0

    def begin(self, fault: Fault) -> None:
        """Let a fault begin with the next setpoint; it replaces one in force."""
        self.active, self.left = fault, fault.steps

    @property
    def kind(self) -> FaultKind | None:
        """Kind of the fault in force."""
        return self.active.kind if self.active is not None else None

    def on_setpoint(self) -> FaultKind | None:
        """Count a setpoint; return the kind of fault that it meets."""
        if (due := self.planned.get(self._count)) is not None:
            self.begin(due)
        self._count += 1
        if self.active is None:
            return None
        if self.left == 0:
            self.active = None
            return None
        self.left -= 1
        return self.active.kind


def parse_fault(text: str) -> tuple[int, Fault]:
    """Return the setpoint number and the fault of ``KIND@SETPOINT[:STEPS[:VALUE]]``.

    Raises:
        ConfigError: Says what was expected.
    """
    expected = f"--fault {text}: expected KIND@SETPOINT[:STEPS[:VALUE]], for example silence@20:8"
    kind, at, rest = text.partition("@")
    numbers = rest.split(":")
    if not at or len(numbers) > 3:
        raise ConfigError(expected)
    try:
        setpoint = int(numbers[0])
        steps = int(numbers[1]) if len(numbers) > 1 else 1
        value = float(numbers[2]) if len(numbers) > 2 else 0.0
        return setpoint, parse_message(Fault, {"kind": kind, "steps": steps, "value": value})
    except ValueError as exc:
        raise ConfigError(f"{expected}; {exc}") from None
