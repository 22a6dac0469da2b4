"""Parameters and placeholders: ``{name}`` in any text of a mapping, filled in before it is validated.

A text that is nothing but one placeholder takes the parameter as it is, so numbers stay numbers.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from heron_mqtt.field.vendor._mapping.problems import Problems
from heron_mqtt.field.vendor._mapping.tables import Scalar

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


def gather(
    declared: Mapping[str, Any], given: Mapping[str, Any], used: set[str], problems: Problems
) -> dict[str, Scalar]:
    """Return the value of every parameter: as given, else its default.

    Args:
        declared: ``parameters`` of the profile: a default, or a table with ``description`` and ``default``.
        given: ``parameters`` of the scenario.
        used: Names of all placeholders; what a profile declares for a part that is replaced is not needed.
        problems: Is told of values that are missing or no scalars.
    """
    values: dict[str, Scalar] = {}
    for name, default in declared.items():
        if name in given or name not in used:
            continue
        value = default.get("default") if isinstance(default, Mapping) else default
        if value is None:
            what = default.get("description", "no description") if isinstance(default, Mapping) else ""
            problems.add(f"parameters.{name}", f"missing; it must be given: {what}")
        else:
            values[name] = value
    for name, value in given.items():
        if isinstance(value, Scalar):
            values[name] = value
        else:
            problems.add(f"parameters.{name}", "must be a text, a number or true/false where it is given")
    return values


def check_use(
    data: Mapping[str, Any],
    declared: set[str],
    given: set[str],
    built_in: set[str],
    values: set[str],
    problems: Problems,
) -> None:
    """Complain about placeholders that mean nothing and given parameters that nothing uses.

    Args:
        data: The mapping, not filled in, without its parameters.
        declared: Names of the profile's parameters.
        given: Names of the scenario's parameters.
        built_in: Names that are always there.
        values: Names of the setpoint's values; they may stand in the payloads of its messages only.
        problems: Is told.
    """
    parameters = declared | given
    for name in sorted(parameters & built_in):
        problems.add(f"parameters.{name}", f"{name} is always there; give the parameter another name")
    for name in sorted(values & (parameters | built_in)):
        problems.add(f"setpoint.values.{name}", "there is a parameter of that name; give it another one")
    known = parameters | built_in
    used: set[str] = set()
    for key, text in _texts(data, ""):
        allowed = known | values if key.startswith("setpoint.messages") and ".payload" in key else known
        for name in PLACEHOLDER.findall(text):
            used.add(name)
            if name not in allowed:
                what = "a value of the setpoint belongs into a payload" if name in values else "unknown"
                problems.add(key, f"placeholder {{{name}}}: {what}; expected one of {_listed(allowed)}")
    for name in sorted(given - used - built_in):
        close = difflib.get_close_matches(name, known - {name}, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else f"; there are {_listed(used & known)}"
        problems.add(f"parameters.{name}", "no placeholder uses it" + hint)


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
