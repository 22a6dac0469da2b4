"""Numbered messages from one program of ours to another, over a broker and a link that are broken on the way.

An observer that shares no code with them sees which messages passed. Each missing one must be known to one
side: to the publisher, whose delivery failed, or to the receiver, which counts a gap in the numbers.
"""

from __future__ import annotations

import json
import random
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from heron_mqtt.messaging.base import MessageBroker, Received
from heron_mqtt.messaging.core.background_loop import run_sync
from heron_mqtt.messaging.schemes import open_broker
from heron_mqtt.testing.faults.nats_listener import NatsListener
from heron_mqtt.testing.faults.observer import SiteObserver
from heron_mqtt.testing.faults.programs import Program, python_program
from heron_mqtt.testing.faults.publisher import CHANNEL
from heron_mqtt.testing.faults.tally import FaultTally
from heron_mqtt.testing.faults.tcp_link import TcpLink
from heron_mqtt.testing.faults.trial_broker import TrialBroker

__all__ = ["ENV", "NumberedStream"]

ENV = "stream"
HANGS_S = 20.0
FLOWS = 20
"""Messages that must come before a trial begins."""
ENDS_S = 15.0


class NumberedStream:
    """One trial: a broker, a link, a receiver and a publisher. Use it as a context manager.

    Args:
        kind: Of the broker.
        folder: For what they write; it is there.
        rng: Of the trial.
        is_receiver_far: Whether the receiver is behind the link, too; else at the broker.
    """

    def __init__(self, kind: str, folder: Path, rng: random.Random, *, is_receiver_far: bool = True) -> None:
        self.folder = folder
        self.rng = rng
        self.tally = FaultTally()
        self.broker = TrialBroker(kind, folder)
        self._is_receiver_far = is_receiver_far
        self._open = ExitStack()
        self.got: list[tuple[str, int, float]] = []
        """Boot and number of what came to the receiver, and when."""
        self.publisher: Program | None = None
        self.publishers: list[Program] = []
        self._boots: list[str] = []
        self._over_at: float | None = None

    def __enter__(self) -> Self:
        async def subscribe() -> None:
            await self.receiver.connect()
            await self.receiver.subscribe(CHANNEL, self._on_message)

        with ExitStack() as stack:  # what fails half-way leaves nothing behind
            stack.callback(self.broker.kill)
            self.broker.start()
            stack.callback(self.broker.signal, signal.SIGCONT)
            self.link = TcpLink(self.broker.port, self.rng).start()
            stack.callback(self.link.close)
            self.far_url = self.broker.url_at(self.link.port)
            self.observer: SiteObserver | NatsListener = (
                NatsListener(self.broker.port)
                if self.broker.kind == "nats"
                else SiteObserver(self.broker.url)
            )
            stack.callback(self.observer.close)
            url = self.far_url if self._is_receiver_far else self.broker.url
            self.receiver = open_broker(url, env_id=ENV)
            stack.callback(lambda: run_sync(self.receiver.close()))
            run_sync(subscribe())
            stack.callback(self.link.mend)
            stack.callback(self._end_publishers)
            self._open = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def _end_publishers(self) -> None:
        for program in self.publishers:
            if program.process.poll() is None:
                program.process.kill()
            program.process.wait()

    def _on_message(self, message: Received) -> None:
        self.got.append((message["boot"], message["seq"], time.monotonic()))

    # -- what a fault does -----------------------------------------------------------------------------

    def publish(self, *more: str) -> None:
        """Start a publisher, and wait until what it says comes."""
        boot = f"boot{len(self.publishers)}"
        self._boots.append(boot)
        arguments = [self.far_url, ENV, "--boot", boot, *more]
        self.publisher = python_program("heron_mqtt.testing.faults.publisher", *arguments)
        self.publishers.append(self.publisher)
        self.wait("the publisher", lambda: len([one for one in self.got if one[0] == boot]) > FLOWS)

    def pause(self, shortest_s: float, longest_s: float) -> None:
        """Let time pass, in which messages continue."""
        time.sleep(self.rng.uniform(shortest_s, longest_s))

    def is_over(self) -> None:
        """Mark the end of the cause."""
        self._over_at = time.monotonic()

    def wait(self, what: str, condition: Callable[[], object], within_s: float = HANGS_S) -> bool:
        """Wait for something; count it as hung if it does not come."""
        end = time.monotonic() + within_s
        while not condition():
            if time.monotonic() > end:
                self.tally.hung += 1
                said = self.publisher.err[-2:] if self.publisher is not None else []
                self.tally.note(f"{what} did not come within {within_s:g} s; the publisher said {said}")
                return False
            time.sleep(0.01)
        return True

    # -- what is asked of every trial ------------------------------------------------------------------

    def finish(self) -> dict[str, Any]:
        """Wait until messages flow again, end the publisher, and compare what it said with what came.

        Returns:
            What the publisher says at its end; empty if it does not end.
        """
        over_at = time.monotonic() if self._over_at is None else self._over_at
        if self.wait("a message after the fault", lambda: self.got and self.got[-1][2] > over_at):
            first = min(at for _, _, at in self.got if at > over_at)
            self.tally.recovered_s.append(first - over_at)
        time.sleep(0.3)
        result = self._end_publisher()
        self._wait_for_the_rest()
        gaps = 0
        for boot, program in zip(self._boots, self.publishers, strict=True):
            failed = set(result.get("failed", [])) if program is self.publisher else None
            gaps += self._compare(boot, _numbers(program), failed)
        counted = run_sync(_lost(self.receiver))
        if gaps > counted:
            self.tally.undetected += gaps - counted
            self.tally.note(f"{gaps} numbers missing before the last, the receiver counted {counted}")
        return result

    def _end_publisher(self) -> dict[str, Any]:
        assert self.publisher is not None
        self.publisher.process.terminate()
        try:
            self.publisher.wait(ENDS_S)
        except AssertionError:
            self.tally.hung += 1
            self.tally.note(f"the publisher did not end within {ENDS_S:g} s of SIGTERM")
            return {}
        try:
            found = json.loads(self.publisher.out[-1])
        except (ValueError, IndexError):
            found = None
        if not isinstance(found, dict):
            self.tally.hung += 1
            self.tally.note(f"the publisher ended without a result: {self.publisher.err[-3:]}")
            return {}
        return found

    def _wait_for_the_rest(self) -> None:
        end = time.monotonic() + 5.0
        count = -1
        while count != len(self.got) and time.monotonic() < end:
            count = len(self.got)
            time.sleep(0.3)

    def _compare(self, boot: str, said: Sequence[int], failed: set[int] | None) -> int:
        """Count what is missing of one publisher; ``failed`` is None for one that was killed.

        Returns:
            How many numbers are missing between the first and the last one that came: the receiver counts
            from the first that it hears.
        """
        came = [number for name, number, _ in self.got if name == boot]
        passed = {m.json["seq"] for m in self.observer.on(CHANNEL) if m.json.get("boot") == boot}
        if len(came) != len(set(came)):
            self.tally.break_promise(f"{len(came) - len(set(came))} messages of {boot} came twice")
        missing = set(said) - set(came)
        self.tally.lost += len(missing)
        oldest, newest = min(came, default=0), max(came, default=-1)
        tail = {number for number in missing if number > newest}
        # of a process that is killed its successor's birth tells; one that lives knows what has failed
        untold = tail - failed if failed is not None else tail & passed
        if untold:
            self.tally.undetected += len(untold)
            self.tally.note(f"{boot}: neither side noticed {len(untold)} at the end: {sorted(untold)[:5]}")
        return len({number for number in missing if oldest < number < newest})


async def _lost(receiver: MessageBroker) -> int:
    return receiver.stats.lost


def _numbers(program: Program) -> list[int]:
    return [int(line) for line in program.out if line.strip().isdigit()]
