"""What stands twice in the project's own files is the same in both places."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def _yaml(path: str) -> Any:
    return yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))


def test_the_versions_of_python_that_are_named_are_those_that_are_tested() -> None:
    prefix = "Programming Language :: Python :: 3."
    named = [each.removeprefix(prefix) for each in PYPROJECT["project"]["classifiers"] if prefix in each]
    tested = _yaml(".github/workflows/ci.yml")["jobs"]["run"]["strategy"]["matrix"]["python"]
    assert [f"3.{minor}" for minor in named] == tested
    assert PYPROJECT["project"]["requires-python"] == f">={tested[0]}"
    assert PYPROJECT["tool"]["mypy"]["python_version"] == tested[0]
    assert PYPROJECT["tool"]["ruff"]["target-version"] == f"py{tested[0].replace('.', '')}"


def test_the_citation_has_name_description_and_licence_of_the_package() -> None:
    project, citation = PYPROJECT["project"], _yaml("CITATION.cff")
    assert citation["title"] == f"{project['name']}: {project['description'].replace('An ', 'an ', 1)}"
    assert citation["license"] == project["license"]
    assert "version" not in citation  # it is in pyproject.toml and nowhere else


def test_the_forms_for_issues_have_what_a_form_needs() -> None:
    for form in ("bug", "feature"):
        fields = _yaml(f".github/ISSUE_TEMPLATE/{form}.yml")
        assert {"name", "description", "body"} <= fields.keys(), form
        named = [field["id"] for field in fields["body"] if field["type"] != "markdown"]
        assert len(named) == len(set(named)) > 0, form
