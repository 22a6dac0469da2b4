"""What users import: the names of the documentation, and the exception tree as its file draws it."""

from __future__ import annotations

import importlib
import inspect
import re

import pytest

from heron_mqtt import errors
from support.public_names import DOCUMENTED
from support.rows import each_row

TREE = {
    "HeronError": ["Exception"],
    "ConfigError": ["HeronError", "ValueError"],
    "DataError": ["ConfigError"],
    "BrokerError": ["HeronError"],
    "BrokerUnavailable": ["BrokerError", "ConnectionError"],
    "BrokerRefused": ["BrokerError"],
    "BrokerClosed": ["BrokerError"],
    "AddressInUse": ["BrokerError"],
    "BrokerOverflow": ["BrokerError"],
    "MessageExpired": ["BrokerError"],
    "UnsupportedFeature": ["BrokerError", "NotImplementedError"],
    "MessageError": ["HeronError", "ValueError"],
    "NotReady": ["HeronError", "TimeoutError"],
    "ModelFailed": ["HeronError"],
    "NameTaken": ["HeronError"],
    "NotHandedBack": ["HeronError"],
    "Displaced": ["NameTaken"],
    "PlaceTaken": ["HeronError"],
    "PowerFlowError": ["HeronError"],
    "PowerFlowDiverged": ["PowerFlowError"],
    "UnsupportedElement": ["PowerFlowError"],
}


@pytest.mark.parametrize(("module", "names"), DOCUMENTED.items(), ids=list(DOCUMENTED))
def test_a_documented_name_can_be_imported_and_has_a_docstring(module: str, names: list[str]) -> None:
    found = importlib.import_module(module)
    for name in names:
        value = getattr(found, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert inspect.getdoc(value), f"{module}.{name} says nothing about itself"


@each_row("module", [name for name in DOCUMENTED if name.count(".") == 1])
def test_a_package_exports_what_it_says(module: str) -> None:
    found = importlib.import_module(module)
    assert found.__doc__
    for name in getattr(found, "__all__", []):
        assert hasattr(found, name)


def test_the_public_names_of_errors_are_these() -> None:
    """Users catch each of them: a name that goes away breaks them, a new one belongs in the tree."""
    assert sorted(errors.__all__) == sorted(TREE)
    defined = {n for n, v in vars(errors).items() if inspect.isclass(v) and v.__module__ == errors.__name__}
    assert defined == set(TREE)


@pytest.mark.parametrize(("name", "bases"), TREE.items(), ids=list(TREE))
def test_an_error_is_caught_by_its_family_and_by_the_builtin_it_resembles(
    name: str, bases: list[str]
) -> None:
    assert [base.__name__ for base in getattr(errors, name).__bases__] == bases


def test_the_drawing_at_the_top_of_the_file_is_the_tree() -> None:
    drawn: dict[str, str] = {}
    levels: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"^ {4}((?:[|` ] {3})*)(?:[|`]-- )?([A-Z]\w+)\b", line)
        if match is None:
            continue
        depth = len(match[1]) // 4 + ("-- " in line[: match.start(2)])
        levels[depth:] = [match[2]]
        drawn[match[2]] = levels[depth - 1] if depth else "Exception"
    assert drawn == {name: bases[0] for name, bases in TREE.items()}


def test_a_config_error_keeps_its_problems_apart() -> None:
    error = errors.ConfigError("a: b", "c: d")
    assert error.problems == ("a: b", "c: d")
    assert str(error) == "a: b\nc: d"


def test_a_diverged_power_flow_says_why() -> None:
    assert errors.PowerFlowDiverged("no convergence").reason == str(
        errors.PowerFlowDiverged("no convergence")
    )
