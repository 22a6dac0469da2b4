"""One name, one meaning: a class name stands for one class in the whole source, a type name for one type."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path

import pytest

import heron_mqtt

ROOT = Path(heron_mqtt.__file__).resolve().parent.parent
CLASS = re.compile(r"^\s*class\s+(\w+)", re.MULTILINE)
# At the left margin, with a small letter: a type, and no constant.
ALIAS = re.compile(r"^([A-Z]\w*[a-z]\w*) = (.+?)(?:  #.*)?$", re.MULTILINE)


@pytest.fixture(scope="module")
def sources() -> dict[Path, str]:
    paths = sorted([*(ROOT / "heron_mqtt").rglob("*.py"), *(ROOT / "powergrid").rglob("*.py")])
    return {path.relative_to(ROOT): path.read_text() for path in paths}


def test_no_two_classes_share_one_name(sources: dict[Path, str]) -> None:
    seems: dict[str, list[Path]] = defaultdict(list)
    for path, text in sources.items():
        for name in CLASS.findall(text):
            seems[name].append(path)
    assert len(seems) > 200, "the source was not found"
    places: dict[str, list[str]] = defaultdict(list)
    for path in {path for paths in seems.values() if len(paths) > 1 for path in paths}:  # or a text has it
        for node in ast.walk(ast.parse(sources[path], str(path))):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(f"{path}:{node.lineno}")
    assert {name: found for name, found in places.items() if len(found) > 1} == {}


def test_no_two_types_share_one_name(sources: dict[Path, str]) -> None:
    """Options of the command line are exempt from the second rule: each command words its own."""
    classes = {name for text in sources.values() for name in CLASS.findall(text)}
    meanings: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for path, text in sources.items():
        for name, value in ALIAS.findall(text):
            meanings[name][value].append(str(path))
    assert len(meanings) > 50, "the source was not found"
    assert {name: dict(found) for name, found in meanings.items() if name in classes} == {}
    not_options = {
        name: {value: paths for value, paths in found.items() if not all("/cli/" in one for one in paths)}
        for name, found in meanings.items()
    }
    assert {name: found for name, found in not_options.items() if len(found) > 1} == {}
