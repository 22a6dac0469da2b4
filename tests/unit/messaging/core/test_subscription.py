"""Subscription: what a message may be read as, where a callback runs, and what it is behind with."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from heron_mqtt.errors import MessageError
from heron_mqtt.messages import Command, Observation, Telemetry
from heron_mqtt.messaging.core import subscription as subscription_module
from heron_mqtt.messaging.core.dispatcher import Dispatcher
from heron_mqtt.messaging.core.subscription import Received
from support.waiting import until


def test_a_message_is_validated_once_for_all_who_received_it() -> None:
    models: dict[Any, Any] = {}
    one, two = (Received({"type": "telemetry", "p_mw": 0.5}, "c", models=models) for _ in range(2))
    assert one.parse(Telemetry) is two.parse(Telemetry)
    assert two.parse_any() is one.parse(Telemetry)
    assert one.parse_known_fields(Telemetry) == (one.parse(Telemetry), "")
    assert one.parse_known_fields(Telemetry)[0] is one.parse(Telemetry)
    alone = Received({"type": "telemetry", "p_mw": 0.5, "soc": "?"}, "c")
    telemetry, left_out = alone.parse_known_fields(Telemetry)
    assert (telemetry.p_mw, telemetry.soc) == (0.5, None)
    assert left_out.startswith("left out what cannot be read: soc")
    with pytest.raises(MessageError):
        alone.parse(Telemetry)
    with pytest.raises(MessageError):
        one.parse(Observation)
    assert (one.retained, one.late, one.malformed, one.channel) == (False, False, None, "c")


def test_what_a_receiver_does_with_its_dict_changes_nothing_for_others() -> None:
    payload = {"type": "command", "p_ess": 0.5}
    message = Received(payload, "c")
    message["p_ess"] = "?"
    assert message.parse(Command).values("p_") == {"ess": 0.5}


def test_on_a_filter_each_channel_is_new_once_and_their_number_is_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(subscription_module, "MAX_CHANNELS", 2)
    dispatcher = Dispatcher()
    got: list[tuple[str, bool]] = []
    wide = dispatcher.add("c/+", lambda m: got.append((m.channel, m.retained)))
    exact = dispatcher.add("c/0", lambda m: got.append(("exact", m.retained)))
    for subscription in (wide, exact):
        for repeated in (True, True, False):  # what came before is only for who has heard nothing
            subscription.deliver(Received({}, "c/0", retained=repeated), None, repeated)
    assert got == [("c/0", True), ("c/0", False), ("exact", True), ("exact", False)]
    got.clear()
    for n in (0, 1, 2, 1, 0):
        wide.deliver(Received({}, f"c/{n}", retained=True), None, True)
    assert [channel for channel, _ in got] == ["c/1", "c/2", "c/1", "c/0"], "the third has cleared two"


async def test_an_async_callback_that_is_behind_loses_the_oldest_and_is_named() -> None:
    dispatcher = Dispatcher(max_queue=2)
    got: list[int] = []
    go_on = asyncio.Event()

    async def slow(message: Received) -> None:
        await go_on.wait()
        got.append(message["i"])

    await dispatcher.add("c", slow)
    dispatcher.arrive("c", b'{"i": 0}')
    await asyncio.sleep(0)  # it works on the first
    for i in range(1, 5):
        dispatcher.arrive("c", f'{{"i": {i}}}'.encode())
    go_on.set()
    await until(lambda: len(got) == 3, "what is left")
    assert got == [0, 3, 4]
    assert dispatcher.stats.overflowed == 2
    assert dispatcher.stats.reports[-1].what == "a callback is 2 messages behind; the oldest was dropped"
    dispatcher.arrive("c", b'{"i": 5}')
    await until(lambda: got[-1] == 5, "it begins anew")


async def test_an_async_callback_that_fails_goes_on_with_the_next_and_one_that_ended_with_none() -> None:
    dispatcher = Dispatcher()
    got: list[int] = []

    async def fails(message: Received) -> None:
        got.append(message["i"])
        raise OSError("bus")

    ending = dispatcher.add("c", fails)
    for i in range(2):
        dispatcher.arrive("c", f'{{"i": {i}}}'.encode())
    await until(lambda: dispatcher.stats.callback_errors == 2, "both")
    assert got == [0, 1]
    dispatcher.arrive("c", b'{"i": 2}')
    ending()
    ending()
    await asyncio.sleep(0.01)
    assert got == [0, 1]


class Called:
    """An object that is called, and one of whose kind that is awaited."""

    def __init__(self) -> None:
        self.got: list[int] = []

    async def __call__(self, message: Received) -> None:
        await asyncio.sleep(0)
        self.got.append(message["i"])


async def test_an_object_with_an_async_call_is_an_async_callback() -> None:
    dispatcher, called = Dispatcher(), Called()
    dispatcher.add("c", called)
    dispatcher.arrive("c", b'{"i": 0}')
    await until(lambda: called.got == [0], "it is awaited")


async def test_a_callback_runs_in_the_loop_that_subscribed_and_not_in_one_that_has_ended() -> None:
    dispatcher = Dispatcher()
    ran_in: list[Any] = []
    dispatcher.add("c", lambda _: ran_in.append(asyncio.get_running_loop()))
    await asyncio.to_thread(dispatcher.arrive, "c", b"{}")
    await until(lambda: ran_in, "it is called")
    assert ran_in == [asyncio.get_running_loop()]

    def elsewhere() -> None:
        async def subscribe() -> None:
            dispatcher.add("d", ran_in.append)

        asyncio.run(subscribe())

    await asyncio.to_thread(elsewhere)
    dispatcher.arrive("d", b"{}")
    assert len(ran_in) == 1
    (report,) = dispatcher.stats.reports
    assert (report.kind, report.where, report.what) == (
        *("callback", "d", "the subscriber's event loop is closed"),
    )
    assert dispatcher.wanted() == {"c"}, "it is forgotten"


def test_without_a_loop_a_plain_callback_is_called_where_it_stands() -> None:
    dispatcher = Dispatcher()
    got: list[Received] = []
    dispatcher.add("c", got.append)
    dispatcher.arrive("c", b'{"i": 1}')
    assert got == [{"i": 1}]


async def test_a_subscription_that_is_awaited_is_itself_once_the_broker_has_taken_it() -> None:
    dispatcher = Dispatcher()
    subscription = dispatcher.add("c", lambda _: None)
    assert await subscription is subscription
    taken = asyncio.get_running_loop().create_future()
    subscription.set_ready(taken)
    waiting = asyncio.ensure_future(subscription)
    await asyncio.sleep(0)
    assert not waiting.done()
    taken.set_result(None)
    assert await waiting is subscription


@pytest.mark.filterwarnings("error")
async def test_what_a_plain_callback_began_is_closed_where_its_task_is_cancelled_before_it_goes_on() -> None:
    dispatcher, done = Dispatcher(), list[str]()

    async def do() -> None:
        done.append("done")

    began: list[Any] = []

    def hear(_: Received) -> object:
        began.append(do())
        return began[-1]

    dispatcher.add("c", hear)
    dispatcher.arrive("c", b'{"type": "command", "p_ess": 0.5}')
    for task in asyncio.all_tasks() - {asyncio.current_task()}:  # as the end of an event loop does
        task.cancel()
    for _ in range(3):
        await asyncio.sleep(0)
    assert done == []
    assert began[0].cr_frame is None, "closed: nothing complains that it was never awaited"
