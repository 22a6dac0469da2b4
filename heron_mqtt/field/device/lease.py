"""A lease: what a device was told holds until it runs out, unless it is renewed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable


class Lease:
    """Runs out once, some time after the newest renewal.

    Args:
        on_expiry: Called in the event loop with the time since the newest renewal, s.
        monotonic: The clock that measures that time, s.
    """

    def __init__(
        self, on_expiry: Callable[[float], None], monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._on_expiry = on_expiry
        self._monotonic = monotonic
        self._timer: asyncio.TimerHandle | None = None
        self._renewed_at = 0.0

    def renew(self, lease_s: float) -> None:
        """Let it run for ``lease_s`` from now."""
        self.cancel()
        self._renewed_at = self._monotonic()
        self._timer = asyncio.get_running_loop().call_later(lease_s, self._expire)

    def cancel(self) -> None:
        """Let it not run out. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    @property
    def is_running(self) -> bool:
        """Whether it was renewed and has not run out."""
        return self._timer is not None

    def _expire(self) -> None:
        self._timer = None
        self._on_expiry(self._monotonic() - self._renewed_at)
