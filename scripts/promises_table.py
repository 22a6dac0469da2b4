"""Writes the table of promises in docs/testing-your-device.md; ``--check`` fails if it is not up to date."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from heron_mqtt.testing.conformance import PROMISES, RULES

PAGE = Path(__file__).resolve().parents[1] / "docs" / "testing-your-device.md"
PLACE = re.compile(r"(<!-- promises: begin -->\n).*?(<!-- promises: end -->)", re.DOTALL)


def table() -> str:
    """Return the table, by line of docs/safety.md."""
    rows = ["", "| line of [safety](safety.md) | promise | what |", "|---|---|---|"]
    for rule, heading in RULES.items():
        rows += [f"| {rule}. {heading} | `{p.id}` | {p.text} |" for p in PROMISES if p.rule == rule]
    return "\n".join([*rows, "", ""])


def main() -> int:
    """Write the page, or compare it."""
    text = PAGE.read_text(encoding="utf-8")
    wanted = PLACE.sub(lambda m: f"{m[1]}{table()}{m[2]}", text)
    if "--check" in sys.argv[1:]:
        return 0 if wanted == text else 1
    PAGE.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
