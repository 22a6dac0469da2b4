"""Mappings that break a promise about 0 or a bound are refused, and honest ones beside them are not."""

from __future__ import annotations

import json
import re
import tomllib

import pytest

from heron_mqtt.errors import ConfigError
from heron_mqtt.field.vendor.mapping import load_mapping
from heron_mqtt.field.vendor.outgoing import Outgoing
from heron_mqtt.messages import Setpoint

BOTH, INJECTS, CONSUMES = (-0.005, 0.005), (0.0, 0.005), (-0.005, 0.0)
READ = """
name = "box"
[[telemetry]]
topic = "b/said"
fields.p_mw = { path = "p", unit = "W" }
[setpoint]
release = "zero"
"""
REGISTERS = """
name = "box"
[modbus]
[registers]
power = { address = 0, type = "int16" }
cmd = { address = 10 }
arg = { address = 11, type = "int16" }
command = { address = 14, words = { 0 = "stop", 1 = "charge", 2 = "discharge" } }
size = { address = 15 }
sg = { address = 16 }
led = { address = 17 }
wd = { address = 18 }
run_relay = { address = 19 }
[quantities.p_mw]
formula = "power"
unit = "W"
[setpoint]
release = "zero"
"""
VALUES = {
    "w": 'quantity = "p_mw"\nunit = "W"\ndecimals = 0',
    "size": 'quantity = "p_mw"\nunit = "W"\ndecimals = 0\nabsolute = true',
    "q": 'quantity = "q_mvar"\nunit = "var"\ndecimals = 0',
    "m": "formula = \"'charge' if p_mw < 0 else 'discharge'\"",
    "mi": "formula = \"'idle' if p_mw == 0 else 'charge' if p_mw < 0 else 'discharge'\"",
    "chg": 'formula = "max(0, -p_mw * 1e6)"',
    "dis": 'formula = "max(0, p_mw * 1e6)"',
    "pct": 'quantity = "p_mw"\nunit = "percent"\nrated_mw = 0.005\ndecimals = 0\nabsolute = true',
}


def sent(*messages: str, **formulas: str) -> str:
    """Return a mapping of messages ``topic | payload | when``, or ``registers | when``, with their values."""
    text, used = "", " ".join((*messages, *formulas.values()))
    for name, table in VALUES.items():
        if re.search(rf"\b{name}\b", used) and name not in formulas:
            text += f"[setpoint.values.{name}]\n{table}\n"
    for name, formula in formulas.items():
        made = formula if formula.startswith(("quantity", "pack")) else f'formula = "{formula}"'
        text += f"[setpoint.values.{name}]\n{made}\n"
    is_registers = not any("/" in message.split("|")[0] for message in messages)
    for message in messages:
        parts = [part.strip() for part in message.split("|")]
        text += "[[setpoint.messages]]\n"
        if is_registers:
            text += f"registers = {parts[0]}\n"
        else:
            text += f'topic = "{parts[0]}"\npayload = {parts[1]}\n'
        when = parts[1:] if is_registers else parts[2:]
        text += "".join(f'when = "{each}"\n' for each in when)
    return (REGISTERS if is_registers else READ) + text


def refusal(mapping: str, range_mw: tuple[float, float] = BOTH) -> str:
    """Return why a mapping is refused for a device with this range; empty = it is not."""
    for name in re.findall(r"\[setpoint\.values\.(\w+)\]", mapping):  # what no message needs
        others = re.sub(rf"\[setpoint\.values\.{name}\]\n(?:[^\[].*\n)*", "", mapping)
        if not re.search(rf"\b{name}\b", others.partition("[setpoint]")[2]):
            mapping = others
    try:
        load_mapping(tomllib.loads(mapping), agent="MG1", device="ess", source="mine").check_range(range_mw)
    except ConfigError as exc:
        return str(exc)
    return ""


LEAVES = "would leave"
COMMANDS = [
    sent('b/c | { cmd = "{c}", arg = "{a}" }', c="'power' if w != 0 else 'mode'", a="w if w != 0 else m"),
    sent('b/c | { key = "{c}", val = "{w}" }', c="'power' if w != 0 else 'limit'"),
    sent('b/c | { ch = "{c}", v = "{w}" }', c="1 if w > 0 else 2"),
    sent('b/c | "key={c};val={w}"', c="'power' if w != 0 else 'limit'"),
    sent('b/c | { do = [{ addr = "{c}", val = "{w}" }] }', c="100 if w != 0 else 101"),
    sent('b/c | { cmd = "{c}", arg = "{size}" }', c="'setChargeLimit' if w < 0 else 'setDischargeLimit'"),
    sent('b/c | { name = "CHG", v = "{size}" } | w < 0', 'b/c | { name = "DIS", v = "{size}" } | w >= 0'),
    sent('b/c | { cmd = "{c}", arg = "{w}" }', c="1 if w != 0 else 2"),
    sent('b/c | { slot = 1, p = "{w}" } | w != 0', "b/c | { slot = 2, p = 0 } | w == 0"),
    sent('b/c | { dev = 1, p = "{w}" } | w > 0', 'b/c | { dev = 2, p = "{w}" } | w <= 0'),
    sent('b/c | { type = "setPower", p = "{w}" } | w != 0', 'b/c | { type = "setLimit", p = 0 } | w == 0'),
    sent('b/c | { oid = "1.3.1", v = "{w}" } | w != 0', 'b/c | { oid = "1.3.2", v = 0 } | w == 0'),
    sent(
        'b/c | { datapoint = "LEVEL", v = "{w}" } | w != 0', 'b/c | { datapoint = "STATE", v = 0 } | w == 0'
    ),
    sent('{ cmd = 1, arg = "{w}" } | w != 0', "{ cmd = 2, arg = 0 } | w == 0"),
]


@pytest.mark.parametrize("mapping", COMMANDS)
def test_a_0_in_another_command_than_a_power_leaves_that_in_force(mapping: str) -> None:
    assert LEAVES in refusal(mapping)


@pytest.mark.parametrize(
    "mapping",
    [
        sent('b/c | { mode = "{mi}", power = "{size}" }'),
        sent('b/c | { cmd = "{m}", arg = "{size}" }'),
        sent('b/c | { cmd = "{mi}", arg = "{size}" }'),
        sent('b/c | { method = "{c}", w = "{size}" }', c="'StartCharge' if w < 0 else 'StartDischarge'"),
        sent(
            'b/c | { cmd = "{c}", arg = "{a}" }',
            c="'power' if w != 0 else 'mode'",
            a="w if w != 0 else 'off'",
        ),
        sent('b/c | { slot = 1, p = "{w}" }', "b/c | { slot = 2, p = 0 }"),
        sent('b/c | { slot = 1, p = "{w}" } | w != 0', "b/c | { slot = 1, p = 0 } | w == 0"),
        sent('b/c | { dev = 7, p = "{w}" }'),
        sent('b/c | { action = "{c}", p = "{size}" }', c="1 if w < 0 else 2"),
        sent('b/c | { action = "{c}", p = "{size}" }', c="204 if w == 0 else 170 if w < 0 else 187"),
        sent('{ cmd = "{c}", arg = "{size}" }', c="204 if w == 0 else 170 if w < 0 else 187"),
        sent(
            'b/c | { name = "CHG", v = "{size}" } | w < 0',
            'b/c | { name = "DIS", v = "{size}" } | w > 0',
            'b/c | { name = "stop" } | w == 0',
        ),
        sent(
            'b/c | { id = 1, method = "Set", p = "{w}" } | w != 0',
            'b/c | { id = 2, method = "Set", p = 0 } | w == 0',
        ),
        sent('b/c | { type = "setPower", p = "{w}" } | w != 0', 'b/c | { type = "stop" } | w == 0'),
        sent('b/c | { action = "start", p = "{w}" } | w != 0', 'b/c | { action = "stop" } | w == 0'),
        sent('b/c | { command = "{c}", p = "{w}" }', c="0 if w == 0 else 1"),
        sent('{ command = "{c}", size = "{size}" }', c="'stop' if w == 0 else m"),
        sent('{ cmd = 1, arg = "{w}" }'),
    ],
)
def test_a_command_that_0_takes_back_is_taken(mapping: str) -> None:
    assert refusal(mapping) == ""


@pytest.mark.parametrize(
    ("power", "zero"),
    [
        ('[100, "{w}", 101, 1]', "[101, 1]"),
        ('[100, "{w}"]', "[101, 0]"),
        ('{ write = [[100, "{w}"], [101, 1]] }', "{ write = [[101, 1]] }"),
        ('{ write = [100, "{w}", 101, 1] }', "{ write = [101, 1] }"),
        ('{ slots = ["{w}", 0] }', "{ slots = [0] }"),
        ('["set", "{w}"]', '["limit", 0]'),
    ],
)
def test_a_shorter_list_leaves_what_a_longer_one_has_set(power: str, zero: str) -> None:
    assert LEAVES in refusal(sent(f"b/c | {power} | w != 0", f"b/c | {zero} | w == 0"))


@pytest.mark.parametrize(
    ("power", "zero"),
    [
        ('[100, "{w}", 101, 1]', "[100, 0, 101, 1]"),
        ('[101, 1, 100, "{w}"]', "[100, 0]"),
        ('[100, "{w}", 101, 1]', "[101, 0]"),
        ('{ write = [[100, "{w}"], [101, 1]] }', "{ write = [[100, 0]] }"),
        ('{ slots = ["{w}", 1] }', "{ slots = [0, 0] }"),
        ('["set", "{w}"]', '["set", 0]'),
        ('["set", "{w}"]', '["stop"]'),
        ('[2, "{uid}", "SetProfile", { limit = "{w}" }]', '[2, "{uid}", "ClearProfile", {}]'),
        ('["set", "{w}", "forced"]', '["set", 0, "auto"]'),
    ],
)
def test_a_list_that_0_clears_is_taken(power: str, zero: str) -> None:
    assert refusal(sent(f"b/c | {power} | w != 0", f"b/c | {zero} | w == 0")) == ""


P, Q = 'b/p | "{w}"', 'b/q | "{r}"'
BEND = "has another sign or scale with"
NO_REST = "which no small power comes near to"


@pytest.mark.parametrize(
    ("formula", "why"),
    [
        ("q * (1 if w >= 0 else -1)", BEND),
        ("q * (1 if w > 0 else -1 if w < 0 else 0)", BEND),
        ("q * (1 if w <= 2500 else -1)", BEND),
        ("q * (10 if w > 2500 else 1)", BEND),
        ("q * (2 if w < 0 else 1)", BEND),
        ("q if w != 0 else 500", NO_REST),
        ("q if q != 0 else 300", NO_REST),
        ("q if q != 0 or w != 0 else 437", NO_REST),
        ("300 if w == 0 else 0 * q", "a stop is 0 Mvar, too"),
        ("q + 500 * (w == 0)", NO_REST),
    ],
)
def test_reactive_power_that_power_turns_round_or_that_0_sets_is_refused(formula: str, why: str) -> None:
    assert why in refusal(sent(P, Q, r=formula))


@pytest.mark.parametrize(
    "formula",
    [
        "q",
        "q if w != 0 else 0",
        "q if w >= 0 else 0",
        "clip(q, -3000, 3000)",
        "clip(q, -0.48 * abs(w), 0.48 * abs(w))",
        "clip(q, -sqrt(max(0, 5000 ** 2 - w ** 2)), sqrt(max(0, 5000 ** 2 - w ** 2)))",
        "q / w if w != 0 else 0",
        "round(q / 5000 * 100)",
    ],
)
def test_reactive_power_that_power_limits_is_taken(formula: str) -> None:
    assert refusal(sent(P, Q, r=formula)) == ""


def test_power_that_reactive_power_turns_round_or_holds_is_refused() -> None:
    both = ('b/p | "{r}"', 'b/q | "{q}"')
    assert BEND in refusal(sent(*both, r="w if q >= 0 else -w"))
    assert NO_REST in refusal(sent(*both, r="w if q != 0 or w != 0 else 437"))
    assert NO_REST in refusal(sent(*both, r="w if q != 0 else 437"))
    assert LEAVES in refusal(sent('b/p | "{w}" | abs(q) < 500', both[1]))
    for formula in ("w * (10 if q > 0 else 1)", "w + abs(q)", "w if w != 0 else q", "sqrt(w ** 2 + q ** 2)"):
        assert "is sent as another power with" in refusal(sent(*both, r=formula))
        assert "is sent as another power with" in refusal(sent(*both, r=formula), CONSUMES)
    assert "is sent as another power with" in refusal(sent(*both, r="max(w, q)"), INJECTS)
    circle = "clip(w, -sqrt(max(0, 5000 ** 2 - q ** 2)), sqrt(max(0, 5000 ** 2 - q ** 2)))"
    assert refusal(sent(*both, r=circle)) == ""
    factor = "1 if p_mw == 0 else p_mw / sqrt(p_mw ** 2 + q_mvar ** 2)"
    side = "'under' if q_mvar < 0 else 'over'"
    told = sent('b/c | { p = "{w}", pf = "{pf}", ex = "{ex}" }', pf=factor, ex=side)
    assert refusal(told, INJECTS) == ""
    apparent = "sqrt(w ** 2 + q ** 2)"
    assert (
        refusal(
            sent('b/c | { v = "{r}", pf = "{pf}", ex = "{ex}" }', r=apparent, pf=factor, ex=side), INJECTS
        )
        == ""
    )
    assert refusal(sent('b/c | { va = "{r}", q = "{q}" }', r=apparent), INJECTS) == ""
    constant = sent('b/c | { p = "{w}", q = "{r}" }', r="500").replace("{r}", "{r5}").replace("s.r]", "s.r5]")
    assert "a stop is 0 Mvar, too" in refusal(
        re.sub(r"\[setpoint\.values\.q\]\n(?:[^\[].*\n)*", "", constant)
    )


@pytest.mark.parametrize(
    ("mapping", "why"),
    [
        (sent('b/c | { p = "{w}", soc = 10 } | w != 0', "b/c | { soc = 90 } | w == 0"), LEAVES),
        (sent('b/c | { p = "{w}", label = "a" } | w != 0', 'b/c | { label = "b" } | w == 0'), LEAVES),
        (sent('b/c | { p = "{w}" } | w != 0', "b/c | { limit = 0 } | w == 0"), LEAVES),
        (sent('b/c | { p = "{w}" } | w != 0', "b/c | { pause = false } | w == 0"), LEAVES),
        (
            sent(
                'b/c | { dis = "{dis}", soc = 10 } | w > 0',
                'b/c | { chg = "{chg}", soc = 90 } | w < 0',
                "b/c | { dis = 0, chg = 0, soc = 50 } | w == 0",
            ),
            LEAVES,
        ),
        (sent('b/x | "run" | w != 0', 'b/beat | "1" | w == 0'), LEAVES),
        (sent('b/c | { p = "{w}", soc = 50 } | w != 0', "b/c | { soc = 0 } | w == 0"), LEAVES),
        (sent('b/c | { p = "{w}", ramp = 9 } | w != 0', "b/c | { ramp = 0 } | w == 0"), LEAVES),
        (sent('b/c | { p = "{w}", led = "on" } | w != 0', 'b/c | { led = "standby" } | w == 0'), LEAVES),
        (sent('b/c | { p = "{w}" } | w != 0', "b/c | { led = { on = false } } | w == 0"), LEAVES),
        (sent('b/p | "{w}" | w != 0', 'b/led | "off" | w == 0'), LEAVES),
        (sent('b/c | "P {w}" | w != 0', 'b/c | "LED OFF" | w == 0'), LEAVES),
        (
            sent(
                'b/c | { cmd = "power", v = "{w}" } | w != 0', 'b/c | { cmd = "light", v = "off" } | w == 0'
            ),
            LEAVES,
        ),
        (sent('{ arg = "{w}", led = 1 } | w != 0', "{ led = 0 } | w == 0"), LEAVES),
        (sent('{ arg = "{w}", wd = 60 } | w != 0', "{ wd = 0 } | w == 0"), LEAVES),
    ],
)
def test_a_constant_that_merely_differs_is_no_mode(mapping: str, why: str) -> None:
    assert why in refusal(mapping)


@pytest.mark.parametrize(
    "mapping",
    [
        sent('b/c | { p = "{w}", ctl = "remote" } | w != 0', 'b/c | { ctl = "hold" } | w == 0'),
        sent('b/c | { p = "{w}", mode = 1 } | w != 0', "b/c | { mode = 3 } | w == 0"),
        sent('b/c | { p = "{w}", on = true } | w != 0', "b/c | { on = false } | w == 0"),
        sent('b/c | { p = "{w}" } | w != 0', "b/c | { pause = true } | w == 0"),
        sent('b/p | "{w}" | w != 0', 'b/stop | "" | w == 0'),
        sent('b/p | "{w}" | w != 0', 'b/p | "off" | w == 0'),
        sent(
            'b/c | { light = { on = true, v = "{w}" } } | w != 0', "b/c | { light = { on = false } } | w == 0"
        ),
        sent('b/c | { p = "{w}", way = "{mi}" } | w != 0', 'b/c | { way = "{mi}" } | w == 0'),
        sent(
            'b/c | { mode = "out", dis = "{dis}" } | w > 0',
            'b/c | { mode = "in", chg = "{chg}" } | w < 0',
            "b/c | { dis = 0, chg = 0 } | w == 0",
        ),
    ],
)
def test_a_constant_that_says_what_it_is_counts(mapping: str) -> None:
    assert refusal(mapping) == ""


@pytest.mark.parametrize(
    ("on", "off"),
    [
        ('b/s | "ON"', 'b/s | "OFF"'),
        ('b/s | "turn on"', 'b/s | "turn off"'),
        ('b/s | "relay1:on"', 'b/s | "relay1:off"'),
        ('b/s | "EIN"', 'b/s | "AUS"'),
        ("b/s | { on = true }", "b/s | { on = false }"),
        ("b/s | { enable = 1 }", "b/s | { enable = 0 }"),
        ("b/s | { block = false }", "b/s | { block = true }"),
        ('b/s | { cmd = "start" }', 'b/s | { cmd = "stop" }'),
        ('b/enable | "1"', 'b/enable | "0"'),
        ('b/turn_on | ""', 'b/turn_off | ""'),
        ('b/s | { state = "enabled" }', 'b/s | { state = "disabled" }'),
        ("b/s | { charging = true }", "b/s | { charging = false }"),
        ("b/s | { allowCharging = true }", "b/s | { allowCharging = false }"),
        ('b/s | "allow"', 'b/s | "deny"'),
        ("{ run_relay = 1 }", "{ run_relay = 0 }"),
    ],
)
def test_constants_that_say_on_for_0_and_off_for_a_power_are_swapped(on: str, off: str) -> None:
    for range_mw, far, near in (
        (CONSUMES, "w < -1000", "w >= -1000"),
        (INJECTS, "w > 1000", "w <= 1000"),
    ):
        assert refusal(sent(f"{off} | {far}", f"{on} | {near}"), range_mw) != ""
        assert refusal(sent(f"{on} | {far}", f"{off} | {near}"), range_mw) == ""


def test_a_switch_of_a_register_by_a_formula_is_not_swapped() -> None:
    swapped = "expected the other way"
    assert swapped in refusal(sent('{ run_relay = "{t}" }', t="1 if w >= -500 else 0"), CONSUMES)
    assert swapped in refusal(sent('{ arg = "{w}", run_relay = "{t}" }', t="1 if w == 0 else 0"))
    assert refusal(sent('{ arg = "{w}", run_relay = "{t}" }', t="0 if w == 0 else 1")) == ""


def test_a_switch_for_each_way_is_not_swapped() -> None:
    assert refusal(sent('b/c | { p = "{size}", charging = "{t}" }', t="w <= 0")) == ""
    each = sent(
        'b/c | { chg_on = "{a}", dis_on = "{b}", chg = "{chg}", dis = "{dis}" }', a="w <= 0", b="w >= 0"
    )
    assert refusal(each) == ""
    beside = sent('b/c | { s = "{s}", p = "{w}" }', s="'ON' if w == 0 else 'OFF'")
    assert "0 is sent as 'ON'" in refusal(beside)
    paused = beside.replace("{ s = ", "{ pause = ")
    assert refusal(paused) == ""


@pytest.mark.parametrize(("bits", "unit"), [(8, "W"), (16, "W"), (16, "kW"), (32, "W")])
def test_a_power_that_wrap_has_no_bits_for_is_refused_unless_it_is_bounded(bits: int, unit: str) -> None:
    largest = 2 ** (bits - 1) * {"W": 1e-6, "kW": 1e-3}[unit]
    value = f'quantity = "p_mw"\nunit = "{unit}"\ndecimals = 0\nwrap = {bits}'
    assert f"does not fit into wrap = {bits}" in refusal(
        sent('b/c | "{v}"', v=value), (-2 * largest, largest / 2)
    )
    assert f"does not fit into wrap = {bits}" in refusal(sent('b/c | "{v}"', v=value), (0.0, largest))
    assert refusal(sent('b/c | "{v}"', v=value), (-largest, largest / 2)) == ""
    bounded = f"{value}\nmin = {-(2 ** (bits - 1))}\nmax = {2 ** (bits - 1) - 1}"
    assert refusal(sent('b/c | "{v}"', v=bounded), (-2 * largest, 2 * largest)) == ""


@pytest.mark.parametrize("formula", ["w % 65536", "abs(w) + (32768 if w < 0 else 0)"])
def test_a_number_that_stands_for_powers_of_both_signs_is_refused(formula: str) -> None:
    mapping = sent('b/c | { p = "{r}" }', r=formula)
    assert "may be a power above 0 and one below 0" in refusal(mapping, (-0.04, 0.04))
    assert refusal(mapping, (-0.03, 0.03)) == ""
    assert refusal(mapping, (0.0, 0.04)) == ""


def test_a_power_is_no_boolean_of_packed_bytes() -> None:
    def with_struct(mapping: str, form: str) -> str:
        return mapping.replace("payload = [", f'struct = "{form}"\npayload = [')

    power = sent('b/c | ["{w}", 1]')
    assert "no power below 0 can be sent: -5000 cannot be packed as ?" in refusal(with_struct(power, ">?B"))
    assert refusal(with_struct(power, ">hB")) == ""
    beside = sent('b/c | ["{on}", 1, "{w}"]', on="p_mw != 0")
    assert refusal(with_struct(beside, ">?Bh")) == ""
    within = sent('b/c | { bytes = "{b}" }', b='pack = ["{w}"]\nstruct = ">?"\nbytes = "hex"')
    assert "cannot be packed as ?" in refusal(within)


def with_inputs(mapping: str, **tables: str) -> str:
    """Return a mapping that reads inputs, too."""
    given = "".join(f"inputs.{name} = {{ path = '{name}'{more} }}\n" for name, more in tables.items())
    return mapping.replace("[setpoint]\n", f"{given}[setpoint]\n", 1)


@pytest.mark.parametrize(
    ("formula", "inputs"),
    [
        ("w + 500 * (level > 50)", {"level": ""}),
        ("w + 500 * (level > 50)", {"level": ", clamp = [0, 100]"}),
        ("w - load", {"load": ""}),
        ("w if hot else 437 + w", {"hot": ", type = 'boolean'"}),
        ("w + kind", {"kind": ", words = { A = 0, B = 700 }"}),
        ("w + seq % 2", {}),
        ("w + 500 * (lease_s > 30)", {}),
    ],
)
def test_a_0_that_depends_on_what_else_a_formula_uses_is_refused(
    formula: str, inputs: dict[str, str]
) -> None:
    mapping = with_inputs(sent('b/c | { p = "{v}" }', v=formula), **inputs)
    assert "stop has to be the same whatever else a formula uses" in refusal(mapping)


@pytest.mark.parametrize(
    ("formula", "range_mw"),
    [
        ("max(w, 500 + 0 * u)", (0.0, 0.005)),
        ("max(300, w * u / 230)", (0.0, 0.005)),
        ("clip(w * u / 100, 500, 5000)", (0.0, 0.005)),
        ("min(w, u)", BOTH),
        ("max(w, -u)", BOTH),
    ],
)
def test_a_0_that_is_sent_as_small_powers_are_with_some_input_is_refused(
    formula: str, range_mw: tuple[float, float]
) -> None:
    problem = refusal(with_inputs(sent('b/c | { p = "{v}" }', v=formula), u=""), range_mw)
    assert "0 is sent as small powers are" in problem


def test_an_input_that_is_never_negative_is_said_by_clamp() -> None:
    mapping = sent('b/c | { p = "{v}" }', v="min(w, u)")
    assert "(with u = -1.0: give them clamp where they are never so)" in refusal(with_inputs(mapping, u=""))
    assert refusal(with_inputs(mapping, u=", clamp = [0, 5000]")) == ""


@pytest.mark.parametrize(
    "formula",
    ["w if lease_s > 2 else -w", "w * (1 if lease_s > 20 else 10)", "w * (1 if seq > 1 else -1)"],
)
def test_a_power_that_the_lease_or_a_number_turns_round_is_refused(formula: str) -> None:
    assert BEND in refusal(sent('b/c | { p = "{v}" }', v=formula))


def test_a_place_that_the_lease_or_a_number_chooses_is_refused_unless_it_counts() -> None:
    for mapping in (
        sent('b/c | { slot = "{c}", p = "{w}" }', c="1 if lease_s > 5 else 2"),
        sent('b/c | { slot = "{c}", p = "{w}" }', c="'a' if seq / 2 == floor(seq / 2) else 'b'"),
        sent('b/slot{c} | "{w}"', c="1 if seq / 2 == floor(seq / 2) else 2"),
    ):
        assert "says where a power belongs" in refusal(mapping)
    for name, formula in (
        ("slot", "seq % 256"),
        ("id", "seq % 4"),
        ("key", "floor(lease_s)"),
        ("beat", "seq % 2"),
        ("slot", "ceil(lease_s / 60)"),
    ):
        assert refusal(sent(f'b/c | {{ {name} = "{{c}}", p = "{{w}}" }}', c=formula)) == ""


def test_a_0_that_is_not_sent_for_a_short_lease_is_refused() -> None:
    on = 'b/on | "1"'
    assert LEAVES in refusal(sent('b/p | "{w}" | lease_s > 5', on))
    assert LEAVES in refusal(sent('b/c | { p = "{w}" } | lease_s < 3000', "b/c | { beat = 1 }"))


@pytest.mark.parametrize(
    ("formula", "inputs"),
    [
        ("clip(w, -most, most)", {"most": ""}),
        ("max(0, w) / volts", {"volts": ""}),
        ("w * level / 100", {"level": ", clamp = [0, 100]"}),
        ("0 if level < 10 and w > 0 else w", {"level": ""}),
        ("w * lease_s / 3600", {}),
        ("w if lease_s > 2 else 0", {}),
    ],
)
def test_what_limits_a_power_by_something_else_is_taken(formula: str, inputs: dict[str, str]) -> None:
    assert refusal(with_inputs(sent('b/c | { p = "{v}" }', v=formula), **inputs)) == ""


def test_a_checksum_over_power_and_number_and_texts_of_the_device_are_taken() -> None:
    summed = sent(
        'b/c | { p = "{w}", n = "{n}", crc = "{c}" }', n='quantity = "seq"', c="(w * 7 + seq + 13) % 256"
    )
    assert refusal(summed) == ""
    kept = with_inputs(sent('b/c | "{w};{others}"', others="rest"), rest=", type = 'text'")
    assert refusal(kept) == ""
    left = sent('b/c | "p={w}" | w != 0', 'b/c | "x={others}"', others="rest")
    assert LEAVES in refusal(with_inputs(left, rest=", type = 'text'"))


def payloads(mapping: str, range_mw: tuple[float, float], **setpoint: float) -> list[bytes]:
    """Return what a mapping sends for a setpoint, within a nameplate, MW."""
    made = load_mapping(tomllib.loads(mapping), agent="MG1", device="ess", source="mine")
    made.check_range(range_mw)
    return [each.payload for each in made.encode(Setpoint(**setpoint)) if isinstance(each, Outgoing)]


@pytest.mark.parametrize(
    "formula",
    [
        "floor(lease_s / 60) if p_mw != 0 else 0",
        "floor(lease_s / 60) * (p_mw != 0)",
        "max(0, lease_s - 10) if p_mw != 0 else 0",
    ],
)
def test_a_timer_that_is_off_at_rest_is_not_off_for_a_short_lease(formula: str) -> None:
    mapping = sent('b/c | { p = "{w}", t = "{t}" }', t=formula)
    for p_mw in (0.003, -0.003):
        [told] = payloads(mapping, BOTH, p_mw=p_mw, lease_s=6.0)
        assert json.loads(told)["t"] == 1.0
    for lease_s in (6.0, 600.0):
        [told] = payloads(mapping, BOTH, p_mw=0.0, lease_s=lease_s)
        assert json.loads(told)["t"] == 0.0
    energy = sent('b/c | { p = "{w}", wh = "{e}" }', e="floor(w * lease_s / 3600)")
    [told] = payloads(energy, BOTH, p_mw=0.003, lease_s=1.0)
    assert json.loads(told)["wh"] == 0.0


def test_a_formula_of_power_and_something_else_is_not_rounded_beyond_the_nameplate() -> None:
    for formula in ("w / 1000 * (lease_s > 0)", "w / 1000 + 0 * q_mvar"):
        mapping = sent('b/c | { p = "{k}" }', k=formula).replace(f'"{formula}"', f'"{formula}"\ndecimals = 0')
        for p_mw in (0.0056, -0.0056):
            [told] = payloads(mapping, (-0.0056, 0.0056), p_mw=p_mw, lease_s=60.0)
            assert json.loads(told)["p"] == 5e3 * p_mw / 0.0056 / 1e3
    reactive = sent('b/c | { p = "{w}", r = "{k}" }', k="q_mvar * 1000").replace(
        '1000"', '1000"\ndecimals = 0'
    )
    [told] = payloads(reactive, (-0.0056, 0.0056), p_mw=0.0, q_mvar=-0.0056, lease_s=60.0)
    assert json.loads(told)["r"] == -5


def test_the_states_of_an_sg_ready_heat_pump_are_no_powers() -> None:
    def states(name: str, first: int) -> str:
        words = ", ".join(f"{{ word = {first + i}, from = {1000 * i} }}" for i in (1, 2))
        table = f'quantity = "p_mw"\nunit = "W"\nsign = -1\nwords = [{{ word = {first} }}, {words}]'
        return sent(f'b/sg | "{{{name}}}"', **{name: table})

    for first in (1, 2):  # blocked, or normal operation
        assert refusal(states("sg_ready", first), CONSUMES) == ""
        assert "0 is sent as small powers are" in refusal(states("level", first), CONSUMES)
    assert "0 is sent as small powers are, 3" in refusal(states("sg_ready", 3), CONSUMES)


def test_a_mailbox_of_registers_takes_a_mode_and_then_a_power_that_has_its_sign() -> None:
    mode = "0 if w == 0 else 1 if w < 0 else 2"
    assert refusal(sent('{ cmd = 2, arg = "{n}" }', '{ cmd = 1, arg = "{w}" }', n=mode)) == ""
    size = refusal(sent('{ cmd = 2, arg = "{n}" }', '{ cmd = 1, arg = "{size}" }', n=mode))
    assert "in another request" in size
    assert "never requested" in size


@pytest.mark.parametrize(
    ("place", "at_0", "at_power"),
    [("b/valve", "closed", "open"), ("b/contactor", "open", "closed"), ("b/pause", "on", "off")],
)
def test_the_name_of_a_place_says_which_word_ends_a_power(place: str, at_0: str, at_power: str) -> None:
    right = sent(f'{place} | "{{s}}"', s=f"'{at_power}' if p_mw < -0.001 else '{at_0}'")
    assert refusal(right, CONSUMES) == ""
    swapped = sent(f'{place} | "{{s}}"', s=f"'{at_0}' if p_mw < -0.001 else '{at_power}'")
    assert "expected the other way" in refusal(swapped, CONSUMES)


HONEST = [
    sent('b/c | { p = "{w}", q = "{q}", kind = "{k}" }', k="'cap' if q_mvar > 0 else 'ind'"),
    sent('b/c | { code = "{c}", value = "{size}" }', c="1 if w == 0 else 3 if w < 0 else 2"),
    sent('b/c | { workMode = "{c}", power = "{w}" }', c="7 if w == 0 else 4"),
    sent('b/c | { regs = [40100, 40101], vals = ["{w}", 1] }'),
    sent('b/c | { plan = [[0, "{w}"], [24, "{w}"]] }'),
    sent('b/c | "on {w}" | w != 0', 'b/c | "off" | w == 0'),
    sent('b/c | { p = "{w}", disable = "{d}" }', d="w == 0"),
    sent('b/c | { key = "mode", value = "remote" }', 'b/c | { key = "power", value = "{w}" }'),
    sent('b/c | { name = "bat1", p = "{w}" } | w != 0', 'b/c | { name = "bat1", p = 0 } | w == 0'),
    sent('b/c | { p = "{w}", low = 10, high = 90 }'),
    sent('b/md | "{c}"', 'b/p | "{w}"', c="'local' if w == 0 else 'remote'"),
    sent(
        'b/c | { charge_enable = "{a}", discharge_enable = "{b}", cp = "{chg}", dp = "{dis}" }',
        a="1 if w <= 0 else 0",
        b="1 if w >= 0 else 0",
    ),
    sent('{ command = "{c}", size = "{size}" }', c="'stop' if w == 0 else m"),
]


@pytest.mark.parametrize("mapping", HONEST)
def test_forms_of_honest_devices_are_taken(mapping: str) -> None:
    assert refusal(mapping) == ""


def test_a_formula_that_is_a_number_for_0_and_a_word_for_a_power_is_looked_at_without_a_traceback() -> None:
    assert refusal(sent('b/c | { p = "{v}" }', v="w if w < 2000 else 'full'")) == ""
    assert refusal(sent('b/c | { p = "{v}" }', v="max(w, 500) if w < 2000 else 'full'"), INJECTS) != ""


@pytest.mark.parametrize(
    ("place", "beside"),
    [
        ("led", "w < -1380"),
        ("phases", "3 if w < -1380 else 1"),
        ("boost", "w < -3000"),
        ("mode", "'fast' if w < -3000 else 'eco'"),
        ("x", "1 if w < -3000 else 0"),
        ("sleep", "1 if w < -1380 else 0"),
    ],
)
def test_a_least_current_beside_what_does_not_say_that_it_is_off_is_refused(place: str, beside: str) -> None:
    least = 'b/c | { a = "{a}", %s = "{t}" }'
    amps = "clip(-w / 230, 6, 16)"
    assert "0 is sent as small powers are" in refusal(sent(least % place, a=amps, t=beside), CONSUMES)


@pytest.mark.parametrize(
    ("payload", "formulas"),
    [
        ('{ a = "{a}", frc = "{t}" }', {"t": "2 if w < -1380 else 1"}),
        ('{ a = "{a}", mode = "{t}" }', {"t": "'off' if w == 0 else 'fast' if w < -3000 else 'eco'"}),
        ('{ a = "{a}", on = "{t}", phases = "{n}" }', {"t": "w < 0", "n": "3 if w < -4000 else 1"}),
        ('{ a = "{z}", phases = "{n}" }', {"z": "-w / 230 / n", "n": "3 if w < -4000 else 1"}),
    ],
)
def test_a_least_current_beside_a_switch_is_taken(payload: str, formulas: dict[str, str]) -> None:
    amps = {"a": "clip(-w / 230, 6, 16)"} if "{a}" in payload else {}
    ordered = dict(sorted({**amps, **formulas}.items()))  # a formula uses those above it
    assert refusal(sent(f"b/c | {payload}", **ordered), CONSUMES) == ""
