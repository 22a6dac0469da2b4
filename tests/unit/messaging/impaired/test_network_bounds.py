"""The network: what it may hold, how it ends, and what it remembers."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from heron_mqtt.errors import BrokerClosed, BrokerOverflow
from heron_mqtt.messaging.impaired.event_log import OTHERS, ImpairmentLog
from heron_mqtt.messaging.impaired.network import Network
from heron_mqtt.messaging.impairment import ImpairmentTable
from support.impaired_wire import Wire, rules


def test_of_too_many_messages_the_oldest_is_dropped_counted_and_told() -> None:
    wire = Wire(max_in_flight=3, **rules(delay_s=1.0))
    for i in range(5):
        wire.send(i, "a" if i == 0 else "c")
    assert len(wire.network.in_flight) == 3
    assert [(i, type(error)) for i, error in wire.gone] == [(0, BrokerOverflow), (1, BrokerOverflow)]
    assert wire.overflowed == ["a", "c"]
    wire.timers.advance(1.0)
    assert wire.numbers() == [2, 3, 4]
    assert wire.record.totals().overflowed == 2


def test_an_overflow_leaves_the_order_and_the_pace_of_the_others_alone() -> None:
    wire = Wire(max_in_flight=1, rules=[{"pattern": "slow", "delay_s": 10.0}, {"delay_s": 1.0}])
    wire.send(0, "slow")
    wire.send(1)
    wire.timers.advance(1.0)
    wire.send(2, "slow")
    wire.timers.advance(10.0)
    assert (wire.out, wire.times) == ([("c", 1), ("slow", 2)], [1.0, 11.0])


def test_at_the_end_what_was_published_goes_on_in_order_and_the_rest_is_abandoned() -> None:
    wire = Wire(
        rules=[{"delay_s": 1.0, "jitter": "uniform", "jitter_s": 1.0}],
        partitions=[{"pattern": "cut", "begin_s": 0.0, "end_s": 100.0, "hold": True}],
    )
    for i in range(5):
        wire.send(i)
    wire.send(10, stream="in")
    wire.send(11, stream="retained")
    wire.send(12, "cut")
    wire.network.close(deliver=True)
    assert wire.numbers() == [0, 1, 2, 3, 4]
    assert sorted((i, type(error)) for i, error in wire.gone) == [(i, BrokerClosed) for i in (10, 11, 12)]
    assert wire.record.totals().abandoned == 3
    assert wire.timers.pending == 0
    assert wire.network.in_flight == {}


def test_retained_messages_have_fates_of_their_own_and_keep_the_order_of_the_channel() -> None:
    loss = rules(loss=0.3, delay_s=0.1)
    live_only, both = Wire(**loss), Wire(**loss)
    for i in range(50):
        live_only.send(i, stream="in")
        both.send(1000 + i, stream="retained")
        both.send(i, stream="in")
    live_only.timers.advance(1.0)
    both.timers.advance(1.0)
    assert [i for i in both.numbers() if i < 1000] == live_only.numbers()
    assert both.record.of("retained", "c").lost > 0


def test_the_record_tells_which_message_it_was() -> None:
    wire = Wire(**rules(delay_s=0.25))
    wire.timers.advance(2.0)
    wire.send(0, "p2p/MG1/MG2", sender="MG1", seq=7, step=3)
    wire.send(1, "p2p/MG1/MG2", sender=5, seq="x")
    first, second = wire.record.events
    assert (first.at_s, first.stream, first.channel, first.n) == (2.0, "out", "p2p/MG1/MG2", 0)
    assert (first.what, first.delay_s, first.sender, first.seq, first.step) == ("delayed", 0.25, "MG1", 7, 3)
    assert (second.n, second.sender, second.seq, second.step) == (1, None, None, None)


def test_delays_are_summed_by_channel() -> None:
    wire = Wire(rules=[{"pattern": "a", "delay_s": 0.5}, {"pattern": "b", "delay_s": 2.0}])
    for channel in "aab":
        wire.send(0, channel)
    wire.timers.advance(5.0)
    a, total = wire.record.of("out", "a"), wire.record.totals()
    assert (a.passed, a.delayed, a.delay_sum_s, a.delay_max_s) == (2, 2, 1.0, 0.5)
    assert (total.passed, total.delay_sum_s, total.delay_max_s) == (3, 3.0, 2.0)
    assert wire.record.totals("in").passed == 0
    assert wire.record.as_dict()["channels"]["out"]["b"]["delay_max_s"] == 2.0


def test_the_record_is_bounded_in_events_and_in_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("heron_mqtt.messaging.impaired.event_log.MAX_CHANNELS", 3)
    wire = Wire(**rules(loss=1.0))
    wire.record = ImpairmentLog(max_events=4)
    wire.network = Network(ImpairmentTable.model_validate(rules(loss=1.0)), 1, wire.record, lambda _: None)
    wire.network.start(wire.timers)
    for i in range(10):
        wire.send(i, f"c{i}")
    assert [event.channel for event in wire.record.events] == ["c6", "c7", "c8", "c9"]
    assert wire.record.of("out", OTHERS).lost == 7
    assert wire.record.totals().lost == 10


def test_the_events_are_written_to_a_csv_file(tmp_path: Path) -> None:
    wire = Wire(**rules(loss=1.0))
    wire.send(0, "c", sender="MG1", seq=4)
    wire.record.write_csv(tmp_path / "events.csv")
    with (tmp_path / "events.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["stream"], row["channel"], row["what"], row["sender"], row["seq"], row["step"]) == (
        "out",
        "c",
        "lost",
        "MG1",
        "4",
        "",
    )
