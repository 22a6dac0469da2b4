"""Acknowledging a little later, so that acknowledgements go with what is said next.

An acknowledgement that is sent alone costs a write here and wakes the broker, as much as a message does. A
device or an agent answers most messages of a step within a few milliseconds.
"""

from __future__ import annotations

from collections.abc import Callable

MAX_HOLD_S = 0.02
"""What an acknowledgement may wait for a message to go with, at most."""
MAX_HELD = 5
"""Acknowledgements that may wait; brokers send at least 20 messages before they wait for them."""
IN_VAIN_S = 1.0
"""How long none waits after one has waited and no message went with it."""


class AckHolding:
    """Decides how long the acknowledgements of one connection may wait.

    Where nothing is said, they soon stop to wait: it would cost a wake. So does a broker that sends the next
    message only after the acknowledgement of the last lose ``MAX_HOLD_S`` in ``IN_VAIN_S`` at most.

    Args:
        clock: Monotonic, s.
        may_hold: False = never: where what was not acknowledged is sent again to the next program.
    """

    def __init__(self, clock: Callable[[], float], *, may_hold: bool) -> None:
        self._clock = clock
        self._held = 0
        self._not_before = float("-inf") if may_hold else float("inf")

    @property
    def holds(self) -> bool:
        """Whether some are owed."""
        return self._held > 0

    def owed(self, count: int = 1) -> None:
        """So many messages have come that are to be acknowledged."""
        self._held += count

    def hold_s(self) -> float:
        """Return how long what is owed may wait, s; 0 = not at all."""
        return 0.0 if self._held >= MAX_HELD or self._clock() < self._not_before else MAX_HOLD_S

    def went(self) -> None:
        """What was owed has been handed to the socket."""
        self._held = 0

    def waited_in_vain(self) -> None:
        """Nothing was said for as long as it could wait."""
        self._not_before = max(self._not_before, self._clock() + IN_VAIN_S)
