"""Interleaved rounds: every contestant is measured in each, so that what disturbs one disturbs all."""

from __future__ import annotations

import statistics
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from heron_mqtt.bench.cpu import cpu_s

Step = Callable[[], Awaitable[float]]


@dataclass(frozen=True, slots=True)
class BenchCase:
    """Something that takes steps.

    Attributes:
        step: Takes one step and returns how long it took, s.
        pids: Processes whose CPU time it costs, beside this one.
    """

    step: Step
    pids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Sample:
    """One contestant, round by round.

    Attributes:
        wall_s: Median time of a step in each round.
        cpu_s: CPU time of a step, all processes together, in each round.
    """

    wall_s: list[float]
    cpu_s: list[float]

    @property
    def wall_ms(self) -> float:
        """Median of the rounds, ms."""
        return statistics.median(self.wall_s) * 1e3

    @property
    def cpu_ms(self) -> float:
        """Median of the rounds, ms."""
        return statistics.median(self.cpu_s) * 1e3


async def interleave(contestants: Mapping[str, BenchCase], *, rounds: int, steps: int) -> dict[str, Sample]:
    """Take ``steps`` steps of each contestant in turn, ``rounds`` times, after a few that do not count."""
    found = {name: Sample([], []) for name in contestants}
    for contestant in contestants.values():
        for _ in range(min(steps, 5)):
            await contestant.step()
    for _ in range(rounds):
        for name, contestant in contestants.items():
            began_s = cpu_s(*contestant.pids)
            times_s = [await contestant.step() for _ in range(steps)]
            found[name].cpu_s.append((cpu_s(*contestant.pids) - began_s) / steps)
            found[name].wall_s.append(statistics.median(times_s))
    return found
