"""A stop in force when a run was interrupted is published again, unless it was released since."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from heron_mqtt.agents.operator import SystemOperator
from heron_mqtt.messaging import topics
from heron_mqtt.messaging.base import Received
from heron_mqtt.messaging.memory import InMemoryBroker

EARLIER = {"type": "estop", "active": False, "who": "ann", "boot": "o", "seq": 0}
STOP = {"type": "estop", "active": True, "who": "ann", "why": "smoke", "boot": "o", "seq": 1}
LATER = {"type": "estop", "active": False, "who": "bob", "boot": "p", "seq": 0}
NAMELESS = {"type": "estop", "active": False, "who": "bob"}


async def resumed(heard: list[dict[str, Any]], kept: dict[str, Any] | None) -> tuple[bool, str | None, int]:
    """Return whether a stop is said to be in force, who pressed it, and how many were published."""
    async with InMemoryBroker() as broker:
        if kept is not None:
            broker.publish(topics.ESTOP, kept, retain=True)
        operator = SystemOperator("grid", [], broker)
        operator.remember_stops([Received(message, topics.ESTOP) for message in heard])
        said: list[Received] = []
        broker.subscribe(topics.ESTOP, lambda m: said.append(m) if m.get("sender") == "grid" else None)
        await operator.start()
        is_stopped = operator.say_remembered_stop()
        await asyncio.sleep(0)
        who = None if operator.estop is None else operator.estop.who
        await operator.close()
        return is_stopped, who, len(said)


@pytest.mark.parametrize(
    ("heard", "kept", "expected"),
    [
        ([STOP], None, (True, "ann", 1)),  # the broker has forgotten it
        ([STOP], STOP, (True, "ann", 0)),  # it has not
        ([STOP], LATER, (False, None, 0)),  # released while the run was interrupted
        ([EARLIER, STOP], EARLIER, (True, "ann", 1)),  # the broker has gone back to an earlier release
        ([STOP], NAMELESS, (True, "ann", 1)),  # of unknown time
        ([STOP, LATER], None, (False, None, 0)),
        ([], STOP, (False, "ann", 0)),  # heard as in every run
    ],
)
def test_a_stop_of_before_the_interruption_is_in_force_unless_released_since(
    heard: list[dict[str, Any]], kept: dict[str, Any] | None, expected: tuple[bool, str | None, int]
) -> None:
    assert asyncio.run(resumed(heard, kept)) == expected


@pytest.mark.parametrize(
    ("who", "named"), [("bob", "bob: no reason given"), (None, "unknown: no reason given")]
)
def test_who_has_released_it_meanwhile_is_logged(
    who: str | None, named: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("WARNING", "heron_mqtt.operator"):
        asyncio.run(resumed([STOP], {**LATER, "who": who}))
    assert caplog.records[-1].getMessage() == f"emergency stop released during the interruption, by {named}"
