"""Faults on demand: what an emulator does wrong, from which step on and for how many.

Steps are those of the run (``run/state``); without a run every setpoint counts as one.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from heron_mqtt.errors import ConfigError
from heron_mqtt.messages import Fault, FaultKind
from heron_mqtt.messages import parse as parse_message

SILENT: frozenset[FaultKind] = frozenset({"silence", "reboot"})
"""Kinds during which nothing is heard and nothing is said."""


@dataclass(slots=True)
class FaultState:
    """The fault in force; it ends after a number of steps.

    Attributes:
        planned: Faults that begin with a step of the episode, from the command line.
    """

    planned: dict[int, Fault] = field(default_factory=dict)
    active: Fault | None = None
    step: int = -1
    _ends: int = 0

    def begin(self, fault: Fault) -> None:
        """Let a fault begin with its step, or the next one if it names none; it replaces one in force.

        A run names it: its step may have been heard of before the fault, or after it.
        """
        first = self.step + 1 if fault.step is None else fault.step
        self.active, self._ends = fault, first + fault.steps

    @property
    def kind(self) -> FaultKind | None:
        """Kind of the fault in force."""
        return self.active.kind if self.active is not None else None

    def restart(self) -> None:
        """Begin an episode: steps count from 0 again, and a fault in force is over."""
        self.step, self.active = -1, None

    def on_step(self, step: int | None) -> bool:
        """Take note of a step (None = the next one); return whether a fault has just ended."""
        number = self.step + 1 if step is None else step
        if number <= self.step:
            return False
        if (due := self.planned.get(number)) is not None:
            self.step = number - 1
            self.begin(due)
        self.step = number
        if self.active is None or number < self._ends:
            return False
        self.active = None
        return True


def parse_fault(text: str) -> tuple[int, Fault]:
    """Return the step and the fault of ``KIND@STEP[:STEPS[:VALUE]]``.

    Raises:
        ConfigError: Says what was expected.
    """
    expected = f"--fault {text}: expected KIND@STEP[:STEPS[:VALUE]], for example silence@20:8"
    kind, at, rest = text.partition("@")
    numbers = rest.split(":")
    if not at or len(numbers) > 3:
        raise ConfigError(expected)
    try:
        step = int(numbers[0])
        steps = int(numbers[1]) if len(numbers) > 1 else 1
        value = float(numbers[2]) if len(numbers) > 2 else 0.0
        return step, parse_message(Fault, {"kind": kind, "steps": steps, "value": value})
    except ValueError as exc:
        raise ConfigError(f"{expected}; {exc}") from None
