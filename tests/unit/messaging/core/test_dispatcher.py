"""The dispatcher: what stays bounded, and what survives consumers that come and go."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Mapping
from typing import Any

import pytest

import heron_mqtt.messaging.core.dispatcher as dispatcher_module
from heron_mqtt.errors import MessageError
from heron_mqtt.messages import RunState
from heron_mqtt.messaging.codec import Json, encode
from heron_mqtt.messaging.core.dispatcher import Dispatcher
from heron_mqtt.messaging.core.sequence import SequenceTracker
from heron_mqtt.messaging.core.subscription import Received

UNASKED = 16


def _arrive(dispatcher: Dispatcher, channel: str, **message: object) -> None:
    dispatcher.arrive(channel, encode(message))


async def test_a_channel_nobody_asked_for_keeps_only_the_last_few() -> None:
    dispatcher = Dispatcher()
    dispatcher.add("c", lambda _: None)
    for i in range(UNASKED + 5):
        _arrive(dispatcher, "c", i=i)
    assert await dispatcher.take("c") == {"i": 5}
    assert dispatcher.stats.overflowed == 0


async def test_a_consumed_channel_keeps_its_bound_and_says_what_it_drops() -> None:
    dispatcher = Dispatcher(max_queue=3)
    dispatcher.listen("c")
    for i in range(5):
        _arrive(dispatcher, "c", i=i)
    assert [(await dispatcher.take("c"))["i"] for _ in range(3)] == [2, 3, 4]
    assert dispatcher.stats.overflowed == 2
    assert [r.kind for r in dispatcher.stats.reports] == ["overflow", "overflow"]


async def test_a_channel_is_read_that_a_filter_matches_or_that_is_consumed() -> None:
    dispatcher = Dispatcher()
    dispatcher.add("a/#", lambda _: None)
    dispatcher.listen("b")
    assert [dispatcher.is_read(channel) for channel in ("a/1", "b", "c")] == [True, True, False]


async def test_channels_nobody_wants_leave_nothing_behind() -> None:
    dispatcher = Dispatcher()
    dispatcher.add("agents/#", lambda _: None)
    for i in range(100):
        _arrive(dispatcher, f"agents/{i}/action", i=i)
    assert not dispatcher._mailboxes


async def test_a_cancelled_consumer_passes_its_message_on() -> None:
    dispatcher = Dispatcher()
    first = asyncio.ensure_future(dispatcher.take("c"))
    await asyncio.sleep(0)
    _arrive(dispatcher, "c", i=1)  # the first consumer has it, but has not run yet
    first.cancel()
    await asyncio.sleep(0)
    assert await asyncio.wait_for(dispatcher.take("c"), 1) == {"i": 1}


async def test_a_consumer_whose_loop_has_ended_takes_no_message_away() -> None:
    dispatcher = Dispatcher()

    def abandon() -> None:
        loop = asyncio.new_event_loop()
        task = loop.create_task(dispatcher.take("c"))
        loop.run_until_complete(asyncio.sleep(0))
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        loop.close()

    thread = threading.Thread(target=abandon)
    thread.start()
    await asyncio.to_thread(thread.join)
    _arrive(dispatcher, "c", i=1)
    assert await asyncio.wait_for(dispatcher.take("c"), 1) == {"i": 1}


def test_an_oversized_payload_is_rejected_with_its_topic() -> None:
    dispatcher = Dispatcher(max_payload=10)
    got: list[Json] = []
    dispatcher.add("c", got.append)
    dispatcher.arrive("c", b'{"x": "0123456789"}', topic="vendor/x")
    dispatcher.arrive("c", b'{"x": 1}')
    assert got == [{"x": 1}]
    assert dispatcher.stats.rejected == 1
    assert dispatcher.stats.reports[0].where == "vendor/x"


def test_subscriptions_that_change_take_effect_at_once() -> None:
    dispatcher = Dispatcher()
    got: list[str] = []
    first = dispatcher.add("a/+", lambda m: got.append("wide"))
    _arrive(dispatcher, "a/b")
    second = dispatcher.add("a/b", lambda m: got.append("exact"))
    _arrive(dispatcher, "a/b")
    first()
    _arrive(dispatcher, "a/b")
    second()
    _arrive(dispatcher, "a/b")
    assert got == ["wide", "exact", "wide", "exact"]


def _note(got: list[str], name: str, _message: Received) -> None:
    got.append(name)


def test_callbacks_are_called_in_the_same_order_every_time() -> None:
    for _ in range(3):
        dispatcher = Dispatcher()
        got: list[str] = []
        for name in ("a/#", "a/+", "+/b", "#", "a/b", "+/+"):
            dispatcher.add(name, functools.partial(_note, got, name))
        _arrive(dispatcher, "a/b")
        assert got == ["a/b", "a/#", "a/+", "+/b", "#", "+/+"]


def test_wanted_is_what_is_subscribed_or_consumed() -> None:
    dispatcher = Dispatcher()
    subscription = dispatcher.add("a/+", lambda _: None)
    dispatcher.add("b", lambda _: None)()
    dispatcher.listen("c")
    assert dispatcher.wanted() == {"a/+", "c"}
    subscription()
    assert dispatcher.wanted() == {"c"}


def test_a_broker_hears_of_every_end_of_a_subscription() -> None:
    dispatcher = Dispatcher()
    ended: list[str] = []
    dispatcher.on_removed = ended.append  # type: ignore[method-assign]
    one, two = dispatcher.add("a", lambda _: None), dispatcher.add("a", lambda _: None)
    one()
    one()
    two()
    assert ended == ["a", "a"]


def test_a_foreign_retained_message_heard_live_is_no_news_when_it_is_replayed() -> None:
    dispatcher = Dispatcher()
    early: list[Received] = []
    late: list[Received] = []
    dispatcher.add("c", early.append)
    dispatcher.arrive("c", b'{"v": 1}', retained=True)
    dispatcher.arrive("c", b'{"v": 2}')
    dispatcher.add("c", late.append)
    dispatcher.arrive("c", b'{"v": 2}', retained=True)
    assert early == [{"v": 1}, {"v": 2}]
    assert late == [{"v": 2}]


def test_each_receiver_gets_a_dict_of_its_own() -> None:
    dispatcher = Dispatcher()
    got: list[Received] = []
    dispatcher.add("c", lambda m: (got.append(m), m.clear()))
    dispatcher.add("c", got.append)
    _arrive(dispatcher, "c", i=1)
    assert got[1] == {"i": 1}


@pytest.mark.parametrize("seq", [1.0, "1", None, True, [1]])
def test_metadata_of_a_wrong_type_is_no_reason_to_drop(seq: object) -> None:
    dispatcher = Dispatcher()
    got: list[Received] = []
    dispatcher.add("c", got.append)
    for _ in range(2):
        _arrive(dispatcher, "c", sender="x", boot="b", seq=seq)
    assert len(got) == 2


async def test_what_waited_at_the_broker_says_so_to_callbacks_and_consumers() -> None:
    dispatcher = Dispatcher()
    got: list[Received] = []
    dispatcher.add("c", got.append)
    dispatcher.listen("c")
    dispatcher.arrive("c", b'{"i": 1}', late=True)
    dispatcher.arrive("c", b'{"i": 2}')
    assert [(m["i"], m.late) for m in got] == [(1, True), (2, False)]
    assert [(m["i"], m.late) for m in [await dispatcher.take("c"), await dispatcher.take("c")]] == [
        (1, True), (2, False),
    ]  # fmt: skip


async def test_what_was_held_reaches_every_subscriber_once_and_ends_no_stream() -> None:
    """An outbox brings what an earlier start said, behind or before what is said now."""
    dispatcher = Dispatcher()
    got: list[tuple[str, int, bool]] = []
    dispatcher.add("c", lambda m: got.append((m["boot"], m["seq"], "held_s" in m)))
    now = [("now", 0, {}), ("now", 1, {})]
    earlier = [("earlier", n, {"held_s": 9.0 - n}) for n in (5, 6, 7)]
    for boot, seq, more in [*now, *earlier, *earlier, ("now", 2, {})]:
        _arrive(dispatcher, "c", sender="MG1", boot=boot, seq=seq, **more)
    assert got == [(b, s, bool(m)) for b, s, m in [*now, *earlier]] + [("now", 2, False)]
    assert (dispatcher.stats.duplicated, dispatcher.stats.lost) == (3, 0)


async def test_a_tap_is_told_what_is_late_also_behind_another_broker() -> None:
    told: list[tuple[int, str]] = []

    class Tap:
        def published(self, *_: object) -> None: ...

        def arrived(
            self, channel: str, message: Mapping[str, Any], payload: object, retained: bool, kind: str
        ) -> None:
            told.append((message["seq"], kind))

        def impaired(self, *_: object) -> None: ...

    dispatcher = Dispatcher()
    dispatcher.tap = Tap()
    stream = {"sender": "MG1", "boot": "b"}
    dispatcher.arrive("c", encode({**stream, "seq": 0}))
    dispatcher.arrive("c", encode({**stream, "seq": 1, "held_s": 3.0}))
    dispatcher.arrive("c", encode({**stream, "seq": 2}), late=True)
    dispatcher.arrive_decoded("c", Received({**stream, "seq": 3}, "c", late=True))
    dispatcher.arrive("c", encode({**stream, "seq": 2}), late=True)
    assert told == [(0, "new"), (1, "late"), (2, "late"), (3, "late"), (2, "repeated")]


def test_what_is_cleared_calls_nobody_and_wants_nothing() -> None:
    dispatcher = Dispatcher()
    got: list[Received] = []
    dispatcher.add("a/+", got.append)
    dispatcher.add("b", got.append)
    dispatcher.clear()
    _arrive(dispatcher, "a/b")
    _arrive(dispatcher, "b")
    assert (got, list(dispatcher.wanted())) == ([], [])


def _say(dispatcher: Dispatcher, seq: int, *, channel: str = "c", sender: str = "a", boot: str = "x") -> None:
    _arrive(dispatcher, channel, sender=sender, boot=boot, seq=seq)


def test_two_senders_in_turn_on_one_channel_are_each_followed() -> None:
    dispatcher = Dispatcher()
    for seq in (0, 1, 2, 2, 4):
        _say(dispatcher, seq, sender="a")
        _say(dispatcher, seq, sender="b")
    assert (dispatcher.stats.duplicated, dispatcher.stats.lost) == (2, 2)


def test_after_a_jump_the_next_number_is_expected_and_the_same_one_known() -> None:
    dispatcher = Dispatcher()
    for seq in (0, 1, 1_000_000, 1_000_001, 1_000_001):
        _say(dispatcher, seq)
    assert (dispatcher.stats.duplicated, dispatcher.stats.lost) == (1, 0)
    assert [report.kind for report in dispatcher.stats.reports] == ["gap"]


def test_a_new_boot_starts_afresh_and_an_old_one_is_still_known() -> None:
    dispatcher = Dispatcher()
    for seq, boot in [(5, "x"), (6, "x"), (0, "y"), (1, "y"), (6, "x"), (2, "y")]:
        _say(dispatcher, seq, boot=boot)
    assert (dispatcher.stats.duplicated, dispatcher.stats.lost) == (1, 0)


def test_a_number_that_is_none_is_no_next_one() -> None:
    dispatcher = Dispatcher()
    _say(dispatcher, 0)
    _arrive(dispatcher, "c", sender="a", boot="x", seq=True)
    _arrive(dispatcher, "c", sender="a", boot="x")
    _say(dispatcher, 1)
    _say(dispatcher, 1)
    assert (dispatcher.stats.duplicated, dispatcher.stats.lost) == (1, 0)


def test_streams_of_more_channels_than_are_followed_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatcher_module, "MAX_CHANNELS", 3)
    dispatcher = Dispatcher()
    for _ in range(2):
        for seq in (0, 1, 3):
            for n in range(8):
                _say(dispatcher, seq, channel=f"c/{n}")
    assert len(dispatcher._channels) <= 3
    assert (dispatcher.stats.duplicated, dispatcher.stats.lost) == (3 * 8, 8)


def test_a_stream_that_is_heard_all_the_time_outlives_those_that_came_once() -> None:
    dispatcher = Dispatcher()
    dispatcher._tracker = SequenceTracker(max_streams=3)
    for seq in range(10):
        _say(dispatcher, seq)
        _say(dispatcher, 0, channel=f"once/{seq}")
    _say(dispatcher, 9)
    _say(dispatcher, 11)
    assert (dispatcher.stats.duplicated, dispatcher.stats.lost) == (1, 1)


async def test_what_came_before_it_was_asked_for_is_as_it_came() -> None:
    dispatcher = Dispatcher()
    dispatcher.add("c", lambda _: None)
    dispatcher.arrive("c", encode({"i": 0}), retained=True)
    dispatcher.arrive_decoded("c", {"i": 1})
    first, second = await dispatcher.take("c"), await dispatcher.take("c")
    assert [(first, first.retained), (second, second.retained)] == [({"i": 0}, True), ({"i": 1}, False)]


async def test_a_plain_callback_that_begins_something_hears_the_next_message_once_that_is_done() -> None:
    dispatcher, goes_on, told = Dispatcher(max_queue=2), asyncio.Event(), list[str]()

    async def do(i: int) -> None:
        await goes_on.wait()
        told.append(f"done {i}")
        if i == 0:
            raise ValueError("no")

    def hear(message: Received) -> object:
        told.append(f"heard {message['i']}")
        return do(message["i"]) if message["i"] in {0, 2} else None

    dispatcher.add("c", hear)
    for i in range(4):  # the second falls out of a queue of two
        _arrive(dispatcher, "c", i=i)
    assert told == ["heard 0"]
    goes_on.set()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert told == ["heard 0", "done 0", "heard 2", "done 2", "heard 3"]
    _arrive(dispatcher, "c", i=5)
    assert told[-1] == "heard 5", "it is called where it stands again"
    assert (dispatcher.stats.overflowed, dispatcher.stats.callback_errors) == (1, 1)


@pytest.mark.filterwarnings("error")
def test_what_cannot_be_begun_without_an_event_loop_is_counted() -> None:
    dispatcher = Dispatcher()

    async def do() -> None:
        raise AssertionError("never begun")

    dispatcher.add("c", lambda _: do())
    _arrive(dispatcher, "c", i=0)
    assert dispatcher.stats.callback_errors == 1


async def test_tasks_and_deliveries_that_a_plain_callback_returns_go_on_by_themselves() -> None:
    dispatcher, begun = Dispatcher(max_queue=1), list[asyncio.Future[None]]()

    def hear(message: Received) -> object:
        begun.append(asyncio.get_running_loop().create_future())
        return begun[-1]

    end = dispatcher.add("c", hear)
    for i in range(4):
        _arrive(dispatcher, "c", i=i)
    assert len(begun) == 4, "none waits for the one before"
    begun[0].set_exception(ValueError("of its own"))
    begun[0].exception()
    end()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not any(future.cancelled() for future in begun)
    assert (dispatcher.stats.callback_errors, dispatcher.stats.overflowed) == (0, 0)


@pytest.mark.parametrize("is_async", [False, True])
async def test_after_something_awaited_was_cancelled_the_next_messages_come_in_order(is_async: bool) -> None:
    dispatcher, told, cancelled = Dispatcher(), list[int](), asyncio.get_running_loop().create_future()

    async def do(message: Received) -> None:
        told.append(message["i"])
        if message["i"] == 0:
            await cancelled

    def plain(message: Received) -> object:
        return do(message)

    dispatcher.add("c", do if is_async else plain)
    for i in range(3):
        _arrive(dispatcher, "c", i=i)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    cancelled.cancel()
    await asyncio.sleep(0)
    _arrive(dispatcher, "c", i=3)
    for _ in range(4):
        await asyncio.sleep(0)
    assert told == [0, 1, 2, 3]
    assert dispatcher.stats.callback_errors == 1
    assert dispatcher.stats.reports[-1].what == "RuntimeError: what the callback awaited was cancelled"


async def test_what_waited_for_a_cancelled_worker_comes_before_what_is_new() -> None:
    dispatcher, told = Dispatcher(), list[int]()

    async def do(message: Received) -> None:
        await asyncio.sleep(0)
        told.append(message["i"])

    def plain(message: Received) -> object:
        return do(message)

    dispatcher.add("c", plain)
    for i in range(3):
        _arrive(dispatcher, "c", i=i)
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    _arrive(dispatcher, "c", i=3)
    for _ in range(10):
        await asyncio.sleep(0)
    assert told == [1, 2, 3]


def test_the_same_payload_is_read_once_for_several_brokers_and_counts_at_each() -> None:
    heard: list[Received] = []
    dispatchers = [Dispatcher(), Dispatcher(), Dispatcher(max_payload=10)]
    for dispatcher in dispatchers:
        dispatcher.add("run/state", heard.append)
    payload = encode({"type": "run_state", "state": "running", "sender": "o", "boot": "b", "seq": 0})
    for dispatcher in (*dispatchers, dispatchers[0]):
        dispatcher.arrive("run/state", bytes(payload))
    assert [m["state"] for m in heard] == ["running"] * 2
    assert heard[0].parse(RunState) is heard[1].parse(RunState)
    heard[0]["state"] = "lost"
    assert heard[1]["state"] == "running"
    assert [(d.stats.received, d.stats.rejected, d.stats.duplicated) for d in dispatchers] == [
        (2, 0, 1),
        (1, 0, 0),
        (0, 1, 0),
    ]


@pytest.mark.parametrize("channel", ["run/state", "devices/MG1/ess/telemetry"])
def test_what_a_receiver_changes_inside_of_a_message_is_not_in_the_next_one(channel: str) -> None:
    dispatcher, heard = Dispatcher(), list[str]()
    dispatcher.add(channel, lambda message: heard.append(message["of"].pop("it")))
    for _ in range(3):
        dispatcher.arrive(channel, b'{"of": {"it": "p"}}')
    assert heard == ["p"] * 3


def test_an_empty_payload_is_no_message() -> None:
    dispatcher = Dispatcher()
    dispatcher.arrive("run/state", b"")
    assert (dispatcher.stats.received, dispatcher.stats.rejected) == (0, 1)


# -- what is kept, and for how many ------------------------------------------------------------------


def test_a_channel_on_which_nothing_went_wrong_has_no_trouble() -> None:
    trouble = Dispatcher().trouble("c")
    assert (trouble.duplicated, trouble.lost) == (0, 0)


def test_what_went_wrong_is_told_by_channel() -> None:
    dispatcher = Dispatcher()
    for seq in (0, 0, 0, 3, 6, 1):
        _say(dispatcher, seq)
    _say(dispatcher, 0, channel="other")
    trouble = dispatcher.trouble("c")
    assert (trouble.duplicated, trouble.lost) == (2, 3), "one came late"
    assert dispatcher.trouble("other").lost == 0
    assert dispatcher.stats.lost == 3
    assert [(report.kind, report.where, report.what) for report in dispatcher.stats.reports] == [
        ("gap", "c", "messages of a before seq 3 have not arrived"),
        ("gap", "c", "messages of a before seq 6 have not arrived"),
    ]
    _say(dispatcher, 10**9)
    assert dispatcher.stats.reports[-1].what == "a jumped to seq 1000000000: it does not count by one"


async def test_of_a_channel_that_nobody_asked_for_the_last_few_messages_are_kept_where_that_is_wanted() -> (
    None
):
    for keeps_all, kept in ((False, []), (True, list(range(4, 20)))):
        dispatcher = Dispatcher(keeps_all=keeps_all)
        for i in range(20):
            _arrive(dispatcher, "c", i=i)
        dispatcher.listen("c")
        got = [message["i"] for message in dispatcher._mailboxes["c"].messages]
        assert got == kept
    plain = Dispatcher()
    _arrive(plain, "c", i=1)
    assert plain._mailboxes == {}


def test_channels_beyond_those_that_are_kept_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatcher_module, "MAX_CHANNELS", 2)
    dispatcher = Dispatcher(keeps_all=True)
    for n in range(3):
        _arrive(dispatcher, f"c/{n}", i=n)
    assert list(dispatcher._mailboxes) == ["c/0", "c/1"]


def test_a_filter_that_cannot_be_one_is_refused() -> None:
    with pytest.raises(ValueError, match="#"):
        Dispatcher().add("a/#/b", lambda _: None)


def test_the_end_of_a_subscription_is_told_with_it_and_its_filter_is_searched_no_more() -> None:
    ended: list[object] = []
    removed: list[str] = []
    dispatcher = Dispatcher(on_removed=removed.append, on_ended=ended.append)
    one, two = dispatcher.add("a/+", lambda _: None), dispatcher.add("a/+", lambda _: None)
    exact = dispatcher.add("a/b", lambda _: None)
    one()
    assert list(dispatcher._wide) == ["a/+"], "another one is left"
    assert set(dispatcher.subscriptions("a/b")) == {two, exact}
    two()
    exact()
    assert (ended, removed) == ([one, two, exact], ["a/+", "a/+", "a/b"])
    assert (dispatcher._wide, dispatcher.subscriptions("a/b"), dispatcher.wanted()) == ({}, (), set())
    Dispatcher().add("a", lambda _: None)()  # nobody is told


def test_whether_a_channel_is_wanted_by_its_name_or_read_by_whatever_filter() -> None:
    dispatcher = Dispatcher()
    dispatcher.add("a/+", lambda _: None)
    dispatcher.add("b", lambda _: None)
    dispatcher.listen("c")
    dispatcher.add("d", lambda _: None)()
    asked = ("a/+", "a/x", "b", "c", "d", "e")
    assert [dispatcher.wants(channel) for channel in asked] == [True, False, True, True, False, False]
    assert [dispatcher.is_read(channel) for channel in asked[1:]] == [True, True, True, False, False]


def test_routes_are_remembered_for_as_many_channels_as_the_network_may_name_and_we_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dispatcher_module, "MAX_CHANNELS", 2)
    dispatcher = Dispatcher()
    dispatcher.add("a", lambda _: None)
    for n in range(3):
        _arrive(dispatcher, f"c/{n}", i=n)
    assert len(dispatcher._channels) == 3
    _arrive(dispatcher, "c/3", i=3)
    assert list(dispatcher._channels) == ["c/3"]


def test_foreign_messages_are_remembered_for_as_many_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatcher_module, "MAX_CHANNELS", 2)
    dispatcher = Dispatcher()
    for n in range(3):
        _arrive(dispatcher, f"c/{n}", i=n)
        assert len(dispatcher._foreign) == (1, 2, 1)[n]


def test_troubled_channels_are_remembered_up_to_their_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatcher_module, "MAX_CHANNELS", 2)
    dispatcher = Dispatcher()
    for n in range(3):
        for seq in (0, 2):
            _say(dispatcher, seq, channel=f"c/{n}")
        assert len(dispatcher._troubled) == (1, 2, 1)[n]


# -- what cannot be read -----------------------------------------------------------------------------


def test_what_cannot_be_read_is_handed_on_only_where_even_that_tells_something() -> None:
    dispatcher = Dispatcher()
    got: list[Received] = []
    for channel in ("estop", "c"):
        dispatcher.add(channel, got.append)
    for channel in ("c", "estop"):
        dispatcher.arrive(channel, b"{", topic=f"site/{channel}")
    dispatcher.arrive("estop", b"{", retained=True)
    assert [(dict(m), m.channel, m.retained, m.late) for m in got] == [
        ({}, "estop", False, False),
        ({}, "estop", True, False),
    ]
    assert all(m.malformed for m in got)
    assert dispatcher.stats.rejected == 3
    assert [report.where for report in dispatcher.stats.reports] == ["site/c", "site/estop", "estop"]


def test_what_another_broker_could_not_read_is_handed_on_as_that() -> None:
    dispatcher = Dispatcher()
    got: list[Received] = []
    dispatcher.add("estop", got.append)
    dispatcher.arrive_decoded("estop", Received({}, "estop", malformed="no JSON"), retained=True)
    dispatcher.arrive_decoded("estop", Received({"active": False}, "estop"))
    assert [(m.malformed, m.retained) for m in got] == [("no JSON", True), (None, False)]
    assert dispatcher.stats.received == 2


def test_of_two_equal_stops_each_is_delivered() -> None:
    dispatcher = Dispatcher()
    got: list[Received] = []
    dispatcher.add("estop", got.append)
    for _ in range(2):
        _say(dispatcher, 4, channel="estop")
    assert len(got) == 2
    assert dispatcher.stats.duplicated == 0


def test_a_retained_message_is_replayed_to_one_alone() -> None:
    dispatcher = Dispatcher()
    got: list[tuple[str, bool]] = []
    dispatcher.add("c", lambda m: got.append(("early", m.retained)))
    late = dispatcher.add("c", lambda m: got.append(("late", m.retained)))
    dispatcher.replay(late, Received({"i": 1}, "c"))
    assert (got, dispatcher.stats.received) == ([("late", True)], 1)


# -- consumers -----------------------------------------------------------------------------------------


async def test_what_nobody_consumes_is_bounded_and_the_oldest_is_dropped_and_counted() -> None:
    dispatcher = Dispatcher(max_queue=2)
    dispatcher.listen("c")
    for i in range(4):
        _arrive(dispatcher, "c", i=i)
    assert [(await dispatcher.take("c"))["i"] for _ in range(2)] == [2, 3]
    assert dispatcher.stats.overflowed == 2
    assert [report.what for report in dispatcher.stats.reports] == [
        "2 messages wait for consume(); the oldest was dropped"
    ] * 2


async def test_consumers_are_served_in_the_order_in_which_they_came() -> None:
    dispatcher = Dispatcher()
    first, second = (asyncio.create_task(dispatcher.take("c")) for _ in range(2))
    await asyncio.sleep(0)
    for i in range(3):
        _arrive(dispatcher, "c", i=i)
    assert [(await first)["i"], (await second)["i"], (await dispatcher.take("c"))["i"]] == [0, 1, 2]


async def test_a_consumer_that_gives_up_takes_no_message_with_it() -> None:
    dispatcher = Dispatcher()
    gone = asyncio.create_task(dispatcher.take("c"))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    assert not dispatcher._mailboxes["c"].waiters
    _arrive(dispatcher, "c", i=0)
    in_that_moment = asyncio.create_task(dispatcher.take("d"))
    await asyncio.sleep(0)
    for i in (1, 2):
        _arrive(dispatcher, "d", i=i)
    in_that_moment.cancel()
    await asyncio.gather(in_that_moment, return_exceptions=True)
    assert (await dispatcher.take("c"))["i"] == 0
    assert [(await dispatcher.take("d"))["i"] for _ in range(2)] == [1, 2], "in their order"


async def test_a_message_from_a_thread_for_a_consumer_that_has_given_up_meanwhile_is_kept() -> None:
    dispatcher = Dispatcher()
    gone = asyncio.create_task(dispatcher.take("c"))
    await asyncio.sleep(0)
    thread = threading.Thread(target=_arrive, args=(dispatcher, "c"), kwargs={"i": 1})
    thread.start()
    thread.join()  # this loop stands still meanwhile
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    async with asyncio.timeout(5.0):
        assert (await dispatcher.take("c"))["i"] == 1
    waiting = asyncio.create_task(dispatcher.take("c"))
    await asyncio.sleep(0)
    await asyncio.to_thread(_arrive, dispatcher, "c", i=2)
    async with asyncio.timeout(5.0):
        assert (await waiting)["i"] == 2


async def test_a_consumer_whose_loop_has_ended_is_passed_over() -> None:
    dispatcher = Dispatcher()
    loop = asyncio.new_event_loop()
    dispatcher.listen("c")
    dispatcher._mailboxes["c"].waiters.append(loop.create_future())
    loop.close()
    _arrive(dispatcher, "c", i=1)
    assert (await dispatcher.take("c"))["i"] == 1
    dispatcher._mailboxes["c"].waiters.append(loop.create_future())
    dispatcher.clear()  # nor is it told of the end


async def test_what_is_cleared_ends_its_consumers() -> None:
    dispatcher = Dispatcher()
    waiting = asyncio.create_task(dispatcher.take("c"))
    await asyncio.sleep(0)
    dispatcher.clear()
    async with asyncio.timeout(5.0):
        await asyncio.gather(waiting, return_exceptions=True)
    assert waiting.cancelled()
    assert dispatcher._mailboxes == {}


def test_a_callback_that_raises_is_counted_and_named() -> None:
    dispatcher = Dispatcher()

    def fails(_message: Received) -> None:
        raise OSError("bus")

    dispatcher.add("c", fails)
    _arrive(dispatcher, "c", i=1)
    (report,) = dispatcher.stats.reports
    assert (report.kind, report.where, report.what) == ("callback", "c", "OSError: bus")
    assert dispatcher.stats.callback_errors == 1


# -- streams that are followed --------------------------------------------------------------------------


def test_the_stream_of_each_channel_is_followed_and_of_another_boot_it_is_another() -> None:
    dispatcher = Dispatcher()
    for seq, boot in ((0, "x"), (1, "x"), (2, "y"), (2, "y")):
        _say(dispatcher, seq, boot=boot)
    assert dispatcher.stats.duplicated == 1
    _say(dispatcher, 0, channel="d")
    assert {channel: known.boot for channel, known in dispatcher._channels.items()} == {"c": "y", "d": "x"}


@pytest.mark.parametrize("leaves", ["for another sender", "as too many are followed"])
def test_a_stream_that_is_left_is_known_as_far_as_it_was_followed(
    leaves: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dispatcher = Dispatcher()
    dispatcher._tracker = SequenceTracker(max_streams=3)
    for seq in range(10):
        _say(dispatcher, seq)
        _say(dispatcher, 0, channel=f"once/{seq}")  # the tracker has forgotten the stream meanwhile
    if leaves == "for another sender":
        _say(dispatcher, 0, sender="b")
    else:
        dispatcher._tracker = SequenceTracker()  # it has forgotten them all
        monkeypatch.setattr(dispatcher_module, "MAX_CHANNELS", 1)
        _say(dispatcher, 0, channel="new")
        assert "c" not in dispatcher._channels
    _say(dispatcher, 9)
    assert dispatcher.stats.duplicated == 1


def test_what_waits_for_the_first_to_ask_is_handed_on_once() -> None:
    dispatcher = Dispatcher()
    dispatcher.add("c", lambda _: None)
    _arrive(dispatcher, "c", i=0)
    for _ in range(2):
        dispatcher.listen("c")
    box = dispatcher._mailboxes["c"]
    assert ([message["i"] for message in box.messages], list(box.unasked)) == ([0], [])
    with pytest.raises(ValueError, match="#"):
        dispatcher.listen("a/#")


def test_what_is_handed_on_without_more_being_said_is_neither_kept_nor_late() -> None:
    dispatcher = Dispatcher()
    got: list[Received] = []
    for channel in ("c", "estop"):
        dispatcher.add(channel, got.append)
    dispatcher.hand_on("c", {"i": 0})
    dispatcher.arrive_decoded("c", {"i": 1})
    dispatcher.refuse("estop", MessageError("no JSON"))
    dispatcher.arrive_malformed("estop", "no JSON")
    assert [(m.retained, m.late, m.malformed) for m in got] == [
        *[(False, False, None)] * 2,
        *[(False, False, "no JSON")] * 2,
    ]
