"""Parameters and placeholders of a mapping: what they stand for, where they may stand, what is wrong."""

from __future__ import annotations

from typing import Any

import pytest

from heron_mqtt.errors import ConfigError
from heron_mqtt.field.vendor.parameters import check_use, fill, gather
from heron_mqtt.field.vendor.problems import Problems
from support.rows import each_row


def said(problems: Problems) -> list[str]:
    """Return what is wrong, without the source."""
    try:
        problems.raise_if_any()
    except ConfigError as exc:
        return [line.removeprefix("test: ") for line in exc.problems]
    return []


@each_row(
    ("declared", "given", "values", "learned"),
    [
        ({"a": 5}, {}, {"a": 5}, {}),
        ({"a": {"default": 0, "description": "x"}}, {}, {"a": 0}, {}),
        ({"a": {"default": False}}, {"a": True}, {"a": True}, {}),
        ({"unused": 5, "needless": {"description": "no default"}}, {}, {}, {}),
        ({"unused": 5}, {"unused": 6, "more": "x"}, {"unused": 6, "more": "x"}, {}),
        ({"a": {"learn": True}}, {}, {}, {"a": 30.0}),
        ({"a": {"learn": True, "relearn_after_s": 1}}, {}, {}, {"a": 1.0}),
        ({"a": {"learn": False, "default": 5}}, {}, {"a": 5}, {}),
        ({"a": {"learn": True}}, {"a": "fixed"}, {"a": "fixed"}, {}),
        ({}, {"a": {"learn": True, "relearn_after_s": 86_400.0}}, {}, {"a": 86_400.0}),
        ({"a": 5}, {"a": {"learn": True}}, {}, {"a": 30.0}),
        ({"a": 5}, {"a": "garage"}, {"a": "garage"}, {}),
        ({"a": "5"}, {"a": "6"}, {"a": "6"}, {}),
    ],
)
def test_a_parameter_is_as_given_else_its_default_or_is_to_be_learned(
    declared: dict[str, Any], given: dict[str, Any], values: dict[str, Any], learned: dict[str, float]
) -> None:
    problems = Problems("test")
    assert gather(declared, given, {"a"}, problems) == (values, learned)
    assert said(problems) == []


KEYS = "default, description, learn, relearn_after_s"


@each_row(
    ("declared", "given", "problem"),
    [
        (
            {"a": {"default": 0}},
            {"a": "2"},
            "parameters.a: is the text '2'; expected a number, as its default 0: write it without quotes",
        ),
        ({"a": {"description": "its serial"}}, {}, "parameters.a: missing; it must be given: its serial"),
        ({"a": {}}, {}, "parameters.a: missing; it must be given: no description"),
        (
            {},
            {"a": {"learn": False}},
            "parameters.a: must be a text, a number or true/false where it is given, or { learn = true }",
        ),
        ({}, {"a": {"learn": True, "b": 1}}, f"parameters.a.b: unknown key; there are {KEYS}"),
        *(
            (
                {"a": {"learn": True, "relearn_after_s": after_s}},
                {},
                f"parameters.a.relearn_after_s: {after_s!r}: expected 1 to 86400 s",
            )
            for after_s in (True, "5", 0.99, 86_400.5)
        ),
    ],
)
def test_a_parameter_that_has_no_value_says_what_was_expected(
    declared: dict[str, Any], given: dict[str, Any], problem: str
) -> None:
    problems = Problems("test")
    gather(declared, given, {"a"}, problems)
    assert said(problems) == [problem]


def test_a_text_that_is_one_placeholder_takes_the_value_as_it_is() -> None:
    data = {"a": "{n}", "b": ["{n} W", "{on}{n}", "{x}"], "c": 5, "d": "{x}"}
    assert fill(data, {"n": 3, "on": True}) == {"a": 3, "b": ["3 W", "true3", "{x}"], "c": 5, "d": "{x}"}


def complaints(data: dict[str, Any]) -> list[str]:
    """Return what is wrong with the use of names, where all that are known are used rightly elsewhere."""
    problems = Problems("test")
    used = {"name": "{known}", "availability": [{"topic": "x/{level}"}]}
    check_use(
        {**data, **{key: value for key, value in used.items() if key not in data}},
        declared={"known", "replaced"},
        given={"known"},
        built_in={"agent"},
        values={"v"},
        learned={"level"},
        problems=problems,
    )
    return said(problems)


def at(key: str, text: str) -> dict[str, Any]:
    """Return a mapping with a text at a key such as ``keepalive[0].payload.x``."""
    node: Any = text
    for part in reversed(key.split(".")):
        name, is_array, _ = part.partition("[")
        node = {name: [node] if is_array else node}
    return dict(node)


EVERYWHERE = ["agent", "known", "replaced"]
IN_MESSAGES = ["agent", "counter", "known", "level", "now", "replaced", "uid", "v"]


@each_row(
    ("known", "keys"),
    [
        (EVERYWHERE, ["name", "telemetry[0].path", "availability[0].path", "liveness.topic", "x.payload"]),
        (EVERYWHERE, ["setpoint.send", "setpoint.answers[0].path", "setpoint.messages[0].when"]),
        (EVERYWHERE, ["keepalive[0].while", "quantities.topic"]),
        ([*EVERYWHERE[:2], "level", "replaced"], ["telemetry[0].topic[0]", "availability[0].topic"]),
        ([*EVERYWHERE[:2], "level", "replaced", "v"], ["setpoint.answers[0].topic"]),
        (IN_MESSAGES, [f"setpoint.messages[0].{key}" for key in ("topic", "payload", "payload.x[0]")]),
        (IN_MESSAGES, ["setpoint.messages[0].registers.x", "setpoint.release[0].payload"]),
        (
            IN_MESSAGES,
            [f"keepalive[0].{key}" for key in ("topic", "payload.x", "first_payload", "registers.x")],
        ),
    ],
)
def test_each_place_takes_the_names_that_are_known_there(known: list[str], keys: list[str]) -> None:
    listed = ", ".join(f"{{{name}}}" for name in known)
    for key in keys:
        wrong = f"{key}: placeholder {{zz}}: unknown; expected one of {listed}"
        assert complaints(at(key, "{zz}"))[0] == wrong
        for name in known:
            assert not any("placeholder {" in line for line in complaints(at(key, f"{{{name}}}")))


@pytest.mark.parametrize(
    ("key", "text", "why"),
    [
        ("name", "{v}{known}", "{v}: a value of the setpoint belongs into a message"),
        ("liveness.topic", "{level}", "{level}: what is learned belongs into topics and messages"),
        ("setpoint.send", "{now}", "{now}: belongs into a message"),
    ],
)
def test_a_name_at_a_place_that_does_not_take_it_says_where_it_belongs(key: str, text: str, why: str) -> None:
    assert complaints(at(key, text)) == [
        f"{key}: placeholder {why}; expected one of {{agent}}, {{known}}, {{replaced}}"
    ]


def test_the_form_of_a_built_in_name_is_looked_at_in_messages_only() -> None:
    wrong = "{counter:0}: expected where to begin again, as {counter:256}"
    assert complaints(at("setpoint.release[0].payload", "{counter:0}")) == [
        f"setpoint.release[0].payload: {wrong}"
    ]
    assert complaints(at("liveness.topic", "{counter:0}")) == []


def test_a_name_that_nothing_uses_or_that_means_two_things_is_named() -> None:
    def check(text: str = "", **names: str) -> list[str]:
        problems = Problems("test")
        sets = {key: set(names.get(key, "").split()) for key in ("declared", "given", "values", "learned")}
        data = {"name": text, "telemetry": [{"topic": "{known}"}]}
        check_use(data, built_in={"agent"}, problems=problems, **sets)
        return said(problems)

    assert check(declared="known more", text="{agent}") == []
    assert check(given="known knwon") == ["parameters.knwon: no placeholder uses it; did you mean 'known'?"]
    assert check(given="known z") == ["parameters.z: no placeholder uses it; there are {known}"]
    assert check(given="known", learned="known") == []
    assert check(given="known x", learned="x", text="{x}") == [
        "name: placeholder {x}: what is learned belongs into topics and messages; expected one of {agent}, "
        "{known}",
        "parameters.x: learn = true, but no topic of telemetry or availability holds it",
    ]
    assert check(declared="known agent") == [
        "parameters.agent: agent is always there; give the parameter another name"
    ]
    assert check(declared="known", given="now", text="{now}")[0] == (
        "parameters.now: now is always there; give the parameter another name"
    )
    for value in ("known", "agent", "uid"):
        assert check(declared="known", values=value) == [
            f"setpoint.values.{value}: there is a parameter of that name; give it another one"
        ]
