"""One name, one meaning: a class name stands for one class in the whole source."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path

import heron_mqtt

ROOT = Path(heron_mqtt.__file__).resolve().parent.parent


def test_no_two_classes_share_one_name() -> None:
    seems: dict[str, list[Path]] = defaultdict(list)
    for path in sorted([*(ROOT / "heron_mqtt").rglob("*.py"), *(ROOT / "powergrid").rglob("*.py")]):
        for name in re.findall(r"^\s*class\s+(\w+)", path.read_text(), re.MULTILINE):
            seems[name].append(path)
    assert len(seems) > 200, "the source was not found"
    places: dict[str, list[str]] = defaultdict(list)
    for path in {path for paths in seems.values() if len(paths) > 1 for path in paths}:  # or a text has it
        for node in ast.walk(ast.parse(path.read_text(), str(path))):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert {name: found for name, found in places.items() if len(found) > 1} == {}
