"""Assertions that a second process rewrites are read by the one that collects."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from support.rewritten_ahead import RewritesAhead, rewrite

pytest_plugins = ["pytester"]

FILES = ("test_a.py", "test_b.py", "inner/test_c.py")


@pytest.fixture
def config(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Config:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    (pytester.path / "inner").mkdir()
    for name in FILES:
        (pytester.path / name).write_text("def test_it():\n    assert 1 + 1 == 2\n")
    return pytester.parseconfigure("-p", "no:cacheprovider", ".")


def test_each_file_is_rewritten_once_and_again_when_it_changes(config: pytest.Config) -> None:
    folder = config.rootpath
    assert {file.relative_to(folder) for file in rewrite(config)} == {Path(name) for name in FILES}
    assert rewrite(config) == []
    (folder / "test_b.py").write_text("def test_it():\n    assert 1 + 2 == 3\n")
    assert rewrite(config) == [folder / "test_b.py"]


@pytest.mark.slow  # test_forked_worker.py collects so, too
def test_a_file_is_rewritten_beside_a_collection_which_tells_what_cannot_be(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    wrong = pytester.makepyfile(test_a="def test_it(:\n    pass\n")
    pytester.makepyfile(test_b="def test_it():\n    assert [1] == [2]\n")
    words = ("-p", "no:cacheprovider", "--ignore=test_b.py", ".")  # left to the second process
    done = pytester.inline_run(*words, plugins=[RewritesAhead()])
    (failed,) = [report for report in done.getreports() if report.failed]
    assert wrong.name in failed.nodeid
    assert list((pytester.path / "__pycache__").glob("test_b.*-pytest-*.pyc"))
