"""JUnit XML, as every CI server reads it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from xml.etree import ElementTree as ET

_NOT_IN_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True, slots=True)
class JUnitCase:
    """One test case.

    Attributes:
        group: Its class name.
        name: Its name in the group.
        outcome: How it ended; ``error``: it could not be tried.
        what: Why, if it did not pass.
        output: What belongs to it.
        seconds: How long it took.
    """

    group: str
    name: str
    outcome: Literal["pass", "fail", "error", "skip"]
    what: str = ""
    output: str = ""
    seconds: float = 0.0


def junit_xml(suite: str, begun: datetime, cases: Sequence[JUnitCase]) -> str:
    """Return one suite as a JUnit file."""
    count = {kind: str(sum(c.outcome == kind for c in cases)) for kind in ("fail", "error", "skip")}
    counts = {"tests": str(len(cases)), "failures": count["fail"], "errors": count["error"]}
    counts |= {"skipped": count["skip"], "time": f"{sum(c.seconds for c in cases):.3f}"}
    root = ET.Element("testsuites", {"name": "heron-mqtt", **counts})
    stamp = begun.replace(tzinfo=None).isoformat(timespec="seconds")
    group = ET.SubElement(root, "testsuite", {"name": _clean(suite), "timestamp": stamp, **counts})
    for case in cases:
        attributes = {"classname": _clean(case.group), "name": _clean(case.name)}
        node = ET.SubElement(group, "testcase", {**attributes, "time": f"{case.seconds:.3f}"})
        tag = {"fail": "failure", "error": "error", "skip": "skipped"}.get(case.outcome)
        if tag is not None:
            child = ET.SubElement(node, tag, {"message": _clean(case.what)[:1000]})
            child.text = _clean(case.what)
        if case.output:
            ET.SubElement(node, "system-out").text = _clean(case.output)
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _clean(text: str) -> str:
    """Return a text without the characters that XML cannot hold."""
    return _NOT_IN_XML.sub("?", text)
