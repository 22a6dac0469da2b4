"""What a conformance report says: its promises, its verdicts, JUnit and the page."""

from __future__ import annotations

import re
import sys
from datetime import UTC, datetime
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from heron_mqtt.errors import ConfigError
from heron_mqtt.testing.conformance import (
    PROMISES,
    RULES,
    ConformanceOptions,
    ConformanceResult,
    PromiseResult,
    conformance_junit,
    conformance_page,
    verdict_of,
)
from heron_mqtt.testing.conformance.results import PromiseVerdict
from heron_mqtt.testing.conformance.serve import device_class
from heron_mqtt.testing.device_harness import DeviceHarness
from heron_mqtt.testing.device_process import fill_in
from support.heron_command import run_script
from support.rows import each_row

ROOT = Path(__file__).resolve().parents[3]
NASTY = '<b>&"\x00\x1b]]>\ud800'


def result_of(*verdicts: PromiseVerdict) -> ConformanceResult:
    found = ConformanceResult("MG1/ess", {"kind": NASTY}, datetime(2026, 1, 2, tzinfo=UTC))
    found.results = [
        PromiseResult(promise, verdict, "" if verdict == "pass" else NASTY, (NASTY,), (NASTY,), 1.0)
        for promise, verdict in zip(PROMISES, verdicts, strict=False)
    ]
    return found


def test_the_rules_are_the_headings_of_the_safety_page() -> None:
    page = (ROOT / "docs/safety.md").read_text(encoding="utf-8")
    assert dict(RULES) == {int(n): text for n, text in re.findall(r"^### (\d)\. (.*)$", page, re.MULTILINE)}


def test_every_line_of_the_safety_page_has_a_promise() -> None:
    assert {promise.rule for promise in PROMISES} == set(RULES)
    assert len({promise.id for promise in PROMISES}) == len(PROMISES)


def test_each_promise_is_examined_after_what_it_stands_on() -> None:
    before: set[str] = set()
    for promise in PROMISES:
        assert set(promise.requires) <= before, promise.id
        before.add(promise.id)


@pytest.mark.parametrize(
    ("verdicts", "conforms"),
    [
        (("pass", "pass"), True),
        (("pass", "not applicable"), True),
        (("pass", "not shown"), True),
        (("not shown",), False),
        (("not applicable",), False),
        ((), False),
        (("pass", "not tried"), False),
        (("pass", "fail"), False),
    ],
)
def test_only_what_was_examined_and_kept_counts(verdicts: tuple[PromiseVerdict, ...], conforms: bool) -> None:
    assert result_of(*verdicts).conforms is conforms


def test_a_part_of_the_promises_is_not_called_conformance() -> None:
    part = result_of("pass")
    assert verdict_of(part).startswith(f"KEPT AS FAR AS EXAMINED, 1 of {len(PROMISES)} promises")
    assert part.as_dict()["whole"] is False
    whole = result_of(*["pass"] * len(PROMISES))
    assert verdict_of(whole).startswith("CONFORMS: ")
    assert whole.as_dict()["whole"] is True


def test_a_rule_of_which_a_part_was_not_shown_is_no_pass_and_the_last_line_names_it() -> None:
    found = result_of()
    found.results = [
        PromiseResult(promise, "not shown" if promise.id == "hand-back" else "pass") for promise in PROMISES
    ]
    assert (found.verdict_of_rule(7), found.verdict_of_rule(5)) == ("not shown", "pass")
    assert result_of("pass").verdict_of_rule(PROMISES[0].rule) == "not shown"  # there are others of it
    assert "1 not shown on this bench (hand-back)" in verdict_of(found)
    assert '7. A vendor&#x27;s device is handed back<br><span class="not-shown">' in conformance_page(found)


def test_an_examination_that_was_broken_off_does_not_conform() -> None:
    found = result_of("pass")
    found.interrupted = True
    assert not found.conforms
    assert "NOT EXAMINED TO THE END" in conformance_page(found)
    assert ET.fromstring(conformance_junit(found)).attrib["errors"] == "1"


def test_junit_says_what_failed_and_never_counts_what_does_not_apply_as_passed() -> None:
    found = result_of("pass", "fail", "not tried", "not applicable", "not shown")
    root = ET.fromstring(conformance_junit(found))
    suite = root[0].attrib
    assert [suite[name] for name in ("tests", "failures", "errors", "skipped")] == ["5", "1", "1", "2"]
    told = [one.attrib["message"].split(":")[0] for one in root.iter("skipped")]
    assert told == ["not applicable", "not shown"]
    assert root.find(".//failure") is not None


def test_the_page_escapes_what_a_device_says_and_needs_nothing_from_elsewhere() -> None:
    page = conformance_page(result_of("pass", "fail", "not applicable"))
    assert "<b>&" not in page
    assert not re.search(r"(src|href)=\"(?!#)", page)
    assert "signature" in page
    assert "`" not in conformance_page(result_of(*["pass"] * len(PROMISES)))


def test_the_hash_on_the_page_changes_with_the_results() -> None:
    assert result_of("pass").digest == result_of("pass").digest != result_of("fail").digest


@each_row(
    ("least_mw", "birth", "parts_mw"),
    [
        (0.0, {"p_min_mw": -0.05, "p_max_mw": 0.05}, (0.01, 0.05)),
        (0.006, {"p_min_mw": 0.0, "p_max_mw": 0.02}, (0.0088, 0.02)),
        (0.006, {"p_min_mw": -0.02, "p_max_mw": 0.0}, (-0.0088, -0.02)),
    ],
)
def test_a_device_is_asked_for_parts_of_what_it_can_hold(
    least_mw: float, birth: dict[str, float], parts_mw: tuple[float, float]
) -> None:
    harness = DeviceHarness("mqtt://127.0.0.1:1", env_id="bench", least_mw=least_mw)
    harness.birth = lambda since=0: birth  # type: ignore[method-assign]
    assert (harness.part_mw(0.2), harness.part_mw(1.0)) == pytest.approx(parts_mw)


@each_row(
    ("options", "complaint"),
    [
        ({"device": "ess"}, "--device ess: expected AGENT/DEVICE"),
        ({"device": "MG1/ess"}, "--broker: where is the device?"),
        ({"device": "MG1/ess", "command": ["x"], "only": ["lease"]}, "--only lease: no such promise"),
        ({"device": "MG1/ess", "command": ["x"], "class_name": "a:B"}, "one or the other"),
        ({"device": "MG1/ess", "command": ["x"], "max_p_mw": -1.0}, "--max-power -1"),
        ({"device": "MG1/ess", "command": ["x"], "min_p_mw": 0.0}, "--min-power 0"),
        ({"device": "MG1/ess", "command": ["x"], "ramp_mw_per_s": float("nan")}, "--ramp nan"),
        ({"device": "MG1/ess", "command": ["x"], "tolerance": 0.5}, "--tolerance 0.5"),
        ({"device": "MG1/ess", "broker": "127.0.0.1:1883"}, "did you mean mqtt://127.0.0.1:1883?"),
    ],
)
def test_wrong_options_are_refused_by_name(options: dict[str, object], complaint: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(complaint)):
        ConformanceOptions(**options).check()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("Inverter", "expected MODULE:CLASS"),
        ("nowhere.py:Inverter", "there is no file"),
        ("no_such_module:Inverter", "cannot be imported"),
        ("json:JSONDecoder", "derived from FieldDevice"),
        ("heron_mqtt.field.device:FieldDevice", "it lacks apply, measure"),
    ],
)
def test_a_class_that_cannot_be_served_is_refused(name: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(complaint)):
        device_class(name)


def test_a_class_that_uses_a_name_of_its_base_class_is_refused_before_it_fails(tmp_path: Path) -> None:
    text = "from heron_mqtt import FieldDevice\n\n\nclass Pump(FieldDevice):\n    kind = 'load'\n"
    text += "    def nameplate(self): ...\n    def measure(self): ...\n"
    own = text + "    def apply(self, setpoint):\n        self._my_power = self.at_s = 0.0\n"
    (tmp_path / "own_names.py").write_text(own)
    assert device_class(f"{tmp_path}/own_names.py:Pump").kind == "load"
    (tmp_path / "taken_names.py").write_text(own.replace("self.at_s", "self._at"))
    with pytest.raises(ConfigError, match=r"taken_names\.py:Pump: _at: a name that FieldDevice uses itself"):
        device_class(f"{tmp_path}/taken_names.py:Pump")


def test_the_placeholders_of_a_command_line_are_filled_in() -> None:
    words = fill_in(
        ["{python}", "{host}", "{port}", "{env}/{agent}/{device}", "{broker}", "{other}"],
        url="mqtt://127.0.0.1:1234",
        env_id="e",
        agent_id="MG1",
        name="ess",
    )
    assert words == [sys.executable, "127.0.0.1", "1234", "e/MG1/ess", "mqtt://127.0.0.1:1234", "{other}"]


@pytest.mark.parametrize(
    ("url", "where"),
    [
        ("mqtt://broker.lab", "broker.lab 1883"),
        ("mqtts://broker.lab", "broker.lab 8883"),
        ("mqtt://jane:s%40fe@127.0.0.1:1234", "127.0.0.1 1234"),
        ("ws://127.0.0.1:9001/mqtt", "127.0.0.1 9001"),
        ("mqtt://[::1]:1234", "::1 1234"),
        ("mqtt://one:1,two:2", "one 1"),
    ],
)
def test_host_and_port_are_those_of_the_address_without_a_login(url: str, where: str) -> None:
    words = fill_in(["{host}", "{port}"], url=url, env_id="e", agent_id="MG1", name="ess")
    assert " ".join(words) == where


def test_the_table_of_promises_in_the_page_is_up_to_date() -> None:
    script = ROOT / "scripts/promises_table.py"
    done = run_script(script, "--check")
    assert done.code == 0, "python scripts/promises_table.py writes it"
