"""A mapping translates without loss: scales, signs, units, words, shapes; it refuses what is broken."""

from __future__ import annotations

import contextlib
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heron_mqtt.errors import ConfigError, MessageError
from heron_mqtt.field.mapping import DeviceMapping, load_mapping
from heron_mqtt.field.vendor.outgoing import Outgoing, RegisterCommand
from heron_mqtt.field.vendor.vendor_state import VendorState
from heron_mqtt.messages import Setpoint, Telemetry
from support.rows import each_row

MW = st.floats(-1e3, 1e3, allow_nan=False)
SCALES = st.floats(1e-3, 1e3) | st.floats(-1e3, -1e-3)
OFFSETS = st.floats(-1e3, 1e3)
SIGNS = st.sampled_from([1, -1])
POWER_UNITS = st.sampled_from(
    [
        {"unit": "W"},
        {"unit": "kW"},
        {"unit": "MW"},
        {"unit": "percent", "rated_mw": 0.25},
        {"unit": "fraction", "rated_mw": 5.0},
        {"unit": "A", "nominal_v": 230.0, "phases": 3},
    ]
)


def mapping(
    *,
    value: dict[str, Any] | None = None,
    payload: Any = "{p}",
    field: dict[str, Any] | None = None,
    telemetry: list[dict[str, Any]] | None = None,
    **others: Any,
) -> DeviceMapping:
    """Make a mapping of one value out and one field in."""
    power = {"path": "p", "unit": "MW"} if field is None else field
    table = {
        "setpoint": {
            "values": {"p": {"quantity": "p_mw", "unit": "MW"} if value is None else value},
            "messages": [{"topic": "box/set", "payload": payload}],
        },
        "telemetry": [{"topic": "box/state", "fields": {"p_mw": power}}] if telemetry is None else telemetry,
        **others,
    }
    return load_mapping(table, agent="MG1", device="ess", source="test.toml: mapping")


def encode(box: DeviceMapping, p_mw: float, **others: Any) -> bytes:
    [message] = box.encode(Setpoint(p_mw=p_mw, lease_s=others.pop("lease_s", 30.0), **others))
    return message.payload


def decode(device: DeviceMapping, payload: bytes | Any, topic: str = "box/state") -> dict[str, Any]:
    """Return what one payload makes known.

    Raises:
        MessageError: Something in it cannot be read.
    """
    raw = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    taken = VendorState(device).take(topic, raw, 0.0)
    assert taken is not None
    if taken.problems:
        raise MessageError(taken.problems[0])
    return dict(taken.fields)


# -- numbers ---------------------------------------------------------------------------------------


@given(p_mw=MW, unit=POWER_UNITS, sign=SIGNS, scale=SCALES, offset=OFFSETS)
def test_what_is_sent_and_read_back_with_the_inverse_scale_is_what_was_meant(
    p_mw: float, unit: dict[str, Any], sign: int, scale: float, offset: float
) -> None:
    box = mapping(
        value={"quantity": "p_mw", **unit, "sign": sign, "scale": scale, "offset": offset},
        payload={"p": "{p}"},
        field={"path": "p", **unit, "sign": sign, "scale": 1 / scale, "offset": -offset / scale},
    )
    size = max(abs(p_mw), abs(offset / scale), 1.0)
    assert decode(box, encode(box, p_mw))["p_mw"] == pytest.approx(p_mw, rel=1e-9, abs=1e-9 * size)


@given(p_mw=MW, sign=SIGNS)
def test_a_box_that_counts_consumption_gets_and_gives_the_other_sign(p_mw: float, sign: int) -> None:
    box = mapping(
        value={"quantity": "p_mw", "unit": "W", "sign": sign},
        field={"path": "p", "unit": "W", "sign": sign},
    )
    watts = float(encode(box, p_mw))
    assert watts == pytest.approx(sign * p_mw * 1e6, rel=1e-12)
    assert math.copysign(1.0, decode(box, {"p": sign * 1.0})["p_mw"]) == 1.0


@given(p_mw=MW, decimals=st.integers(0, 6))
def test_rounding_towards_zero_never_asks_for_more_than_was_meant(p_mw: float, decimals: int) -> None:
    value = {"quantity": "p_mw", "unit": "kW", "decimals": decimals, "rounding": "toward_zero"}
    kilowatts = float(encode(mapping(value=value), p_mw))
    assert abs(kilowatts) <= abs(p_mw * 1e3) * (1 + 1e-14)
    assert abs(kilowatts - p_mw * 1e3) <= 10.0**-decimals * (1 + 1e-6)


@given(
    part=st.floats(-1.0, 1.0),
    largest_mw=st.floats(1e-3, 1.0),
    decimals=st.integers(0, 3),
    sign=SIGNS,
    absolute=st.booleans(),
)
def test_rounding_to_the_nearest_does_not_lead_beyond_the_nameplate(
    part: float, largest_mw: float, decimals: int, sign: int, absolute: bool
) -> None:
    value = {"quantity": "p_mw", "unit": "kW", "decimals": decimals, "sign": sign, "absolute": absolute}
    box = mapping(value=value)
    with contextlib.suppress(ConfigError):  # a magnitude alone does not tell two signs apart
        box.check_range((-largest_mw, largest_mw))
    p_mw = part * largest_mw
    sent_mw = float(encode(box, p_mw)) / 1e3
    assert abs(sent_mw) <= largest_mw * (1 + 1e-12)
    assert abs(sent_mw - (abs(p_mw) if absolute else sign * p_mw)) <= 10.0 ** (-decimals - 3) * (1 + 1e-6)


@pytest.mark.parametrize(
    "value",
    [
        {"quantity": "p_mw", "unit": "MW", "decimals": 2, "absolute": True},
        {"formula": "p_mw", "decimals": 2},
        {"formula": "abs(p_mw)", "decimals": 2},
    ],
)
def test_the_end_of_the_nameplate_on_its_side_bounds_what_is_rounded(value: dict[str, Any]) -> None:
    box = mapping(value=value)
    with contextlib.suppress(ConfigError):
        box.check_range((-0.05, 0.006))
    assert float(encode(box, 0.006)) == 0.0  # 0.01 MW would be 10 kW
    assert abs(float(encode(box, -0.047))) == 0.05


@pytest.mark.parametrize(
    ("unit", "scale", "lease_s", "word"),
    [("s", 1, 0.45, 1), ("s", 10, 6.0, 1), ("s", 10, 19.0, 1), ("min", 1, 6.0, 1), ("ms", 1, 0.45, 450)],
)
def test_a_register_for_a_lease_is_not_0(unit: str, scale: float, lease_s: float, word: int) -> None:
    box = load_mapping(
        {
            "name": "box",
            "modbus": {},
            "registers": {
                "power": {"address": 0, "type": "int16"},
                "timer": {"address": 1, "scale": scale},
            },
            "quantities": {"p_mw": {"formula": "power", "unit": "W"}},
            "setpoint": {
                "release": "zero",
                "values": {
                    "p": {"quantity": "p_mw", "unit": "W"},
                    "t": {"quantity": "lease_s", "unit": unit},
                },
                "messages": [{"registers": {"power": "{p}", "timer": "{t}"}}],
            },
        },
        agent="MG1",
        device="ess",
        source="box",
    )
    (command,) = box.encode(Setpoint(p_mw=0.001, lease_s=lease_s))
    assert isinstance(command, RegisterCommand)
    assert [w for write in command.writes for w in write.words] == [1000, word]


def test_a_timer_of_a_short_lease_is_not_switched_off_by_rounding() -> None:
    for unit, decimals, lease_s, sent in (("s", 0, 0.45, "1"), ("s", 1, 0.04, "0.1"), ("min", 0, 20.0, "1"),
                                          ("s", 0, 1.4, "1"), ("ms", 0, 0.45, "450")):  # fmt: skip
        value = {"quantity": "lease_s", "unit": unit, "decimals": decimals}
        power = {"quantity": "p_mw", "unit": "W"}
        box = load_mapping(
            {
                "name": "box",
                "telemetry": [{"topic": "box/state", "fields": {"p_mw": {"path": "p", "unit": "W"}}}],
                "setpoint": {
                    "release": "zero",
                    "values": {"p": power, "t": value},
                    "messages": [{"topic": "box/set", "payload": "{p}:{t}"}],
                },
            },
            agent="MG1",
            device="ess",
            source="box",
        )
        (command,) = box.encode(Setpoint(p_mw=0.001, lease_s=lease_s))
        assert isinstance(command, Outgoing)
        assert command.payload.decode() == f"1000:{sent}"


def by_steps(payload: str, **values: dict[str, Any]) -> DeviceMapping:
    return load_mapping(
        {
            "name": "box",
            "telemetry": [{"topic": "box/state", "fields": {"p_mw": {"path": "p", "unit": "W"}}}],
            "setpoint": {
                "release": "zero",
                "values": {"p": {"quantity": "p_mw", "unit": "W"}, **values},
                "messages": [{"topic": "box/set", "payload": payload}],
            },
        },
        agent="MG1",
        device="ess",
        source="box",
    )


def test_a_timer_that_is_made_of_the_lease_in_two_steps_is_not_switched_off_by_rounding() -> None:
    box = by_steps(
        "{p}:{t}",
        lease={"quantity": "lease_s", "unit": "s"},
        t={"formula": "lease / 60", "decimals": 0},
    )
    assert encode(box, 0.001, lease_s=10.0) == b"1000:1"


def test_a_formula_of_the_power_in_two_steps_is_bounded_by_the_nameplate() -> None:
    box = by_steps("{a}", amps={"formula": "p / 230 / 3"}, a={"formula": "amps", "decimals": 0})
    box.check_range((0.0, 0.006))
    assert encode(box, 0.006) == b"8"  # 9 A would be 6.2 kW


def test_a_formula_in_two_steps_that_makes_of_0_what_it_makes_of_a_small_power_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"values\.a: 0 is sent as small powers are, 500"):
        by_steps("{a}", a={"formula": "max(p, 500)"}).check_range((0.0, 0.006))


@given(watts=st.integers(-(10**7), 10**7), rounding=st.sampled_from(["nearest", "toward_zero"]))
def test_whole_watts_stay_the_whole_watts_they_are(watts: int, rounding: str) -> None:
    value = {"quantity": "p_mw", "unit": "W", "decimals": 0, "rounding": rounding}
    assert encode(mapping(value=value), watts / 1e6) == str(watts).encode()


@given(p_mw=MW)
def test_numbers_in_text_are_digits_without_exponent_and_without_a_negative_zero(p_mw: float) -> None:
    text = encode(mapping(), p_mw).decode()
    assert not set(text) - set("-0123456789.")
    assert text != "-0"
    assert float(text) == p_mw


def test_limits_of_the_box_hold_whatever_is_asked() -> None:
    value = {"quantity": "p_mw", "unit": "W", "min": -100.0, "max": 50.0, "decimals": 0}
    assert [encode(mapping(value=value), p) for p in (-1.0, 1.0)] == [b"-100", b"50"]


def test_the_magnitude_and_the_direction_can_go_separately() -> None:
    direction = {
        "quantity": "p_mw",
        "unit": "W",
        "words": [{"word": "charge"}, {"word": "idle", "from": -0.5}, {"word": "discharge", "from": 0.5}],
    }
    box = load_mapping(
        {
            "setpoint": {
                "values": {
                    "size": {"quantity": "p_mw", "unit": "W", "absolute": True, "decimals": 0},
                    "mode": direction,
                },
                "messages": [
                    {"topic": "box/mode", "payload": "{mode}"},
                    {
                        "topic": "box/power",
                        "payload": "{size};{mode}",
                        "when": {"mode": ["charge", "discharge"]},
                    },
                ],
            },
            "telemetry": [{"topic": "box/p", "format": "text", "fields": {"p_mw": {"unit": "W"}}}],
        },
        agent="MG1",
        device="ess",
        source="test",
    )

    def sent(p_mw: float) -> list[tuple[str, bytes]]:
        return [(m.topic, m.payload) for m in box.encode(Setpoint(p_mw=p_mw, lease_s=1.0))]

    assert sent(-0.002) == [("box/mode", b"charge"), ("box/power", b"2000;charge")]
    assert sent(0.0) == [("box/mode", b"idle")]
    assert sent(0.002) == [("box/mode", b"discharge"), ("box/power", b"2000;discharge")]


@pytest.mark.parametrize(("watts", "word"), [(-99.9, "low"), (-50.0, "mid"), (49.9, "mid"), (50.0, "high")])
def test_a_word_holds_from_its_threshold_on(watts: float, word: str) -> None:
    words = [{"word": "low"}, {"word": "mid", "from": -50.0}, {"word": "high", "from": 50.0}]
    value = {"quantity": "p_mw", "unit": "W", "decimals": 3, "words": words}
    assert encode(mapping(value=value), watts / 1e6).decode() == word


# -- payloads out ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        ("{p}", b"1.5"),
        ("P={p} kW", b"P=1.5 kW"),
        ("1,{p},0", b"1,1.5,0"),
        ('{"set": {p}}', b'{"set": 1.5}'),
        ({"set": {"value": "{p}", "unit": "kW"}}, b'{"set":{"value":1.5,"unit":"kW"}}'),
        (["{p}", "P{p}", True, None, 3], b'[1.5,"P1.5",true,null,3]'),
    ],
)
def test_a_payload_takes_the_shape_that_the_box_wants(payload: Any, expected: bytes) -> None:
    assert encode(mapping(value={"quantity": "p_mw", "unit": "kW"}, payload=payload), 0.0015) == expected


def test_reactive_power_lease_and_number_go_along() -> None:
    box = mapping(
        payload=None,
        setpoint={
            "values": {
                "p": {"quantity": "p_mw", "unit": "kW"},
                "q": {"quantity": "q_mvar", "unit": "kvar", "sign": -1},
                "t": {"quantity": "lease_s", "unit": "ms", "decimals": 0},
                "n": {"quantity": "seq"},
            },
            "messages": [
                {
                    "topic": "box/{agent}/{device}",
                    "payload": ["{p}", "{q}", "{t}", "{n}"],
                    "qos": 2,
                    "retain": True,
                }
            ],
        },
    )
    [message] = box.encode(Setpoint(p_mw=0.25, q_mvar=0.125, lease_s=1.5, seq=7))
    assert (message.topic, json.loads(message.payload)) == ("box/MG1/ess", [250.0, -125.0, 1500, 7])
    assert (message.qos, message.retain) == (2, True)
    assert box.sets == {"p_mw", "q_mvar", "lease_s", "seq"}


@pytest.mark.parametrize("p_mw", [math.nan, math.inf, -math.inf, 1e308])
def test_a_setpoint_that_is_not_finite_is_never_sent(p_mw: float) -> None:
    broken = Setpoint.model_construct(p_mw=p_mw, q_mvar=0.0, lease_s=1.0)
    with pytest.raises(MessageError, match="not a finite number; it is not sent"):
        mapping(value={"quantity": "p_mw", "unit": "W"}).encode(broken)


def test_a_safe_state_has_no_number_and_is_sent_all_the_same() -> None:
    setpoint = {
        "values": {"p": {"quantity": "p_mw", "unit": "W"}, "n": {"quantity": "seq"}},
        "messages": [{"topic": "box/set", "payload": "{p},{n}"}],
    }
    [message] = mapping(setpoint=setpoint).encode(Setpoint(p_mw=0.0, lease_s=1.0))
    assert message.payload == b"0,0"


def test_an_identifier_with_slashes_stays_one_level() -> None:
    table = {"telemetry": [{"topic": "box/{device}/p", "fields": {"p_mw": {"path": "p", "unit": "W"}}}]}
    box = load_mapping(table, agent="a/b", device="c+d", source="test")
    assert box.topic_filters() == ("box/c%2Bd/p",)


# -- payloads in -----------------------------------------------------------------------------------


def test_csv_and_text_and_json_are_read() -> None:
    box = mapping(
        telemetry=[
            {
                "topic": "box/csv",
                "format": "csv",
                "separator": ";",
                "fields": {
                    "p_mw": {"column": 1, "unit": "W"},
                    "soc": {"column": 3, "unit": "percent"},
                    "running": {"column": 0, "words": {"RUN": True, "STOP": False}},
                },
            },
            {
                "topic": "box/v",
                "format": "text",
                "fields": {"vm_pu": {"unit": "kV", "nominal_v": 20e3, "scale": 0.1}},
            },
            {"topic": "box/q", "fields": {"q_mvar": {"path": "[-1].q", "unit": "kvar", "sign": -1}}},
        ]
    )
    assert decode(box, b"RUN; -1500 ;x;55.5", "box/csv") == {"p_mw": -0.0015, "soc": 0.555, "running": True}
    assert decode(box, b"201\n", "box/v") == {"vm_pu": pytest.approx(1.005)}
    assert decode(box, [{"q": 1}, {"q": "2.5"}], "box/q") == {"q_mvar": -0.0025}


@each_row(
    ("payload", "complaint"),
    [
        (b"", None),
        (b"{", "not JSON"),
        (b'{"p": NaN}', None),
        (b'{"p": 1e999}', "not finite"),
        (b'{"p": ' + b"9" * 400 + b"}", "not finite"),
        (b'{"p": true}', "expected a number"),
        (b'{"p": "12 W"}', "p_mw: p gave '12 W', expected a number"),
        (b'{"p": "1e999"}', "not finite"),
        (b'{"p": "0x10"}', "expected a number"),
        (b'{"p": [1]}', "gave [1], expected a number"),
        (b'{"p": {"a": 1}}', "expected a number"),
        (b'{"p": null}', None),
        (b'{"other": 1}', None),
        (b"[]", None),
        (b"7", None),
        (b"\xff\xff", "not UTF-8 text"),
        (b'"' + b"a" * 70_000 + b'"', "is over 65536"),
        (b"[" * 60_000, "not JSON"),
    ],
)
def test_a_broken_payload_is_refused_with_topic_and_reason_and_a_missing_value_is_unknown(
    payload: bytes, complaint: str | None
) -> None:
    box = mapping()
    if complaint is None:
        assert decode(box, payload) == {}
    else:
        with pytest.raises(MessageError) as caught:
            decode(box, payload)
        assert str(caught.value).startswith("box/state: ")
        assert complaint in str(caught.value)
        assert len(str(caught.value)) < 400


@given(payload=st.binary(max_size=200))
def test_no_bytes_whatsoever_raise_anything_but_a_message_error(payload: bytes) -> None:
    box = mapping(
        telemetry=[
            {
                "topic": "box/state",
                "fields": {
                    "p_mw": {"path": "sum(a[].b)", "unit": "W"},
                    "soc": {"path": "max(@)", "unit": "percent"},
                },
            },
            {"topic": "box/csv", "format": "csv", "fields": {"q_mvar": {"column": 2, "unit": "var"}}},
            {"topic": "box/text", "format": "text", "fields": {"vm_pu": {"unit": "V", "nominal_v": 230.0}}},
        ],
        availability=[{"topic": "box/there", "path": "state", "online": ["1"], "offline": ["0"]}],
    )
    for topic in box.topic_filters():
        taken = VendorState(box).take(topic, payload, 0.0)
        assert taken is not None
        assert all(problem.startswith(topic) for problem in taken.problems)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from("abp"), inner, max_size=4),
    max_leaves=12,
)


@given(
    document=JSON, path=st.sampled_from(["p", "sum(a[].b)", "a[?b > `1`] | [0].p", "max_by(a, &b).p", "@.*"])
)
def test_no_document_raises_anything_but_a_message_error(document: Any, path: str) -> None:
    box = mapping(field={"path": path, "unit": "W"})
    try:
        value = decode(box, document).get("p_mw")
    except MessageError:
        return
    assert value is None or math.isfinite(value)


@pytest.mark.parametrize(
    ("quantity", "field", "raw", "complaint"),
    [
        ("soc", {"unit": "percent"}, 100.5, "outside [0, 1]"),
        ("soc", {"unit": "fraction"}, -0.01, "outside [0, 1]"),
        ("vm_pu", {"unit": "pu"}, -1, "must not be negative"),
        ("running", {}, "UP", "expected one of true, on, yes, 1, false, off, no, 0 (or what 'words' lists)"),
        ("running", {"words": {"ON": True, "OFF": False}}, "STANDBY", "expected one of ON, OFF"),
        ("ack_seq", {}, 1.5, "expected a sequence number"),
        ("ack_seq", {}, -1, "expected a sequence number"),
    ],
)
def test_a_value_that_its_quantity_cannot_have_is_refused(
    quantity: str, field: dict[str, Any], raw: Any, complaint: str
) -> None:
    fields = {"p_mw": {"path": "p", "unit": "W"}, quantity: {"path": "x", **field}}
    box = mapping(telemetry=[{"topic": "box/state", "fields": fields}])
    with pytest.raises(MessageError, match="box/state: " + quantity) as caught:
        decode(box, {"p": 1, "x": raw})
    assert complaint in str(caught.value)


def test_words_for_running_also_mean_json_booleans_and_numbers() -> None:
    fields = {
        "p_mw": {"path": "p", "unit": "W"},
        "running": {"path": "x", "words": {"1": True, "0": False, "true": True}},
    }
    box = mapping(telemetry=[{"topic": "box/state", "fields": fields}])
    assert [decode(box, {"p": 0, "x": x})["running"] for x in (1, 0, True, "1")] == [True, False, True, True]


def test_a_topic_of_another_box_is_none_of_ours() -> None:
    assert VendorState(mapping()).take("box/state/2", b"garbage", 0.0) is None


def test_a_word_of_presence_is_told_with_its_topic_and_an_unknown_one_is_a_fault() -> None:
    box = mapping(
        availability=[
            {"topic": "box/there", "path": "s", "online": ["up"], "offline": ["down"], "fault": ["F7"]}
        ]
    )
    state = VendorState(box)
    found = []
    for word in (b"up", b'{"s": "down"}', b' {"s": "F7"} ', b"off"):
        state.take("box/there", word, 0.0)
        status = state.status()
        assert status is not None
        found.append((status.state, status.reason))
    assert found == [
        ("online", None),
        ("offline", "box/there: down"),
        ("fault", "box/there: F7"),
        ("fault", "box/there: off"),
    ]


# -- the last value of each ----------------------------------------------------------------------------


def test_a_payload_without_the_word_says_nothing_unless_that_is_a_word() -> None:
    both = {"topic": "there", "path": "s", "online": ["1"], "offline": ["0"]}
    for table, wanted in ((both, "online"), ({**both, "offline": ["0", "null"]}, "offline")):
        state = VendorState(mapping(availability=[table]))
        for payload in (b'{"s": 1}', b'{"other": 2}'):
            taken = state.take("there", payload, 0.0)
            assert taken is not None
            assert taken.problems == ()
        status = state.status()
        assert status is not None
        assert status.state == wanted


def topics_of_a_box() -> DeviceMapping:
    return mapping(
        telemetry=[
            {"topic": "box/p", "format": "text", "fields": {"p_mw": {"unit": "W"}}},
            {
                "topic": "box/more",
                "fields": {
                    "soc": {"path": "soc", "unit": "percent", "null": "keep"},
                    "running": {"path": "run"},
                },
            },
        ],
        availability=[
            {"topic": "box/there", "online": ["1"], "offline": ["0"]},
            {"topic": "bridge/there", "online": ["1"], "offline": ["0"]},
        ],
    )


def test_several_topics_make_one_telemetry_with_the_age_of_each_value() -> None:
    box = VendorState(topics_of_a_box())
    assert box.missing() == ("p_mw", "running", "soc")
    box.take("box/more", b'{"soc": 50, "run": true}', 10.0)
    assert box.telemetry() is None  # no power yet
    box.take("box/p", b"-2000", 13.0)
    assert box.telemetry() == Telemetry(p_mw=-0.002, soc=0.5, running=True)
    assert box.ages_s(15.0) == {"p_mw": 2.0, "soc": 5.0, "running": 5.0}
    assert box.missing() == ()


def test_a_missing_value_is_kept_or_forgotten_as_the_mapping_says() -> None:
    box = VendorState(topics_of_a_box())
    box.take("box/p", b"1", 0.0)
    box.take("box/more", b'{"soc": 50, "run": true}', 0.0)
    box.take("box/more", b"{}", 5.0)
    assert box.telemetry() == Telemetry(p_mw=1e-6, soc=0.5)
    assert box.ages_s(5.0)["soc"] == 5.0
    box.take("box/p", b"", 6.0)
    assert box.telemetry() is None


def test_power_that_is_too_old_is_not_telemetry_any_more() -> None:
    box = VendorState(topics_of_a_box())
    box.take("box/p", b"1", 10.0)
    box.take("box/more", b'{"soc": 50, "run": true}', 0.0)
    assert box.telemetry(15.0, 5.0) == Telemetry(p_mw=1e-6, soc=0.5, running=True)
    assert box.telemetry(15.1, 5.0) is None
    box.take("box/p", b"", 15.2)
    box.take("box/p", b"1", 15.3, retained=True)
    assert box.telemetry(15.4, 5.0) is None
    assert box.telemetry() == Telemetry(p_mw=1e-6, soc=0.5, running=True)


def test_a_broken_payload_changes_nothing() -> None:
    box = VendorState(topics_of_a_box())
    box.take("box/p", b"1", 0.0)
    taken = box.take("box/p", b"oops", 1.0)
    assert taken is not None
    assert "gave 'oops', expected a number" in taken.problems[0]
    assert box.telemetry() == Telemetry(p_mw=1e-6)
    assert box.ages_s(1.0) == {"p_mw": 1.0}


def test_a_retained_value_has_no_age_and_gives_way_to_a_live_one() -> None:
    box = VendorState(topics_of_a_box())
    box.take("box/p", b"1", 0.0, retained=True)
    assert box.telemetry() == Telemetry(p_mw=1e-6)
    assert box.ages_s(1.0) == {"p_mw": math.inf}
    box.take("box/p", b"2", 2.0)
    box.take("box/p", b"1", 3.0, retained=True)  # sent again after a reconnection
    assert box.telemetry() == Telemetry(p_mw=2e-6)
    assert box.ages_s(3.0) == {"p_mw": 1.0}


def test_the_box_is_there_only_if_everything_that_leads_to_it_is() -> None:
    box = VendorState(topics_of_a_box())
    assert box.status() is None
    states = []
    for topic, word in [
        ("box/there", b"1"),
        ("bridge/there", b"0"),
        ("box/there", b"1"),
        ("bridge/there", b"1"),
    ]:
        box.take(topic, word, 0.0)
        status = box.status()
        assert status is not None
        states.append(status.state)
    assert states == ["online", "offline", "offline", "online"]


def test_topics_of_others_leave_a_box_as_it_is() -> None:
    box = VendorState(topics_of_a_box())
    assert box.take("elsewhere", b"1", 0.0) is None
    assert box.telemetry() is None


@each_row(
    ("limits", "power_mw", "beyond"),
    [
        ({"max": 1000.0}, 0.001, None),
        ({"max": 1000.0}, 0.0011, "1100 is above max = 1000"),
        ({"max": -1.0}, -0.001, None),
        ({"max": -1.0}, 0.000001, "1 is above max = -1"),
        ({"max": -1.0}, 0.0, None),
        ({"min": -1000.0}, -0.001, None),
        ({"min": -1000.0}, -0.0011, "-1100 is below min = -1000"),
        ({"min": 500.0}, 0.0005, None),
        ({"min": 500.0}, 0.0004, "400 would be raised to min = 500"),
        ({"min": 500.0}, 0.0, None),
        ({"min": 500.0}, -0.0004, "-400 is below min = 500"),
        ({"min": 0.0}, -0.0, None),
        ({"min": 0.0}, -0.0004, "-400 is below min = 0"),
    ],
)
def test_a_power_that_limits_would_make_another_one_is_named(
    limits: dict[str, float], power_mw: float, beyond: str | None
) -> None:
    messages = [
        {"topic": "box/set", "payload": "{p}"},
        {"topic": "box/off", "payload": "1", "when": "p_mw == 0"},
    ]
    values = {"p": {"quantity": "p_mw", "unit": "W", **limits}}
    box = mapping(setpoint={"values": values, "messages": messages})
    found = box.beyond(Setpoint(p_mw=power_mw, lease_s=30.0))
    assert [f.split(": ", maxsplit=1)[-1] for f in found] == ([] if beyond is None else [beyond])


W = {"quantity": "p_mw", "unit": "W"}
SET = {"topic": "box/set", "payload": "{p}"}
NO_ZERO = "0 MW cannot be sent: setpoint.values.p makes of it what it makes of "
NOTHING = "setpoint.messages: no message is sent for 0 MW: the 'when' of each leaves it out"
NO_RELEASE = "setpoint.release: no message hands the device back: the 'when' of each leaves it out"


@each_row(
    ("value", "messages", "release", "problem"),
    [
        ({"min": 500.0}, [SET], "zero", f"setpoint.messages: {NO_ZERO}0.0005 MW"),
        ({"max": -1.0}, [SET], "zero", f"setpoint.messages: {NO_ZERO}-1e-06 MW"),
        ({"absolute": True, "min": 6.0}, [SET], "zero", f"setpoint.messages: {NO_ZERO}6e-06 MW"),
        ({"sign": -1, "min": 500.0}, [SET], "zero", f"setpoint.messages: {NO_ZERO}-0.0005 MW"),
        ({"table": [(1000.0, 50.0), (2000.0, 90.0)]}, [SET], "zero", f"setpoint.messages: {NO_ZERO}0.001 MW"),
        ({}, [{**SET, "when": "p > 0"}], "zero", NOTHING),
        ({}, [SET], [{"topic": "box/auto", "payload": "1", "when": "p > 0"}], NO_RELEASE),
        # what says 0 otherwise is right
        ({"offset": 300.0, "min": 0.0}, [SET], "zero", None),
        ({"table": [(-1000.0, 0.0), (1000.0, 100.0)]}, [SET], "zero", None),
        ({"min": 6.0}, [SET, {"topic": "box/off", "payload": "1", "when": "p_mw == 0"}], "zero", None),
        (
            {"min": 6.0},
            [{**SET, "when": "p_mw > 0"}, {**SET, "payload": "0", "when": "p_mw <= 0"}],
            "zero",
            None,
        ),
    ],
)
def test_a_mapping_that_cannot_say_0_or_may_hand_nothing_back_is_refused(
    value: dict[str, Any], messages: list[Any], release: Any, problem: str | None
) -> None:
    def load() -> DeviceMapping:
        return mapping(setpoint={"values": {"p": {**W, **value}}, "messages": messages, "release": release})

    if problem is None:
        assert load().encode(Setpoint(p_mw=0.0, lease_s=1.0))
        return
    with pytest.raises(ConfigError) as refused:
        load()
    assert any(problem in line for line in refused.value.problems), refused.value.problems


def test_a_power_that_would_be_sent_as_one_of_the_other_sign_is_not_sent() -> None:
    off = {"topic": "box/off", "payload": "1", "when": "p_mw == 0"}
    box = mapping(setpoint={"values": {"p": {**W, "min": 500.0}}, "messages": [SET, off]})
    assert encode(box, 0.0001) == b"500", "raised, and of its sign"
    with pytest.raises(MessageError, match=r"-0.002 MW cannot be sent: .* of 0.0005 MW"):
        box.encode(Setpoint(p_mw=-0.002, lease_s=1.0))


CHARGE = {"quantity": "p_mw", "unit": "W", "sign": -1, "min": 0.0, "max": 3000.0}
DISCHARGE = {"quantity": "p_mw", "unit": "W", "min": 0.0, "max": 2000.0}


@pytest.mark.parametrize(
    ("power_mw", "beyond"),
    [
        (0.002, []),
        (0.0021, ["setpoint.values.discharge: 2100 is above max = 2000"]),
        (-0.003, []),
        (-0.0031, ["setpoint.values.charge: 3100 is above max = 3000"]),
    ],
)
def test_of_charging_and_discharging_as_two_numbers_only_that_of_the_sign_is_looked_at(
    power_mw: float, beyond: list[str]
) -> None:
    table = {
        "setpoint": {
            "values": {"charge": CHARGE, "discharge": DISCHARGE},
            "messages": [{"topic": "box/set", "payload": "{charge} {discharge}"}],
        },
        "telemetry": [{"topic": "box/state", "fields": {"p_mw": {"path": "p", "unit": "MW"}}}],
    }
    box = load_mapping(table, agent="MG1", device="ess", source="test.toml: mapping")
    assert box.beyond(Setpoint(p_mw=power_mw, lease_s=30.0)) == beyond


def test_without_messages_of_a_release_the_device_is_told_zero_for_a_second() -> None:
    values = {"p": {"quantity": "p_mw", "unit": "W"}, "t": {"quantity": "lease_s", "unit": "s"}}
    messages = [{"topic": "box/set", "payload": "{p} {t}"}]
    box = load_mapping(
        {
            "setpoint": {"values": values, "messages": messages},
            "telemetry": [{"topic": "box/state", "fields": {"p_mw": {"path": "p", "unit": "W"}}}],
        },
        agent="MG1",
        device="ess",
        source="test.toml: mapping",
    )
    assert [message.payload for message in box.release()] == [b"0 1"]
