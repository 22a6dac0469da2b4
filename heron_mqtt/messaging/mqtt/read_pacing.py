"""Reading a little later, so that one wake of the event loop serves several messages.

A message that arrives alone costs about three times what it costs together with others. The loop is woken,
reads, and writes one acknowledgement. The data that it needs has left the processor's cache meanwhile. A
gateway whose devices speak a thousand times a second, each when it likes, would spend most of its time on
that.
"""

from __future__ import annotations

from collections.abc import Callable

MAX_PAUSE_S = 0.008
"""What a message may wait for others, at most: 99 in 100 shall have been taken within 10 ms."""
TOGETHER = 12
"""Messages that one read shall bring; brokers send at least 20 before they wait for acknowledgements."""
MIN_RATE_PER_S = 400.0
"""Messages a second from which on a pause is worth while: three in the longest one."""
WINDOW_S = 0.05  # over which the rate is taken
HURRY_S = 0.5  # after something was sent, what comes may be its answer, and a step may be waiting for it


class ReadPacing:
    """Decides, after each read of a connection, how long the next one may wait.

    Args:
        clock: Monotonic, s.
        max_pause_s: What a message may wait for others, at most.
        together: Messages that one read shall bring.
    """

    def __init__(
        self, clock: Callable[[], float], max_pause_s: float = MAX_PAUSE_S, together: int = TOGETHER
    ) -> None:
        self._clock = clock
        self._max_pause_s, self._together = max_pause_s, together
        self._since = clock()
        self._count = 0
        self._rate_per_s = 0.0
        self.has_sent = False
        """Something goes out that may be answered: reads do not wait for a while. Set by who sends."""
        self._hurry_until = self._since

    def pause_s(self, packets: int, *, is_drained: bool = True) -> float:
        """Take note of a read, and return how long the next may wait, s; 0 = not at all.

        Args:
            packets: That it has brought.
            is_drained: Whether it took all that was there. What is left does not wait: else no more would
                come through than one read holds in each pause.
        """
        now = self._clock()
        self._count += packets
        elapsed_s = now - self._since
        if elapsed_s >= WINDOW_S:
            self._rate_per_s, self._since, self._count = self._count / elapsed_s, now, 0
        if self.has_sent:
            self.has_sent, self._hurry_until = False, now + HURRY_S
        if self._rate_per_s < MIN_RATE_PER_S or now < self._hurry_until:
            return 0.0
        if not is_drained or packets > 4 * self._together:  # they come together by themselves
            return 0.0
        return min(self._max_pause_s, self._together / self._rate_per_s)
