"""Situations reported from real devices, each a folder of tests/vendor_cases, on a broker."""

from __future__ import annotations

import asyncio
import json
import tomllib
from typing import Any

import pytest

from support.selection import selected
from support.vendor_case_runner import FOLDER, Outcome, case_of, fits, mapping_of, names, run_all

NAMES = names()


@pytest.fixture(scope="module")
def outcomes(request: pytest.FixtureRequest, embedded_url: str) -> dict[str, Outcome]:
    """All that are to run, at once: they differ in their topics, and mostly wait."""
    return asyncio.run(run_all(embedded_url, selected(request, "name")))


def _marked(name: str) -> Any:
    """A further case of a situation (``05s-``) is slow where the first one of it (``05-``) is quick."""
    first = name.partition("s-")[0]
    is_further = first.isdigit() and any(other.startswith(f"{first}-") for other in NAMES)
    return pytest.param(name, marks=pytest.mark.slow) if is_further else name


def test_no_two_cases_share_a_topic() -> None:
    owners: dict[str, str] = {}
    for name in NAMES:
        for topic in mapping_of(name).topic_filters():
            assert owners.setdefault(topic, name) == name, topic


@pytest.mark.parametrize("name", map(_marked, NAMES))
def test_a_mapping_gives_what_the_device_means(name: str, outcomes: dict[str, Outcome]) -> None:
    outcome, case = outcomes[name], case_of(name)
    if outcome.failure is not None:
        raise outcome.failure
    for key, wanted in case["expect"].items():
        check(key, wanted, outcome)


def check(key: str, wanted: Any, outcome: Outcome) -> None:
    seen = {round(kw, 6) for kw in outcome.kw}
    match key:
        case "kw":
            assert outcome.telemetry, outcome.reports
            assert outcome.kw[-1] == pytest.approx(wanted, rel=1e-6, abs=1e-9)
        case "soc" | "vm_pu" | "running" | "q_mvar":
            assert outcome.telemetry, outcome.reports
            assert outcome.telemetry[-1].get(key) == pytest.approx(wanted)
        case "seen_kw":
            assert set(wanted) <= seen
        case "never_kw":
            assert not set(wanted) & seen
        case "only_kw":
            assert seen == set(wanted)
        case "silent":
            assert (outcome.telemetry == []) is wanted, outcome.kw
        case "status":
            assert outcome.status[-1]["state"] == wanted, outcome.status
        case "reason":
            assert wanted in (outcome.status[-1].get("reason") or "")
        case "states":
            assert [s["state"] for s in outcome.status] == wanted
        case "rejected":
            rejected = [t["rejected"] for t in outcome.telemetry if t.get("rejected")]
            assert (rejected == []) if wanted is None else any(wanted in r for r in rejected), rejected
        case "acknowledged":
            assert any("ack_seq" in t for t in outcome.telemetry) is wanted
        case "told":
            got = [[topic, parsed(text)] for topic, text in outcome.told]
            assert fits(got, wanted), f"told {json.dumps(got)}"
        case "told_first":
            got = [[topic, parsed(text)] for topic, text in outcome.told][: len(wanted)]
            assert fits(got, wanted), f"told {json.dumps(got)}"
        case "reported":
            found = outcome.reports
            assert (found == []) if wanted is None else any(wanted in r for r in found), found
        case _:
            raise KeyError(key)


def parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def test_every_case_says_what_it_is_about() -> None:
    for name in NAMES:
        case = case_of(name)
        assert case["about"], name
        assert case["expect"], name
        assert tomllib.loads((FOLDER / name / "mapping.toml").read_text())["name"], name
