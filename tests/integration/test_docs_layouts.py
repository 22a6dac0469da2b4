"""The repositories that pages show are whole: their files, as they stand there, pass their own tests."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from support.doc_pages import PAGES, blocks
from support.heron_command import run_heron

PLUGIN = "heron_mqtt.testing.pytest_plugin"


def plugin() -> list[str]:
    """Name the plugin where what is installed here does not yet."""
    known = any(point.value == PLUGIN for point in entry_points(group="pytest11"))
    return [] if known else ["-p", PLUGIN]


LAYOUTS = {
    page.name: page for page in PAGES if any("file" in b.words for b in blocks(page, "python", "toml"))
}


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("name", LAYOUTS)
def test_the_tests_of_an_example_repository_pass(name: str, tmp_path: Path) -> None:
    for block in blocks(LAYOUTS[name], "python", "toml"):
        if "file" in block.words:
            (tmp_path / block.words[block.words.index("file") + 1]).write_text(block.text, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *plugin()],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=380,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
    if (tmp_path / "suite.toml").exists():
        ended = run_heron("suite", "suite.toml", cwd=tmp_path, within_s=200.0)
        assert ended.code == 0, ended.out + ended.err
