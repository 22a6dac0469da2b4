"""An event loop in which waiting takes no time: a day behind a slow network in a second, always the same.

Where everything runs in one process (``InMemoryBroker``, simulated devices) nothing from outside ever has to
be waited for: every wait is for a timer. So the loop's clock jumps to the next timer instead of sleeping
until it. Computing takes no time in it. So deadlines are missed because of late or lost messages, never
because the machine is busy, and a seeded run repeats exactly.

Not for sockets, processes or threads: for those the clock would run away.

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(main())
"""

from __future__ import annotations

import asyncio
import selectors


class _JumpingSelector(selectors.DefaultSelector):
    """Counts the time that it was asked to wait instead of waiting."""

    def __init__(self) -> None:
        super().__init__()
        self.jumped_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Return what is ready; without a timer to jump to (``timeout`` None) really wait for it."""
        if timeout is None:
            return super().select(None)
        ready = super().select(0)
        if not ready and timeout > 0.0:
            self.jumped_s += timeout
        return ready


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """Its clock starts at 0 s and moves only when everything waits for a timer."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        """Return the virtual time, s."""
        return self._jumping.jumped_s
