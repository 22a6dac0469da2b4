"""ReadPacing: many single messages wait a moment for each other, and nothing that may be an answer does."""

from __future__ import annotations

import pytest

from heron_mqtt.messaging.mqtt.read_pacing import (
    HURRY_S,
    MAX_PAUSE_S,
    MIN_RATE_PER_S,
    TOGETHER,
    WINDOW_S,
    ReadPacing,
)


class Reads:
    """Reads of a connection at a steady rate, by a clock of its own."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.pacing = ReadPacing(lambda: self.now_s)

    def at(self, rate_per_s: float, duration_s: float, packets: int = 1) -> list[float]:
        """Return the pauses after each of the reads that bring ``packets`` each."""
        pauses = []
        for _ in range(round(duration_s * rate_per_s / packets)):
            self.now_s += packets / rate_per_s
            pauses.append(self.pacing.pause_s(packets))
        return pauses


def test_few_messages_are_read_as_they_come() -> None:
    assert not any(Reads().at(0.9 * MIN_RATE_PER_S, 2.0))


@pytest.mark.parametrize("rate_per_s", [500.0, 1_000.0, 5_000.0, 10_000.0])
def test_many_single_messages_wait_for_as_many_as_shall_come_together(rate_per_s: float) -> None:
    pauses = Reads().at(rate_per_s, 1.0)
    steady = pauses[round(2 * WINDOW_S * rate_per_s) :]
    assert steady[0] == pytest.approx(min(MAX_PAUSE_S, TOGETHER / rate_per_s), rel=0.05)
    assert max(steady) <= MAX_PAUSE_S
    assert min(steady) > 0.0


def test_what_comes_together_by_itself_does_not_wait() -> None:
    assert not any(Reads().at(10_000.0, 1.0, packets=4 * TOGETHER + 1))


def test_what_a_read_has_left_does_not_wait() -> None:
    reads = Reads()
    assert reads.at(1_000.0, 1.0)[-1] > 0.0
    reads.now_s += 0.001
    assert reads.pacing.pause_s(1, is_drained=False) == 0.0
    assert reads.at(1_000.0, 0.01)[-1] > 0.0


def test_nothing_waits_after_something_was_sent() -> None:
    reads = Reads()
    assert reads.at(1_000.0, 1.0)[-1] > 0.0
    reads.pacing.has_sent = True
    assert not any(reads.at(1_000.0, 0.9 * HURRY_S))
    assert reads.at(1_000.0, 0.2 * HURRY_S)[-1] > 0.0


def test_it_ends_with_the_many_messages() -> None:
    reads = Reads()
    assert reads.at(1_000.0, 1.0)[-1] > 0.0
    reads.now_s += 1.0
    assert reads.pacing.pause_s(1) == 0.0
