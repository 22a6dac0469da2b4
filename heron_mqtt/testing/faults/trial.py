"""One kind of fault: what is done, what is promised, on what it is tried, and what it needs."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from heron_mqtt.testing.faults.stream import NumberedStream
from heron_mqtt.testing.faults.trial_site import TrialSite

__all__ = ["SITE_BROKERS", "STREAM_BROKERS", "FaultTrial", "SiteFault", "StreamFault"]

SiteFault = Callable[[TrialSite, random.Random], None]
StreamFault = Callable[[NumberedStream], None]

SITE_BROKERS: Final = ("mosquitto", "embedded")
"""Devices are driven over these: others have no last will and keep nothing."""
STREAM_BROKERS: Final = ("mosquitto", "embedded", "nats")


@dataclass(frozen=True, slots=True)
class FaultTrial:
    """One line of the table.

    Attributes:
        name: Short name, for ``--only``.
        what: What is done.
        promise: What must hold, beside what must hold always.
        at_site: Does it to a whole site; or None.
        in_stream: Does it to a stream of messages; or None.
        brokers: What it is tried on.
        is_quick: Whether ``--quick`` tries it.
        is_receiver_far: Whether the receiver of a stream is behind the link, too.
        why_not: Returns why it cannot be tried here; empty: it can.
        group: The kind of fault, under which trials are added up; the registry names it.
    """

    name: str
    what: str
    promise: str
    at_site: SiteFault | None = None
    in_stream: StreamFault | None = None
    brokers: Sequence[str] = STREAM_BROKERS
    is_quick: bool = False
    is_receiver_far: bool = True
    why_not: Callable[[], str] = lambda: ""
    group: str = ""
