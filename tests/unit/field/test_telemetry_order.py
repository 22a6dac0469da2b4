"""Which telemetry of a device is news: what is late, repeated or replayed counts nowhere."""

from __future__ import annotations

from typing import Any

from heron_mqtt.app.live_view import LiveView
from heron_mqtt.app.operator_client.environments import DeviceSeen
from heron_mqtt.app.operator_client.observer import Heard
from heron_mqtt.field.telemetry_order import REMEMBERED_BOOTS, TelemetryOrder
from support.field_rig import Rig


def test_within_a_life_only_a_higher_number_is_news() -> None:
    order = TelemetryOrder()
    assert [order.take("b1", seq) for seq in (7, 7, 6, 8, 20, 19)] == [True, False, False, True, True, False]
    assert order.newest == ("b1", 20)


def test_what_has_no_number_is_news_until_one_was_heard() -> None:
    order = TelemetryOrder()
    assert order.take(None, None)
    assert order.take("b1", None)
    assert order.newest is None
    assert order.take("b1", 0)
    assert [order.take(*ident) for ident in ((None, None), ("b1", None), (None, 5))] == [False] * 3
    assert order.newest == ("b1", 0)


def test_a_new_life_counts_afresh_and_an_earlier_one_never_again() -> None:
    order = TelemetryOrder()
    order.take("b1", 90)
    assert order.begin("b2")
    assert not order.begin("b2")
    assert not order.begin(None)
    assert [order.is_past(boot) for boot in (None, "b1", "b2", "b3")] == [False, True, False, False]
    assert not order.take("b1", 91)
    assert order.take("b2", 0)
    assert order.take("b3", 0), "it may have started again, and its birth be on its way"
    assert not order.take("b2", 1)
    assert order.newest == ("b3", 0)


def test_an_earlier_life_that_holds_the_name_goes_on_where_it_was() -> None:
    order = TelemetryOrder()
    assert not order.go_back("b1")
    order.take("b1", 90)
    order.take("b2", 5)
    assert not order.go_back("b0")
    assert not order.go_back("b2")
    assert order.go_back("b1")
    assert (order.boot, order.newest) == ("b1", ("b1", 90))
    assert not order.take("b1", 90), "what it has said before is no news"
    assert not order.take("b2", 6)
    assert order.take("b1", 91)
    assert order.go_back("b2")
    assert order.newest == ("b2", 5)


def test_as_many_boots_as_are_remembered_are_known_and_older_ones_are_not() -> None:
    order = TelemetryOrder()
    for number in range(REMEMBERED_BOOTS):
        order.begin(f"b{number}")
    assert order.is_past("b0")
    order.begin("new")
    assert not order.is_past("b0")
    assert order.is_past("b1")


CHANNEL = "devices/MG1/ess/telemetry"
NEWER = [  # boot and seq of a sequence of telemetry, and whether it counts
    (("b1", 4), True),
    (("b1", 4), False),
    (("b1", 3), False),
    ((None, None), False),
    (("b1", 5), True),
]


async def test_gateway_command_and_page_agree_on_what_is_news() -> None:
    """Each takes the same telemetry: whoever takes a recording shows, or acts on, what is over."""
    rig = await Rig().open()
    command = DeviceSeen()
    page = LiveView("mqtt://127.0.0.1:1")
    for number, ((boot, seq), counts) in enumerate(NEWER):
        p_mw = 0.001 * (1 + number)
        fields: dict[str, Any] = {"type": "telemetry", "p_mw": p_mw, "boot": boot, "seq": seq}
        said = {name: value for name, value in fields.items() if value is not None}
        rig.broker.publish(CHANNEL, said)
        command.take_telemetry(said, float(number))
        page._take(Heard("lab", CHANNEL, said, None, False, float(number)))
        shown = page.snapshot()["environments"][0]["devices"]["MG1/ess"]["p_mw"]
        by_gateway = rig.link.telemetry
        taken = [by_gateway is not None and by_gateway.p_mw == p_mw]
        taken += [command.telemetry == said, shown == p_mw]
        assert taken == [counts] * 3, f"telemetry {number}, gateway, command and page"
