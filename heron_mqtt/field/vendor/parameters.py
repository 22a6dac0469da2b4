"""Parameters and placeholders: ``{name}`` in any text of a mapping, filled in before it is validated.

A text that is nothing but one placeholder takes the parameter as it is, so numbers stay numbers.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from heron_mqtt.field.vendor.built_ins import BUILT_INS, NAMES, problem
from heron_mqtt.field.vendor.cleaning_keys import Scalar
from heron_mqtt.field.vendor.learned_levels import RELEARN_AFTER_S
from heron_mqtt.field.vendor.problems import Problems

_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?")
PLACEHOLDER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")


def placeholders(node: Any) -> set[str]:
    """Return the names of all placeholders in a text, table or array."""
    return {name for _, text in _texts(node, "") for name in PLACEHOLDER.findall(text)}


def as_text(value: Scalar) -> str:
    """Return a parameter or word as it stands in a topic or text payload."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def fill(node: Any, values: Mapping[str, Scalar]) -> Any:
    """Return a copy with every known placeholder replaced; unknown ones stay."""
    if isinstance(node, dict):
        return {key: fill(value, values) for key, value in node.items()}
    if isinstance(node, list):
        return [fill(value, values) for value in node]
    if not isinstance(node, str):
        return node
    whole = PLACEHOLDER.fullmatch(node)
    if whole is not None:
        return values.get(whole[1], node)
    return PLACEHOLDER.sub(lambda m: as_text(values[m[1]]) if m[1] in values else m[0], node)


LEARN_KEYS = frozenset({"description", "default", "learn", "relearn_after_s"})


def gather(
    declared: Mapping[str, Any], given: Mapping[str, Any], used: set[str], problems: Problems
) -> tuple[dict[str, Scalar], dict[str, float]]:
    """Return the value of every parameter, as given, else its default; and those that are to be learned.

    Args:
        declared: ``parameters`` of the profile: a default, or a table with ``description`` and
            ``default``, or with ``learn = true``.
        given: ``parameters`` of the scenario: values, or a table with ``learn = true``.
        used: Names of all placeholders; what a profile declares for a part that is replaced is not needed.
        problems: Called with values that are missing or no scalars.

    Returns:
        Values by name; of those to be learned, after how many s of silence another instance may follow.
    """
    values: dict[str, Scalar] = {}
    learned: dict[str, float] = {}
    for name, default in declared.items():
        if name in given or name not in used:
            continue
        table = default if isinstance(default, Mapping) else {"default": default}
        if table.get("learn") is True:
            learned[name] = _relearn(name, table, problems)
        elif "default" in table:
            values[name] = table["default"]
        else:
            what = table.get("description", "no description")
            problems.add(f"parameters.{name}", f"missing; it must be given: {what}")
    for name, value in given.items():
        if isinstance(value, Scalar):
            values[name] = value
            if (wrong := _text_for_number(value, declared.get(name))) is not None:
                problems.add(f"parameters.{name}", wrong)
        elif isinstance(value, Mapping) and value.get("learn") is True:
            learned[name] = _relearn(name, value, problems)
        else:
            problems.add(
                f"parameters.{name}",
                "must be a text, a number or true/false where it is given, or { learn = true }",
            )
    return values, learned


def _text_for_number(value: Scalar, spec: Any) -> str | None:
    """Return what is wrong with a number that is given as a text.

    A placeholder that stands alone in a payload is sent as what it is, and a device that wants ``"id":0``
    refuses ``"id":"0"``. The profile's default says which it is.
    """
    default = spec.get("default") if isinstance(spec, Mapping) else spec
    is_number = isinstance(default, int | float) and not isinstance(default, bool)
    if is_number and isinstance(value, str) and _NUMBER.fullmatch(value):
        return f"is the text {value!r}; expected a number, as its default {default}: write it without quotes"
    return None


def _relearn(name: str, table: Mapping[str, Any], problems: Problems) -> float:
    for key in table.keys() - LEARN_KEYS:
        problems.add(f"parameters.{name}.{key}", f"unknown key; there are {', '.join(sorted(LEARN_KEYS))}")
    after_s = table.get("relearn_after_s", RELEARN_AFTER_S)
    if isinstance(after_s, bool) or not isinstance(after_s, int | float) or not 1.0 <= after_s <= 86_400.0:
        problems.add(f"parameters.{name}.relearn_after_s", f"{after_s!r}: expected 1 to 86400 s")
        return RELEARN_AFTER_S
    return float(after_s)


def check_use(
    data: Mapping[str, Any],
    declared: set[str],
    given: set[str],
    built_in: set[str],
    values: set[str],
    learned: set[str],
    problems: Problems,
) -> None:
    """Complain about placeholders that mean nothing and given parameters that nothing uses.

    Args:
        data: The mapping, not filled in, without its parameters.
        declared: Names of the profile's parameters.
        given: Names of the scenario's parameters.
        built_in: Names that are always there.
        values: Names of the setpoint's values; they may stand in messages only.
        learned: Parameters that are learned from topics; they may stand in topics and messages only.
        problems: Called with each problem.
    """
    parameters = declared | given
    for name in sorted(parameters & (built_in | NAMES)):
        problems.add(f"parameters.{name}", f"{name} is always there; give the parameter another name")
    for name in sorted(values & (parameters | built_in | NAMES)):
        problems.add(f"setpoint.values.{name}", "there is a parameter of that name; give it another one")
    known = (parameters | built_in) - learned
    used: set[str] = set()
    read_topics: set[str] = set()
    for key, text in _texts(data, ""):
        allowed = known | _extra(key, values, learned)
        if key.startswith(("telemetry", "availability")) and ".topic" in key:
            read_topics.update(PLACEHOLDER.findall(text))
        for name in PLACEHOLDER.findall(text):
            used.add(name)
            if name not in allowed:
                problems.add(
                    key,
                    f"placeholder {{{name}}}: {_misplaced(name, values, learned)}; expected one of "
                    f"{_listed(allowed)}",
                )
        for name, form in BUILT_INS.findall(text) if _is_message(key) else ():
            if (wrong := problem(name, form)) is not None:
                problems.add(key, wrong)
    for name in sorted((given | learned) - used - built_in):
        close = difflib.get_close_matches(name, known - {name})
        hint = f"; did you mean {close[0]!r}?" if close else f"; there are {_listed(used & known)}"
        problems.add(f"parameters.{name}", "no placeholder uses it" + hint)
    for name in sorted((learned & used) - read_topics):
        problems.add(f"parameters.{name}", "learn = true, but no topic of telemetry or availability holds it")


def _is_message(key: str) -> bool:
    return key.startswith(("setpoint.messages", "setpoint.release", "keepalive"))


def _extra(key: str, values: set[str], learned: set[str]) -> set[str]:
    """Return the names beside the parameters that may stand at a key."""
    if _is_message(key) and any(part in key for part in ("payload", ".topic", ".registers")):
        return values | learned | NAMES
    if key.startswith("setpoint.answers") and key.endswith(".topic"):
        return values | learned
    if key.startswith("setpoint.values") and ".pack[" in key:
        return values
    if key.startswith(("telemetry", "availability")) and ".topic" in key:
        return learned
    return set()


def _misplaced(name: str, values: set[str], learned: set[str]) -> str:
    if name in values:
        return "a value of the setpoint belongs into a message"
    if name in learned:
        return "what is learned belongs into topics and messages"
    return "belongs into a message" if name in NAMES else "unknown"


def _listed(names: set[str]) -> str:
    return ", ".join(f"{{{name}}}" for name in sorted(names)) or "none"


def _texts(node: Any, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, str):
        yield key, node
    elif isinstance(node, Mapping):
        for name, value in node.items():
            yield from _texts(value, f"{key}.{name}" if key else str(name))
    elif isinstance(node, list):
        for i, value in enumerate(node):
            yield from _texts(value, f"{key}[{i}]")
