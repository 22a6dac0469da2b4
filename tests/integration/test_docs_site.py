"""The documentation site: built without a warning, complete, and with nothing of other hosts."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from support.doc_pages import PAGES, ROOT
from support.public_names import DOCUMENTED

sys.path.insert(0, str(ROOT / "scripts"))
from build_docs import FACES, Layout, build_site, loaded_from_elsewhere, public_names


def small_docs(root: Path, start: str, page: str = "# Page\n\n## A part\n") -> Path:
    """A repository with two pages."""
    (root / "docs").mkdir(parents=True)
    (root / "docs" / "README.md").write_text(start, encoding="utf-8")
    (root / "docs" / "page.md").write_text(page, encoding="utf-8")
    return root


def test_every_page_is_in_the_navigation(tmp_path: Path) -> None:
    Layout(tmp_path).fill()
    start = (tmp_path / "index.md").read_text("utf-8")
    entries = start[start.index("```{toctree}") :].splitlines()
    missing = [
        p.name for p in PAGES if p.parent.name == "docs" and p.stem != "README" and p.stem not in entries
    ]
    assert missing == [], "docs/README.md links to every page, below one of its headings"


def test_what_users_import_is_in_the_reference() -> None:
    offered = {name for face in FACES for name in public_names(face)}
    documented = {name for names in DOCUMENTED.values() for name in names if not name.startswith("_")}
    assert documented - offered == set()


def test_a_link_to_a_page_that_is_not_there_is_told_with_the_page(tmp_path: Path) -> None:
    root = small_docs(tmp_path / "root", "# Start\n\n[gone](gone.md)\n")
    with pytest.raises(SystemExit, match=r"README\.md: a link leads to .*gone\.md, which is not there"):
        Layout(tmp_path, root).fill()


def test_a_source_file_that_a_page_links_to_becomes_a_page(tmp_path: Path) -> None:
    root = small_docs(tmp_path / "root", "# Start\n\n## See\n\n[it](page.md) [code](device.py)\n")
    (root / "docs" / "device.py").write_text("print('hello')\n", encoding="utf-8")
    Layout(tmp_path, root).fill()
    assert "print('hello')" in (tmp_path / "device.py.md").read_text("utf-8")
    assert "[code](device.py.md)" in (tmp_path / "index.md").read_text("utf-8")


@pytest.mark.parametrize(
    "page",
    [
        '<link rel="preconnect" href="https://fonts.gstatic.com">',
        '<link href="//fonts.googleapis.com/css" rel="stylesheet">',
        '<script async src="https://cdn.jsdelivr.net/npm/mathjax.js"></script>',
        '<img alt="" src="http://example.org/badge.svg">',
        "<style>@import 'https://example.org/a.css';</style>",
        "<style>body { background: url(https://example.org/a.png) }</style>",
    ],
)
def test_what_a_page_would_fetch_from_another_host_is_found(tmp_path: Path, page: str) -> None:
    (tmp_path / "page.html").write_text(page, encoding="utf-8")
    assert len(loaded_from_elsewhere(tmp_path)) == 1


def test_a_link_that_a_reader_clicks_is_nothing_that_is_loaded(tmp_path: Path) -> None:
    page = '<a href="https://example.org">there</a><link rel="next" href="b.html"><img src="_images/a.png">'
    (tmp_path / "page.html").write_text(page, encoding="utf-8")
    assert loaded_from_elsewhere(tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize("link", ["page.md#no-such-part", "#no-such-heading"])
def test_an_anchor_that_is_not_there_fails_the_build(tmp_path: Path, link: str) -> None:
    root = small_docs(tmp_path / "root", f"# Start\n\n## See\n\n[page](page.md) and [part]({link})\n")
    assert build_site(tmp_path / "site", root, ["heron_mqtt.errors"]) == 1


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_site_is_built_without_a_warning_and_can_be_searched(tmp_path: Path) -> None:
    assert build_site(tmp_path) == 0
    index = (tmp_path / "searchindex.js").read_text("utf-8")
    for word in ("lease", "quickstart", "heron_mqtt.agents"):
        assert word in index
    assert "step_distributed" in (tmp_path / "python" / "heron_mqtt.agents.html").read_text("utf-8")
