"""SetpointWriter: a setpoint and a release become messages, by what the mapping says."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from heron_mqtt.errors import ConfigError, MessageError
from heron_mqtt.field.vendor import setpoint_message
from heron_mqtt.field.vendor.built_ins import BuiltIns
from heron_mqtt.field.vendor.outgoing import Outgoing
from heron_mqtt.field.vendor.payload_filling import MessageContext, RenderedValue, filled_text, payload_bytes
from heron_mqtt.field.vendor.problems import Problems
from heron_mqtt.field.vendor.setpoint_writer import SetpointWriter
from heron_mqtt.field.vendor.tables import SetpointTable
from heron_mqtt.messages import Setpoint

WORDS = [{"word": "charge"}, {"word": "rest", "from": -100.0}, {"word": "give", "from": 100.0}]


P = {"quantity": "p_mw", "unit": "W", "decimals": 0}
SETPOINT = Setpoint(p_mw=0.005, lease_s=30.0, seq=7)


def writer(
    values: dict[str, Any], *payloads: Any, inputs: tuple[str, ...] = (), **table: Any
) -> tuple[SetpointWriter, list[str]]:
    """Return what sends payloads (each a message or only its payload), and what is wrong with it."""
    messages = [m if isinstance(m, dict) and "payload" in m else {"payload": m} for m in payloads]
    made = {"values": values, "messages": [{"topic": "set", **m} for m in messages], **table}
    problems = Problems("test")
    found = SetpointWriter(SetpointTable.model_validate(made), inputs, problems)
    try:
        problems.raise_if_any()
    except ConfigError as exc:
        return found, [line.removeprefix("test: ") for line in exc.problems]
    return found, []


def context(**inputs: Any) -> MessageContext:
    return MessageContext(BuiltIns(lambda: 1_767_225_600.0, lambda: "id" * 16), inputs, {"level": "7"})


def texts(made: SetpointWriter, setpoint: Setpoint = SETPOINT, **inputs: Any) -> list[str]:
    return [
        m.payload.decode() for m in made.encode(setpoint, context(**inputs))[0] if isinstance(m, Outgoing)
    ]


N, T = {"quantity": "seq"}, {"quantity": "lease_s", "unit": "s"}
UNUSED = "no payload and no 'when' uses it"


@pytest.mark.parametrize(
    ("values", "payload", "table", "problems"),
    [
        ({"p": P, "n": N}, "{p}", {}, [f"setpoint.values.n: {UNUSED}"]),
        ({"p": P, "n": N}, "{p}", {"answers": [{"topic": "a", "id": {"path": "i", "of": "n"}}]}, []),
        ({"p": P, "n": N}, "{p}", {"answers": [{"topic": "a/{n}"}]}, []),
        ({"p": P, "t": T}, "{t}", {}, [f"setpoint.values.p: {UNUSED}", "setpoint: no message carries p_mw"]),
        ({"p": P, "f": {"formula": "p * 2"}}, "{f}", {}, []),
        ({"p": P, "f": {"formula": "p * 2"}, "g": {"formula": "f + 1"}}, "{g}", {}, []),
        ({"f": {"formula": "p_mw * 1e6"}}, "{f}", {}, []),
        ({"p": P, "f": {"formula": "1 > 0"}}, {"payload": "{p}", "when": "f"}, {}, []),
        ({"p": P}, {"payload": "on", "when": "p >= 0"}, {}, []),
        (
            {"p": P},
            "on",
            {"release": [{"topic": "r", "payload": "{p}"}]},
            [f"setpoint.values.p: {UNUSED}", "setpoint: no message carries p_mw"],
        ),
    ],
)
def test_every_value_is_used_and_p_mw_is_told(
    values: dict[str, Any], payload: Any, table: dict[str, Any], problems: list[str]
) -> None:
    assert writer(values, payload, **table)[1] == problems


@pytest.mark.parametrize(
    ("values", "payload", "quantities"),
    [
        ({"p": P}, "{p}", {"p_mw"}),
        ({"p": P, "f": {"formula": "p + q_mvar * lease_s + a"}}, "{f}", {"p_mw", "q_mvar", "lease_s"}),
        ({"p": P, "n": N, "u": {"quantity": "uid"}}, "{p}{n}{u}", {"p_mw", "seq", "uid"}),
    ],
)
def test_what_a_setpoint_tells_is_known_through_formulas_too(
    values: dict[str, Any], payload: str, quantities: set[str]
) -> None:
    made, problems = writer(values, payload, inputs=("a",))
    assert (made.quantities, problems, made.values.names) == (quantities, [], tuple(values))
    assert made.values.formula_names == ({"p", "q_mvar", "lease_s", "a"} if "f" in values else set())


def bounds_power(values: dict[str, Any], *payloads: Any) -> bool:
    made, _ = writer(values, *payloads)
    return made.values.bounds_power(made.made_of)


@pytest.mark.parametrize(
    ("bounds", "is_bounded"),
    [
        ({}, False),
        ({"max": 1.0}, False),
        ({"min": -1.0}, False),
        ({"min": -1.0, "max": 1.0}, True),
        ({"max": 1.0, "absolute": True}, True),
        ({"absolute": True}, False),
        ({"words": WORDS}, True),
    ],
)
def test_a_power_is_bounded_by_both_ends_of_every_number(bounds: dict[str, Any], is_bounded: bool) -> None:
    asked, wide = {**P, **bounds}, {**P, "min": -9.0, "max": 9.0}
    others = {"q": {"quantity": "q_mvar", "unit": "var"}, "f": {"formula": "p_mw"}}
    for values in ({"p": asked}, {"p": asked, "w": wide}, {"w": wide, "p": asked}):
        assert bounds_power({**values, **others}, "{p}{w}") is is_bounded
    assert bounds_power(others, "{f}{q}")


def test_what_a_power_comes_to_and_what_is_beyond_is_told_of_numbers_that_are_a_power_alone() -> None:
    values = {
        "p": {**P, "max": 4000.0},
        "w": {"quantity": "p_mw", "unit": "W", "words": WORDS},
        "q": {"quantity": "q_mvar", "unit": "var", "max": 0.0},
        "f": {"formula": "p_mw", "max": 0.0},
    }
    made, problems = writer(values, "{p}{w}{q}{f}")
    assert problems == []
    assert made.values.power_numbers(0.003, made.made_of) == {"p": 3000.0}
    assert made.values.beyond(SETPOINT, made.made_of) == ["setpoint.values.p: 5000 is above max = 4000"]
    assert made.values.beyond(Setpoint(p_mw=0.004, lease_s=1.0), made.made_of) == []


def test_a_power_that_only_decides_what_is_sent_is_no_power_that_the_device_is_told() -> None:
    way = {"quantity": "p_mw", "unit": "W", "words": WORDS}
    forced = {"payload": "forced", "when": "p > -9e9"}
    for values in ({"p": P, "way": way}, {"way": way, "p": P}):
        made, problems = writer(values, forced, {"payload": "{way}", "pause_s": 2.0})
        assert problems == []
        assert stop_texts(made) == [("rest", 0.0), ("forced", 0.0), ("rest", 2.0)]
        assert made.values.power_numbers(0.003, made.made_of) == {}
        assert made.values.bounds_power(made.made_of), "words are all that it is told"
    made, problems = writer({"p": {**P, "max": 4000.0}, "w": P}, forced, "{w}")
    assert problems == []
    assert made.values.power_numbers(0.003, made.made_of) == {"w": 3000.0}
    assert made.values.beyond(SETPOINT, made.made_of) == []
    assert not made.values.bounds_power(made.made_of)
    made, _ = writer({"p": {**P, "max": 4000.0}, "f": {"formula": "p * 2"}}, "{f}")
    assert made.values.beyond(SETPOINT, made.made_of), "what is sent is made of it"


def test_what_a_setpoint_does_not_say_is_0_in_formulas() -> None:
    made, _ = writer(
        {"p": P, "f": {"formula": "q_mvar + seq + 100"}}, "{p} {f}", {"payload": "q", "when": "q_mvar == 0"}
    )
    assert texts(made, Setpoint(p_mw=0.0, lease_s=1.0)) == ["0 100", "q"]
    assert texts(made, Setpoint(p_mw=0.0, q_mvar=2.0, lease_s=1.0, seq=7)) == ["0 109"]


def test_an_input_of_the_device_that_is_not_known_yet_is_named_and_its_power_is_not_the_wanted_one() -> None:
    made, _ = writer({"f": {"formula": "p_mw * 1e6 + a"}}, "{f}", inputs=("a", "p_mw"))
    with pytest.raises(MessageError) as refused:
        made.encode(SETPOINT, context())
    assert str(refused.value) == "setpoint.values.f: a of the device is not known yet"
    assert texts(made, a=1.0, p_mw=99.0) == ["5001"]


def test_a_release_is_filled_with_a_setpoint_of_zero_for_a_second() -> None:
    values = {
        "p": P,
        "q": {"quantity": "q_mvar", "unit": "var", "decimals": 0},
        "t": T,
        "f": {"formula": "p_mw + a"},
    }
    plain, holding = {"topic": "r", "payload": "auto"}, {"topic": "r", "payload": "{p} {q} {t}"}

    def released(*messages: dict[str, Any], **inputs: Any) -> list[str]:
        made, problems = writer(values, "{p}{q}{t}{f}", inputs=("a",), release=list(messages))
        assert (problems, made.has_release) == ([], True)
        return [m.payload.decode() for m in made.release(context(**inputs))[0] if isinstance(m, Outgoing)]

    assert released(plain) == ["auto"], "it needs no value: none has to be known"
    assert released(plain, holding, a=1.0) == ["auto", "0 0 1"]
    with pytest.raises(MessageError, match="a of the device is not known yet"):
        released(plain, holding)
    assert not writer(values, "{p}{q}{t}{f}", inputs=("a",))[0].has_release


def test_a_message_is_sent_where_its_words_and_its_formula_say_so() -> None:
    values = {"p": P, "w": {"quantity": "p_mw", "unit": "W", "words": WORDS}, "b": {"formula": "p > 0"}}
    made, problems = writer(
        values,
        {"payload": "give {p}", "when": {"w": ["give"], "b": [True]}},
        {"payload": "not 1", "when": {"b": [1]}},  # true is no number
        {"payload": "rest", "when": {"w": ["rest", "charge"]}},
        {"payload": "big", "when": "p > 4999"},
    )
    assert problems == []
    assert texts(made) == ["give 5000", "big"]
    assert texts(made, Setpoint(p_mw=-0.001, lease_s=1.0)) == ["rest"]
    _, problems = writer(values, {"payload": "{p}", "when": {"w": ["gives", "rest"], "p": [1], "b": [1]}})
    assert problems == [
        "setpoint.messages[0].when.w: 'gives' is not one of its words: 'charge', 'rest', 'give'",
        "setpoint.messages[0].when.p: expected a value of the setpoint that has words or a formula",
    ]


def test_a_level_of_a_topic_that_was_not_learned_yet_is_named() -> None:
    made, _ = writer({"p": P}, {"topic": "{level}/{p}/set", "payload": ["{p}", "{level}", "{counter}", 1]})
    [message], values = made.encode(SETPOINT, context())
    assert message == Outgoing("7/5000/set", b'[5000,"7",1,1]')
    assert values == {"p": RenderedValue(5000, "5000")}
    made, _ = writer({"p": P}, {"topic": "{other}/set", "payload": "{p}"})
    with pytest.raises(MessageError) as refused:
        made.encode(SETPOINT, context())
    assert str(refused.value) == "{other} is not known yet: no message was received on a topic with it"


def test_what_a_message_means_leaves_out_what_differs_in_each() -> None:
    made, _ = writer(
        {"p": P, "n": N, "t": T},
        {"payload": "{t} {n} {p} {level}", "qos": 2, "retain": True, "pause_s": 0.5},
        "{p}",
    )
    first, second = made.encode(SETPOINT, context())[0]
    assert (first.meaning, second.meaning) == ((0, 5000), (1, 5000))
    assert first == Outgoing("set", b"30 7 5000 7", 2, True, 0.5)


def test_a_payload_is_packed_or_says_why_not() -> None:
    values = {"p": RenderedValue(-5, "-5"), "w": RenderedValue("on", "on")}
    names = BuiltIns(lambda: 0.0, lambda: "x")
    assert payload_bytes(["{p}", "{w}", 1.5], values, names, "<h2sf") == struct.pack("<h2sf", -5, b"on", 1.5)
    with pytest.raises(MessageError, match=r"^\['on', 1\] cannot be packed as <hh: "):
        payload_bytes(["{w}", 1], values, names, "<hh")
    assert payload_bytes({"a": ["{p}", "x{p}", "{now}", "{unknown}"]}, values, names) == (
        b'{"a":[-5,"x-5",0,"{unknown}"]}'
    )


def test_names_and_forms_in_a_text_are_filled_in_and_unknown_ones_stay() -> None:
    names = BuiltIns(lambda: 1.5, lambda: "abcd", start=299)
    names.begin_message()
    filled = filled_text("{a}-{b}-{now:unix_ms}-{counter:256}-{uid:2}", {"a": RenderedValue(1, "one")}, names)
    assert filled == "one-{b}-1500-44-ab"


def test_without_protobuf_metrics_are_refused_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise ConfigError("install it")

    message = {"payload": {"Set": "{p}"}, "metrics": {"Set": "Int32"}}
    assert writer({"p": P}, message)[1] == []
    monkeypatch.setattr(setpoint_message, "require", missing)
    assert writer({"p": P}, message)[1] == ["setpoint.messages[0].metrics: install it"]


def test_a_formula_is_a_number_or_a_word_and_takes_no_unit() -> None:
    keys = {"unit": "W", "nominal_v": 230.0, "phases": 1, "rated_mw": 1.0}
    assert writer({"f": {"formula": "p_mw", **keys}}, "{f}")[1] == [
        f"setpoint.values.f.{key}: not with a formula: its result is sent as it is" for key in keys
    ]
    made, _ = writer({"f": {"formula": "p_mw * 10", "scale": 2.0, "offset": 1.0}}, "{f}")
    assert texts(made) == ["1.1"]
    made, _ = writer({"p": P, "f": {"formula": "'on' if p > 0 else false"}}, ["{f}", "{f}!"])
    assert texts(made) == ['["on","on!"]']
    assert texts(made, Setpoint(p_mw=0.0, lease_s=1.0)) == ['[false,"false!"]']


def stop_texts(made: SetpointWriter, **inputs: Any) -> list[tuple[str, float]]:
    return [
        (m.payload.decode(), m.pause_s)
        for m in made.stop(context(**inputs))[0].messages
        if isinstance(m, Outgoing)
    ]


def test_a_stop_sends_the_power_first_and_without_a_pause_and_then_the_whole() -> None:
    way = {"quantity": "p_mw", "unit": "W", "words": WORDS}
    made, found = writer({"p": P, "way": way}, "forced {way}", {"payload": "{p}", "pause_s": 3.0})
    assert not found
    assert stop_texts(made) == [("0", 0.0), ("forced rest", 0.0), ("0", 3.0)]
    made, _ = writer(
        {"p": P, "way": way}, {"payload": "{p}", "pause_s": 3.0}, {"payload": "{way}", "pause_s": 1.0}
    )
    assert stop_texts(made) == [("0", 0.0), ("rest", 1.0)], "the order of the mapping begins with it"
    made, _ = writer({"way": way}, "mode", {"payload": "{way}", "pause_s": 2.0})
    assert stop_texts(made) == [("rest", 0.0), ("mode", 0.0), ("rest", 2.0)], "a word alone is the power"
    made, found = writer({"p": P, "way": way, "mode": {"formula": "way"}}, "{mode}", "{p}")
    assert not found
    assert stop_texts(made) == [("0", 0.0), ("rest", 0.0), ("0", 0.0)], "a word of a word is a word"


def test_of_a_stop_that_cannot_be_computed_what_carries_power_can_be_sent_alone() -> None:
    values = {"p": P, "a": {"formula": "p / volts", "decimals": 1}}
    made, found = writer(values, "forced", "amps {a}", "watts {p}", inputs=("volts",))
    assert not found
    assert made.stop_needs == {"a": ["volts"]}
    for inputs in ({"volts": 0.0}, {}):
        with pytest.raises(MessageError):
            made.stop(context(**inputs))
        zero, known = made.stop_in_part(context(**inputs))
        assert [m.payload for m in zero.messages if isinstance(m, Outgoing)] == [b"watts 0"]
        assert known.keys() == {"p"}
    alone, _ = writer({"p": P, "a": values["a"]}, "amps {a}", inputs=("volts",))
    with pytest.raises(MessageError, match="no part of a setpoint of 0"):
        alone.stop_in_part(context())


def test_a_release_that_is_no_more_than_a_setpoint_of_0_is_one() -> None:
    for release, is_zero in (
        ("zero", True),
        (None, False),
        ([{"topic": "set", "payload": "w 0"}], True),
        ([{"topic": "set", "payload": "auto"}], False),
        ([{"topic": "set", "payload": "w 0"}, {"topic": "set", "payload": "auto"}], False),
    ):
        made, _ = writer({"p": P}, "forced", "w {p}", release=release)
        assert made.releases_to_zero(context()) is is_zero
