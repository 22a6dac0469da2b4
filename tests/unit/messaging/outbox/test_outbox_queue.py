"""The outbox's queue on a real file: whatever happens to it, the order holds and nothing is lost."""

from __future__ import annotations

import asyncio
import itertools
import random
import sqlite3
from collections import deque
from pathlib import Path
from typing import Any

import pytest

from heron_mqtt.errors import BrokerOverflow
from heron_mqtt.messaging.core.stats import MessageStats
from heron_mqtt.messaging.outbox import Outbox, OutboxStore, outbox
from heron_mqtt.messaging.outbox.kept_message import HELD_S, KeptMessage
from heron_mqtt.messaging.outbox.store import StoredMessage

OPERATIONS = {"add": 12, "stop": 1, "take": 10, "settle": 8, "give_back": 1, "rest": 2}
OPERATIONS |= {"restart": 0.5, "kill": 0.5}


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything in little, so that a few messages reach every bound."""
    for name, value in (("MAX_IN_MEMORY", 4), ("READ_AHEAD", 4), ("GROUP_S", 0.0), ("PACE_PER_S", 1e9)):
        monkeypatch.setattr(outbox, name, value)


def made(path: Path, **options: Any) -> Outbox:
    bounds: dict[str, Any] = {"max_bytes": 10**9, "max_age_s": 1e9, **options}
    found = Outbox(OutboxStore(path, "site"), MessageStats(), **bounds)
    found.open()
    return found


async def rest(queue: Outbox) -> None:
    """Wait until the disk has everything."""
    for _ in range(2_000):
        disk = queue._disk
        assert disk is not None
        if not (disk.is_busy or queue._unwritten or queue._newest or queue._to_remove):
            return
        await asyncio.sleep(0.001)
    raise AssertionError("the disk is never done")


class Model:
    """What ought to be in it: payloads, in order."""

    def __init__(self) -> None:
        self.stops: deque[bytes] = deque()
        self.others: deque[bytes] = deque()
        self.taken: list[KeptMessage] = []


def _operations(seed: int) -> list[str]:
    return random.Random(seed).choices(list(OPERATIONS), list(OPERATIONS.values()), k=150)


@pytest.mark.parametrize("seed", range(10))
async def test_the_order_holds_whatever_happens(tmp_path: Path, seed: int) -> None:
    path, operations = tmp_path / "outbox", _operations(seed)
    queue, model, numbers = made(path), Model(), itertools.count()
    for operation in [*operations, "rest", "kill"]:
        match operation:
            case "add" | "stop":
                payload = b'{"n":%d}' % next(numbers)
                queue.add("t", payload, 1, False, stop=operation == "stop")
                (model.stops if operation == "stop" else model.others).append(payload)
            case "take":
                await _take(queue, model)
            case "settle" if model.taken:
                queue.settle(model.taken.pop(0))
            case "give_back":
                queue.give_back(model.taken)
                _back(model)
            case "rest":
                await rest(queue)
            case "restart":
                await queue.close()
                _back(model)
                queue = made(path)
            case "kill":  # what the disk has is all that is left
                await rest(queue)
                queue._store.close()
                _back(model)
                queue = made(path)
        assert queue.messages == len(model.stops) + len(model.others) + len(model.taken)
        assert queue.messages == sum(kind.messages for kind in queue.kinds.values())
        assert queue.size == sum(kind.size for kind in queue.kinds.values())
    while model.stops or model.others:
        await _take(queue, model)
        queue.settle(model.taken.pop())
    assert queue.messages == queue.size == 0
    await queue.close()
    with sqlite3.connect(path) as database:
        assert database.execute("SELECT count(*) FROM message").fetchone() == (0,)
    database.close()


async def _take(queue: Outbox, model: Model) -> None:
    stop = queue.take_stop()
    assert (stop is not None) == bool(model.stops)
    if stop is not None:
        assert stop.payload == model.stops.popleft()
        model.taken.append(stop)
        return
    message = queue.take()
    for _ in range(2_000):  # it is read from the disk
        if message is not None or not model.others:
            break
        await asyncio.sleep(0.001)
        message = queue.take()
    assert (message is not None) == bool(model.others), "something is stuck"
    if message is not None:
        assert message.payload == model.others.popleft()
        model.taken.append(message)


def _back(model: Model) -> None:
    """Everything taken is to be sent again, in its order."""
    for message in sorted(model.taken, key=lambda m: m.id, reverse=True):
        (model.stops if message.stop else model.others).appendleft(message.payload)
    model.taken.clear()


# -- a disk that fails ---------------------------------------------------------------------------------


class FailingStore(OutboxStore):
    """A disk that can be told to fail."""

    is_broken = False

    def _check_disk(self) -> None:
        if self.is_broken:
            raise sqlite3.OperationalError("disk I/O error")

    def open(self) -> None:
        self._check_disk()
        super().open()

    def write(self, added: Any, removed: Any) -> None:
        self._check_disk()
        super().write(added, removed)

    def next(self, after: int, limit: int) -> list[StoredMessage]:
        self._check_disk()
        return super().next(after, limit)


@pytest.fixture
def retry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("heron_mqtt.messaging.outbox.disk.RETRY_S", 0.01)


async def test_a_disk_that_fails_at_the_start_is_taken_up_later_and_the_old_messages_come_first(
    tmp_path: Path, retry: None
) -> None:
    first = made(tmp_path / "outbox")
    for n in range(10):
        first.add("t", b'{"old":%d}' % n, 1, False, stop=False)
    first.add("estop", b'{"old":"stop"}', 1, True, stop=True)
    await first.close()
    store = FailingStore(tmp_path / "outbox", "site")
    store.is_broken = True
    queue = Outbox(store, MessageStats(), max_bytes=10**9, max_age_s=1e9)
    queue.open()
    assert queue.trouble == "disk I/O error"
    for n in range(10):
        queue.add("t", b'{"new":%d}' % n, 1, False, stop=False)
    await asyncio.sleep(0.05)
    assert queue._stats.outbox_errors > 1
    assert [r.kind for r in queue._stats.reports] == ["outbox"], "it is said once"
    store.is_broken = False
    for _ in range(1_000):
        if queue.trouble is None and queue.messages == 21:
            break
        await asyncio.sleep(0.005)
    await rest(queue)
    model = Model()
    model.stops.append(b'{"old":"stop"}')
    model.others.extend([b'{"old":%d}' % n for n in range(10)] + [b'{"new":%d}' % n for n in range(10)])
    while model.stops or model.others:
        await _take(queue, model)
    await queue.close()


async def test_while_the_disk_fails_memory_is_bounded_and_the_oldest_goes(
    tmp_path: Path, retry: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "MAX_UNWRITTEN", 10)
    store = FailingStore(tmp_path / "outbox", "site")
    queue = Outbox(store, MessageStats(), max_bytes=10**9, max_age_s=1e9)
    queue.open()
    store.is_broken = True
    kept = [queue.add("t", b'{"n":0}', 1, False, stop=False)]
    await asyncio.sleep(0.02)
    kept += [queue.add("t", b'{"n":%d}' % n, 1, False, stop=False) for n in range(1, 15)]
    assert queue.messages == 10
    assert queue._stats.outbox_dropped == 5
    assert kept[0].is_settled
    assert not kept[5].is_settled
    store.is_broken = False
    await queue.close()
    again = made(tmp_path / "outbox")
    message = again.take()
    assert message is not None
    assert message.payload == b'{"n":5}'
    await again.close()


async def test_who_waits_for_a_message_that_is_dropped_is_told(tmp_path: Path) -> None:
    queue = made(tmp_path / "outbox", max_bytes=300)
    first = queue.add("t", b'{"n":1}', 1, False, stop=False)
    done = first.done
    assert done is not None
    for n in range(5):
        queue.add("t", b'{"n":%d}' % n, 1, False, stop=False)
    with pytest.raises(BrokerOverflow, match=r"dropped from the outbox: more than 0\.0003 MB wait"):
        await done
    await queue.close()


# -- how long it was held ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("payload", "told"),
    [
        (b'{"p_mw":1}', b'{"p_mw":1,"held_s":2.500}'),
        (b"{}", b'{"held_s":2.500}'),
        (b'{"held_s":9}', b'{"held_s":9}'),
        (b"", b""),
        (b"[1]", b"[1]"),
    ],
)
def test_what_was_held_says_so_and_what_was_not_stays(payload: bytes, told: bytes) -> None:
    message = KeptMessage(1, False, "t", payload, 1, False, 0.0, 100.0)
    assert message.payload_at(100.0 + HELD_S / 2) == payload
    assert message.payload_at(102.5) == told


async def test_a_clock_that_was_set_back_makes_nothing_younger_than_now(tmp_path: Path) -> None:
    first = made(tmp_path / "outbox", clock=lambda: 1_000_000.0)
    first.add("t", b'{"n":1}', 1, False, stop=False)
    await first.close()
    again = made(tmp_path / "outbox", clock=lambda: 500_000.0)
    message = again.take()
    assert message is not None
    assert 0.0 <= (again.age_s or 0.0) < 5.0
    await again.close()
