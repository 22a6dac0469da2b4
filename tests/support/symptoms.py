"""The symptoms of docs/troubleshooting.md: what the page says that one sees."""

from __future__ import annotations

import re

from support.doc_pages import ROOT

PAGE = ROOT / "docs" / "troubleshooting.md"


def texts() -> list[str]:
    """Return every code span in the first column of the page's tables, but for those of commands."""
    found = []
    section = ""
    for line in PAGE.read_text("utf-8").splitlines():
        if line.startswith("## "):
            section = line[3:]
        elif line.startswith("| `") and section != "Without a text":
            found += re.findall(r"`([^`]+)`", line.split(" | ")[0])
    return found


def is_seen(text: str, printed: str) -> bool:
    """Whether one printed line has a text of the page, whatever stands in its gaps."""
    assert text in texts(), f"the page does not quote {text!r}"
    parts = re.split(r"<[^<>]+>", text)
    return re.search(".+?".join(re.escape(part) for part in parts), printed) is not None
