"""Whether a mapping tells the powers of a device, and 0, apart."""

from __future__ import annotations

import re
import tomllib
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heron_mqtt.errors import ConfigError
from heron_mqtt.field.vendor.mapping import load_mapping
from heron_mqtt.field.vendor.told_apart import powers_to_try

BOTH, DISCHARGES, CHARGES = (-0.005, 0.005), (0.0, 0.005), (-0.005, 0.0)
READ = """
name = "box"
[[telemetry]]
topic = "b/s"
fields.p_mw = { path = "p", unit = "W" }
[setpoint]
release = "zero"
[setpoint.values.p]
quantity = "p_mw"
unit = "W"
"""
VALUE = '[[setpoint.messages]]\ntopic = "b/c"\npayload = { v = "{p}" }\n'
MODE_AND_SIZE = """
[setpoint.values.a]
formula = "abs(p)"
[setpoint.values.m]
formula = "'charge' if p < LIMIT else 'discharge'"
[[setpoint.messages]]
topic = "b/c"
payload = { mode = "{m}", v = "{a}" }
"""
SIZE_BY_SIDE = """
[setpoint.values.m]
formula = "'charge' if p < 0 else ('discharge' if p > 0 else ZERO)"
[[setpoint.messages]]
topic = "b/mode"
payload = "{m}"
[[setpoint.messages]]
topic = DISCHARGE
payload = { discharge = "{p}" }
when = "p > 0"
[[setpoint.messages]]
topic = CHARGE
payload = { charge = "{p}" }
when = "p < 0"
"""


def refusal(setpoint: str, range_mw: tuple[float, float] = BOTH) -> str:
    """Return why a mapping is refused for a device with this range; empty = it is not."""
    mapping = load_mapping(tomllib.loads(READ + setpoint), agent="MG1", device="ess", source="mine")
    try:
        mapping.check_range(range_mw)
    except ConfigError as exc:
        return str(exc)
    return ""


def by_side(zero: str, discharge: str = "b/d", charge: str = "b/ch") -> str:
    text = SIZE_BY_SIDE.replace("ZERO", f"'{zero}'")
    return text.replace("DISCHARGE", f'"{discharge}"').replace("CHARGE", f'"{charge}"')


@pytest.mark.parametrize(
    "setpoint",
    [
        "absolute = true\n" + VALUE,
        "table = [[-5000, 100], [0, 0], [5000, 100]]\n" + VALUE,
        MODE_AND_SIZE.replace("LIMIT", "-500"),
        MODE_AND_SIZE.replace("LIMIT", "-4999"),
    ],
)
def test_powers_of_two_signs_that_are_sent_alike_are_refused_where_the_device_has_both(setpoint: str) -> None:
    assert refusal(setpoint).startswith("mine.setpoint.messages: -")
    assert "would send the device the same as" in refusal(setpoint)
    assert refusal(setpoint, DISCHARGES) == ""


@pytest.mark.parametrize(
    "setpoint",
    [
        VALUE,
        "sign = -1\n" + VALUE,
        "decimals = 0\n" + VALUE,
        "table = [[-5000, 0], [0, 50], [5000, 100]]\n" + VALUE,
        'words = [{ word = "OFF" }, { word = "ON", from = 500.0 }]\n' + VALUE,
        MODE_AND_SIZE.replace("LIMIT", "0"),
        MODE_AND_SIZE.replace("LIMIT", "-1"),  # 0.2 per mille of the device: noise
        by_side("idle"),
        by_side("idle", "b/c", "b/c"),
    ],
)
def test_what_tells_them_apart_is_taken(setpoint: str) -> None:
    for range_mw in (BOTH, DISCHARGES, CHARGES):
        assert refusal(setpoint, range_mw) == ""


def test_a_0_that_leaves_the_power_of_before_standing_is_refused() -> None:
    left = "0 MW would leave the device as "
    assert left in refusal(by_side("discharge"))
    assert left in refusal(by_side("discharge"), DISCHARGES)
    assert left in refusal(by_side("discharge", "b/mode", "b/mode").replace('"{m}"', '{ m = "{m}" }'))
    assert left in refusal(by_side("charge"), CHARGES)
    assert refusal(by_side("charge"), DISCHARGES) == ""  # nothing stands there: it never charges


@given(
    low=st.just(0.0) | st.floats(-10.0, -1e-6),
    high=st.just(0.0) | st.floats(1e-6, 10.0),
)
def test_powers_to_try_are_within_the_range_and_have_its_ends(low: float, high: float) -> None:
    powers = powers_to_try((low, high))
    assert all(low <= p <= high and p for p in powers)
    assert {p for p in (low, high) if p} <= set(powers)
    assert len(powers) <= 24
    for side in (-1.0, 1.0):
        sizes = sorted(abs(p) for p in powers if p * side > 0.0)
        assert all(b <= 2.5 * a * (1 + 1e-9) for a, b in pairwise(sizes))


WORDS = "words = [{ word = -3000 }, { word = 3000, from = -100.0 }]"
SHOWN = """
[setpoint.values.shown]
formula = "p_mw * 1000"
[[setpoint.messages]]
topic = "b/set"
payload = "{p}"
when = "p != 0"
[[setpoint.messages]]
topic = "b/shown"
payload = "{shown}"
"""


def test_a_0_that_is_sent_as_the_number_of_a_power_is_refused() -> None:
    assert "0 MW would send the device the same as 0.005 MW" in refusal(f"{WORDS}\n{VALUE}")
    assert refusal("table = [[-5000, 0], [5000, 100]]\n" + VALUE) == ""


def test_a_0_that_leaves_the_size_of_a_power_where_it_is_is_refused() -> None:
    assert "0 MW would leave a power in force" in refusal(SHOWN)
    assert refusal(SHOWN.replace('when = "p != 0"', "")) == ""


TEXTS = 'words = [{ word = "CHARGE" }, { word = "DISCHARGE", from = -100.0 }]'
MODE_ALONE = """
[setpoint.values.m]
formula = "'charge' if p < 0 else 'discharge'"
[[setpoint.messages]]
topic = "b/c"
payload = "{m}"
"""


def test_a_0_that_is_sent_as_the_word_of_a_power_is_refused() -> None:
    like = "0 MW would send the device the same as 0.005 MW: 'DISCHARGE'; give 0 its own word"
    for range_mw in (BOTH, DISCHARGES):
        assert like in refusal(f"{TEXTS}\n{VALUE}", range_mw)
    assert "the same as 0.005 MW: 'discharge'" in refusal(MODE_ALONE)
    assert "the same as -0.005 MW: 'charge'" in refusal(MODE_ALONE.replace("p < 0", "p <= 0"))
    three = (
        'words = [{ word = "CHARGE" }, { word = " Idle ", from = -100.0 }, { word = "OUT", from = 100.0 }]'
    )
    assert refusal(f"{three}\n{VALUE}") == ""
    relay = 'words = [{ word = "LOW" }, { word = "HIGH", from = 500.0 }]'
    assert refusal(f"{relay}\n{VALUE}", DISCHARGES) == ""


COMMANDS = """
[setpoint.values.m]
formula = "'charge' if p < 0 else 'discharge'"
[[setpoint.messages]]
topic = "b/c"
payload = MODE
[[setpoint.messages]]
topic = "b/c"
payload = POWER
when = "p != 0"
"""


@pytest.mark.parametrize(
    ("mode", "power"),
    [
        ('"mode={m}"', '"power={p}"'),
        ("""'{"mode": "{m}"}'""", """'{"power": {p}}'"""),
        ('{ set = { mode = "{m}" } }', '{ set = { power = "{p}" } }'),
        ('["mode", "{m}"]', '["power", "{p}"]'),
        ('{ cmd = "mode", arg = "{m}" }', '{ cmd = "power", arg = "{p}" }'),
        ('{ addr = 101, val = "{m}" }', '{ addr = 100, val = "{p}" }'),
        (
            '{ id = "{counter}", method = "SetMode", params = { value = "{m}" } }',
            '{ id = "{counter}", method = "SetPower", params = { value = "{p}" } }',
        ),
        ('{ points = [{ name = "m", v = "{m}" }] }', '{ points = [{ name = "p", v = "{p}" }] }'),
        ('{ set = "mode={m}" }', '{ set = "power={p}" }'),
        ('{ set = "MODE {m}" }', '{ set = "POWER {p}" }'),
        ('{ args = ["mode", "{m}"] }', '{ args = ["power", "{p}"] }'),
        ('{ d = "{m}" }', '{ d = "{p}" }'),
    ],
)
def test_a_command_leaves_what_another_command_on_its_topic_has_set(mode: str, power: str) -> None:
    setpoint = COMMANDS.replace("MODE", mode).replace("POWER", power)
    assert "0 MW would leave the device as" in refusal(setpoint)
    assert refusal(setpoint.replace("'discharge'\"", "('discharge' if p > 0 else 'idle')\"")) == ""
    assert refusal(setpoint.replace('when = "p != 0"', "")) == ""


@pytest.mark.parametrize(
    "payload",
    [
        '{ points = [{ name = "p", v = "{p}" }, { name = "m", v = "{m}" }] }',
        '[{ name = "p", v = "{p}" }, { name = "m", v = "{m}" }]',
        '{ set = "p={p};m={m}" }',
    ],
)
def test_a_shorter_list_or_text_leaves_what_it_does_not_name(payload: str) -> None:
    shorter = payload.replace('{ name = "p", v = "{p}" }, ', "").replace("p={p};", "")
    setpoint = COMMANDS.replace("MODE", shorter).replace("POWER", payload)
    setpoint = setpoint.replace("payload = ", 'when = "p == 0"\npayload = ', 1)
    assert "0 MW would leave the device as" in refusal(setpoint)
    assert refusal(setpoint.replace("'discharge'\"", "('discharge' if p > 0 else 'idle')\"")) == ""


@pytest.mark.parametrize(("off", "on"), [("OFF", "ON"), ("stop", "run"), ("idle", "heat")])
def test_a_word_for_no_power_at_a_power_and_not_at_0_is_swapped(off: str, on: str) -> None:
    words = 'sign = -1\nwords = [{ word = "FIRST" }, { word = "SECOND", from = 500.0 }]\n' + VALUE
    swapped = words.replace("FIRST", on).replace("SECOND", off)
    assert f"0 is sent as {on!r}, -0.005 MW as {off!r}" in refusal(swapped, CHARGES)
    assert refusal(words.replace("FIRST", off).replace("SECOND", on), CHARGES) == ""


def test_a_formula_that_makes_a_power_of_0_is_refused() -> None:
    text = '[setpoint.values.f]\nformula = "FORMULA"\n[[setpoint.messages]]\ntopic = "b/f"\npayload = "{f}"\n'
    raised = text.replace("FORMULA", "max(p, 500) if p >= 0 else p")
    assert "f: 0 is sent as small powers are, 500" in refusal(raised)
    least = text.replace("FORMULA", "clip(-p/230, 6, 16)")
    assert "f: 0 is sent as small powers are, 6" in refusal(least, CHARGES)
    switch = '[[setpoint.messages]]\ntopic = "b/on"\npayload = "SAYS"\nwhen = "p WAY 0"\n'
    on, off = (switch.replace("SAYS", a).replace("WAY", b) for a, b in (("on", "<"), ("off", ">=")))
    assert refusal(least + on + off, CHARGES) == ""
    pause = '[setpoint.values.z]\nformula = "p > -1380"\n' + switch[: switch.index("when")]
    pause = pause.replace('"SAYS"', '"{z}"')
    assert refusal(least + pause.replace("b/on", "b/pause"), CHARGES) == ""
    assert "0 is sent as 'true', -0.005 MW as 'false'" in refusal(least + pause, CHARGES)
    for own in (500, 5000):
        found = refusal(text.replace("FORMULA", f"p if p != 0 else {own}"))
        assert f"0 MW would send the device the same as {own / 1e6:g} MW" in found
    for taken in ("p", "round(p/500) * 500", "32768 + p", "50 + round(p/1000)", "round(50 - p/1000)"):
        assert refusal(text.replace("FORMULA", taken)) == ""
    assert refusal(text.replace("FORMULA", "1 if p > -1380 else 0"), CHARGES) == ""  # a contact that blocks


def test_texts_and_registers_that_honest_devices_need_are_taken() -> None:
    both = [("chg", "{c}", "<", ">="), ("dis", "{d}", ">", "<=")]
    for topic, sent, cleared in (("b/{}", "{}", "0"), ("b/do", "{} {}", "{} 0")):
        text = TWO_SIZES[: TWO_SIZES.index("[[setpoint.messages]]")]
        for name, value, way, back in both:
            for payload, when in ((sent, way), (cleared, back)):
                shown = (
                    payload.replace("{}", name, 1)
                    if payload.count("{}") + payload.count("0") > 1
                    else payload
                )
                shown = shown.replace("{}", value)
                text += f'[[setpoint.messages]]\ntopic = "{topic.format(name)}"\npayload = "{shown}"\n'
                text += f'when = "p {when} 0"\n'
        assert refusal(text) == ""


def test_a_sign_that_does_not_fit_into_what_carries_it_is_refused() -> None:
    commanded = '[[setpoint.messages]]\ntopic = "b/c"\npayload = { v = "{p}" }\nmetrics = { v = "TYPE" }\n'
    for kind in ("UInt8", "UInt16", "UInt32", "UInt64", "DateTime"):
        assert "no power below 0 can be sent: metric v: -" in refusal(commanded.replace("TYPE", kind))
        if kind != "UInt8":
            assert refusal(commanded.replace("TYPE", kind), DISCHARGES) == ""
    assert "no power above 0 can be sent" in refusal(commanded.replace("TYPE", "Boolean"))
    for kind in ("Int16", "Int32", "Int64", "Float", "Double", "String"):
        assert refusal(commanded.replace("TYPE", kind)) == ""


def test_a_0_whose_word_comes_to_a_topic_of_its_own_has_to_say_off_there() -> None:
    setpoint = """
[setpoint.values.t]
formula = "'power' if p != 0 else 'mode'"
[setpoint.values.v]
formula = "p if p != 0 else 'WORD'"
[[setpoint.messages]]
topic = "b/set/{t}"
payload = "{v}"
"""
    assert "0 MW would leave a power in force" in refusal(setpoint.replace("WORD", "discharge"))
    assert refusal(setpoint.replace("WORD", "off")) == ""


HONEST = [
    '{ m = "in", v = "{p}" }|p < 0|{ m = "out", v = "{p}" }|p > 0|{ m = "idle", v = 0 }|p == 0',
    '{ do = "mode", v = "{m}" }|p == p|{ do = "power", v = "{p}" }|p != 0|{ do = "power", v = 0 }|p == 0',
    '{ mode = "off" }|p == 0|{ mode = "{m}", v = "{p}" }|p != 0|{ beat = 1 }|p == p',
    '[{ slot = 1, v = "{p}" }, { slot = 2, v = 0 }]|p == p|{ beat = 1 }|p == p|{ beat = 2 }|p == p',
]


@pytest.mark.parametrize("setpoint", HONEST)
def test_commands_that_0_clears_are_taken(setpoint: str) -> None:
    parts = setpoint.split("|")
    messages = [
        f'[[setpoint.messages]]\ntopic = "b/c"\npayload = {payload}\nwhen = "{when}"\n'
        for payload, when in zip(parts[::2], parts[1::2], strict=True)
    ]
    values = "[setpoint.values.m]\nformula = \"'charge' if p < 0 else 'discharge'\"\n"
    assert refusal((values if "{m}" in setpoint else "") + "".join(messages)) == ""


TWO_SIZES = """
[setpoint.values.c]
formula = "max(-p, 0)"
[setpoint.values.d]
formula = "max(p, 0)"
[[setpoint.messages]]
topic = "b/charge"
payload = "{c}"
when = "p <= 0"
[[setpoint.messages]]
topic = "b/discharge"
payload = "{d}"
when = "p >= 0"
"""


def test_a_word_for_a_sign_that_the_other_does_not_take_back_is_refused() -> None:
    minus = '[[setpoint.messages]]\ntopic = "b/sign"\npayload = "-"\nwhen = "p < 0"\n'
    size = (
        '[setpoint.values.z]\nformula = "abs(p)"\n[[setpoint.messages]]\ntopic = "b/size"\npayload = "{z}"\n'
    )
    assert "MW would leave the device as -" in refusal(size + minus)
    plus = minus.replace('"-"', '"+"').replace("p < 0", "p >= 0")
    assert refusal(size + minus + plus) == ""


def test_a_number_alone_at_a_topic_takes_the_place_of_a_value_there_and_ends_nothing_elsewhere() -> None:
    driven = TWO_SIZES.replace("<=", "<").replace(">=", ">")
    for number in ("0", "0.0", "-0"):
        cleared = f'[[setpoint.messages]]\ntopic = "b/charge"\npayload = "{number}"\nwhen = "p == 0"\n'
        assert "would leave what -0.005 MW has set (b/charge #)" in refusal(driven + cleared)


def test_a_constant_0_on_the_topic_of_a_size_clears_it() -> None:
    other = '[[setpoint.messages]]\ntopic = "b/SIDE"\npayload = "0"\nwhen = "p WAY 0"\n'
    both = [("charge", ">"), ("discharge", "<")]
    clears = "".join(other.replace("SIDE", side).replace("WAY", way) for side, way in both)
    assert refusal(TWO_SIZES + clears) == ""


def test_two_sizes_that_0_clears_one_by_one_do_not_end_each_other() -> None:
    assert "would leave what -0.005 MW has set (b/charge #)" in refusal(TWO_SIZES)
    assert refusal(re.sub("when = .*", "", TWO_SIZES)) == ""
    ended = TWO_SIZES.replace("<=", "<").replace(">=", ">")
    stop = '[[setpoint.messages]]\ntopic = "b/do"\npayload = "stop"\nwhen = "p == 0"\n'
    assert refusal(ended + stop) == ""  # commands, which end each other


def test_texts_of_keys_and_values_leave_what_they_do_not_name() -> None:
    setpoint = COMMANDS.replace("MODE", '"M={m}"').replace("POWER", '"P={p};M={m}"')
    assert "0 MW would leave the device as" in refusal(setpoint)
    assert refusal(setpoint.replace("'discharge'\"", "('discharge' if p > 0 else 'idle')\"")) == ""


REACTIVE = """
[setpoint.values.q]
quantity = "q_mvar"
unit = "var"
EXTRA
[[setpoint.messages]]
topic = "b/c"
payload = { v = "{p}" }
[[setpoint.messages]]
topic = "b/q"
payload = { q = "{q}" }
WHEN
"""


def reactive(extra: str = "", when: str = "") -> str:
    return REACTIVE.replace("EXTRA", extra).replace("WHEN", when)


def test_reactive_power_is_told_apart_as_power_is() -> None:
    assert refusal(reactive()) == ""
    assert "-0.005 Mvar would send the device the same as 0.005 Mvar" in refusal(reactive("absolute = true"))
    assert "0 Mvar would leave the device as" in refusal(reactive(when='when = "q != 0"'))
    by_power = reactive(when='when = "q != 0 or p == 0"')  # a stop clears it, 0 var beside a power does not
    assert "0 Mvar (with 0.005 MW) would leave the device as" in refusal(by_power)
    coarse = reactive("decimals = 0").replace('unit = "var"', 'unit = "kvar"')
    assert refusal(coarse) == ""  # what is rounded to 0 is told as 0
    beside_power = reactive(when='when = "p != 0"')  # 0 clears what a power alone has left, not that
    assert "0 Mvar (with 0.005 MW) would leave a power in force" in refusal(beside_power)
    with pytest.raises(
        ConfigError, match=r"0 Mvar cannot be sent: setpoint\.values\.q makes of it what it makes of"
    ):
        refusal(reactive("min = 800"))


REGISTERS = """
name = "box"
[modbus]
[registers]
power = { address = 0, type = "int16" }
way = { address = 10, words = { 0 = "discharge", 1 = "charge" } }
size = { address = 15, type = "uint16" }
mode = { address = 20, words = { 0 = "auto", 2 = "forced" } }
discharge = { address = 30, type = "int16" }
charge = { address = 32 }
[quantities.p_mw]
formula = "power"
unit = "W"
[setpoint]
[[setpoint.release]]
registers = { mode = "auto" }
"""


W_VALUES = {
    "w": 'quantity = "p_mw"\nunit = "W"',
    "size": 'quantity = "p_mw"\nunit = "W"\nabsolute = true',
    "m": "formula = \"'charge' if p_mw < 0 else 'discharge'\"",
    "on": "formula = \"'forced' if p_mw else 'auto'\"",
}


def message(registers: str, when: str = "") -> str:
    text = f"[[setpoint.messages]]\nregisters = {{ {registers} }}\n"
    return text + (f'when = "{when}"\n' if when else "")


def refusal_of_registers(messages: str) -> str:
    """Return why a mapping of registers is refused for a device of both signs; empty = it is not."""
    used = (name for name in W_VALUES if re.search(rf"\b{name}\b[^=]*$", messages, re.MULTILINE))
    values = "".join(f"[setpoint.values.{name}]\n{W_VALUES[name]}\n" for name in used)
    try:
        mapping = load_mapping(
            tomllib.loads(REGISTERS + values + messages), agent="MG1", device="ess", source="mine"
        )
        mapping.check_range(BOTH)
    except ConfigError as exc:
        return str(exc)
    return ""


WAY, SIZE, FORCED = message('way = "{m}"'), message('size = "{size}"'), message('mode = "forced"')


@pytest.mark.parametrize("step", [1, 10, 100])
def test_a_switch_in_another_request_than_a_power_that_is_rounded_is_taken(step: int) -> None:
    registers = REGISTERS.replace(
        'power = { address = 0, type = "int16" }',
        f'power = {{ address = 0, type = "int16", scale = {step} }}',
    )
    values = "".join(f"[setpoint.values.{n}]\n{W_VALUES[n]}\n" for n in ("w", "on"))
    power, switch = message('power = "{w}"'), message('mode = "{on}"')
    number = values.replace("'forced' if p_mw else 'auto'", "2 if p_mw else 0")
    for text in (values, number):
        for messages in (power + switch, switch + power):
            mapping = load_mapping(
                tomllib.loads(registers + text + messages), agent="MG1", device="ess", source="mine"
            )
            mapping.check_range(BOTH)
    kept = (
        values + switch + message('power = "{w}"', "w != 0")
    )  # the switch comes before the power of before is gone
    with pytest.raises(ConfigError, match="not every power sets it"):
        load_mapping(tomllib.loads(registers + kept), agent="MG1", device="ess", source="mine")


@pytest.mark.parametrize(
    "messages",
    [
        message('way = "{m}"') + message('size = "{size}"', "w >= 0") + message('size = "{size}"', "w < 0"),
        message("size = 0", "w > 0") + WAY + SIZE,
        WAY + message("size = 0", "w > 0") + SIZE,
    ],
)
def test_a_power_that_is_passed_through_in_the_other_sign_is_refused_whatever_when_it_is_sent(
    messages: str,
) -> None:
    why = refusal_of_registers(messages + FORCED)
    assert "between two requests" in why or "in another request" in why


def test_a_size_that_is_cleared_before_its_sign_changes_is_taken() -> None:
    assert refusal_of_registers(message("size = 0") + WAY + SIZE + FORCED) == ""


def test_a_mode_that_comes_before_the_power_that_its_0_has_left_is_refused() -> None:
    power, mode = message('discharge = "{w}"', "w != 0"), message('mode = "{on}"')
    assert "written in another request" in refusal_of_registers(mode + power)
    assert refusal_of_registers(power + mode) == ""


def test_a_power_that_leaves_the_size_of_the_other_sign_in_the_same_mode_is_refused() -> None:
    """A box that gives discharge less charge while it is on has +2 kW after 3 kW and then -1 kW."""
    sizes = by_side("off").replace(
        "'charge' if p < 0 else ('discharge' if p > 0 else 'off')", "'on' if p else 'off'"
    )
    assert "would leave what -0.005 MW has set (b/ch charge), and no mode says" in refusal(sizes)
    cleared = sizes.replace('when = "p > 0"', "").replace('when = "p < 0"', "")
    for name, bound in (("discharge", "max(p, 0)"), ("charge", "max(-p, 0)")):
        cleared = f'[setpoint.values.{name[0]}]\nformula = "{bound}"\n' + cleared.replace(
            f'{name} = "{{p}}"', f'{name} = "{{{name[0]}}}"'
        )
    assert refusal(cleared) == ""
    assert refusal(by_side("off")) == ""  # the mode says which of them counts
