"""docs/wire-contract.md against the code, and against what a run really puts on the wire."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from heron_mqtt.cli.command_line import run_command_line
from heron_mqtt.errors import MessageError
from heron_mqtt.field.device.lease import DeviceLease
from heron_mqtt.messages import WIRE_TYPES, Message, Setpoint, parse_any
from heron_mqtt.messaging import topics
from heron_mqtt.messaging.codec import decode
from heron_mqtt.messaging.core.background_loop import run_sync
from heron_mqtt.messaging.mqtt import MqttBroker
from support.doc_pages import ROOT, blocks, section
from support.heron_command import run_script
from support.mosquitto_server import Mosquitto

pytestmark = pytest.mark.usefixtures("built_once")

PAGE = ROOT / "docs" / "wire-contract.md"
RECORDED = [
    (topic, json.loads(payload))
    for block in blocks(PAGE, "text")
    if "recorded" in block.words
    for topic, payload in (line.split(" ", 1) for line in block.text.splitlines())
]

INTERNAL = re.compile(
    "^bench/|^session/|/probe(_will)?$"
)  # of benchmarks, of clients, what tries out a broker


def contract() -> dict[str, set[str]]:
    """Return the page's table: channel -> names of the messages on it."""
    rows = re.findall(r"^\| `([^`]+)` \|(.*)$", section(PAGE, "Every topic"), re.MULTILINE)
    return {channel: set(re.findall(r"\]\(#(\w+)\)", rest)) for channel, rest in rows}


def shape(channel: str) -> str:
    """Return a channel as the page writes it: ``agents/MG1/action`` -> ``agents/<agent>/action``."""
    for pattern in contract():
        if topics.matches(re.sub(r"<\w+>", "+", pattern), channel):
            return pattern
    return channel


def unknown_fields(message: dict[str, Any]) -> set[str]:
    """Return the fields of a message that its model does not name."""
    model = WIRE_TYPES[message["type"]]
    prefixes = (*getattr(model, "number_prefixes", ()), *getattr(model, "text_prefixes", ()))
    return {name for name in message if name not in model.model_fields and not name.startswith(prefixes)}


def test_the_table_has_every_channel_of_the_code() -> None:
    patterns = {re.sub(r"\{(\w+)\}", r"<\1>", rule.pattern) for rule in topics.RULES}
    patterns = {p for p in patterns if not INTERNAL.search(p)}
    assert set(contract()) == {p.replace("p2p/<agent>/<peer>", "p2p/<from>/<to>") for p in patterns}


def test_the_table_says_what_is_retained_as_the_code_does() -> None:
    rows = re.findall(r"^\| `([^`]+)` \|(?:[^|]*\|){2} (yes|no)", section(PAGE, "Every topic"), re.MULTILINE)
    kept = {re.sub(r"\{(\w+)\}", r"<\1>", rule.pattern) for rule in topics.RULES if rule.retained}
    assert {channel for channel, retained in rows if retained == "yes"} == kept


def test_the_table_has_every_message() -> None:
    assert set().union(*contract().values()) == set(WIRE_TYPES)


def test_every_message_has_a_recorded_payload_on_its_topic() -> None:
    by_the_page = contract()
    for name in WIRE_TYPES:
        found = [topic for topic, message in RECORDED if message["type"] == name]
        assert found, f"no recorded payload of {name}"
        for topic in found:
            channel = topic.split("/", 2)[2]
            assert name in by_the_page[shape(channel)], f"{name} does not belong on {topic}"


def test_recorded_payloads_are_valid_and_hold_nothing_unknown() -> None:
    for topic, message in RECORDED:
        parse_any(message)
        assert unknown_fields(message) == set(), topic


def test_the_filter_shown_with_a_message_brings_it() -> None:
    text = PAGE.read_text(encoding="utf-8")
    shown = ""
    for found in re.finditer(r"mosquitto_sub -t '([^']+)'|^(heron/\S+) \{", text, re.MULTILINE):
        if found[1]:
            shown = found[1]
        else:
            assert topics.matches(shown, found[2]), f"{shown} does not bring {found[2]}"


def test_each_line_that_listens_prints_what_the_page_shows_below_it(
    own_mosquitto: Callable[..., Mosquitto],
) -> None:
    mosquitto = own_mosquitto()
    shown: list[tuple[str, list[str]]] = []
    for block in blocks(PAGE, "sh", "text"):
        if "heard" in block.words:
            shown.append((block.text.strip(), []))
        elif "recorded" in block.words:
            shown[-1][1].extend(block.text.splitlines())
    everything = [line for _, lines in shown for line in lines]
    assert len(shown) > 20
    listening = []
    try:
        for line, _ in shown:
            words = shlex.split(line)
            due = [one for one in everything if topics.matches(words[words.index("-t") + 1], one.split()[0])]
            words += ["-p", str(mosquitto.port), "-q", "1", "-d", "-C", str(len(due)), "-W", "30"]
            listening.append(subprocess.Popen(["stdbuf", "-oL", *words], stdout=subprocess.PIPE, text=True))
        for process in listening:
            assert process.stdout is not None
            assert any("Subscribed" in line for line in process.stdout)
        for line in everything:
            topic, payload = line.split(" ", 1)
            sent = ["mosquitto_pub", "-p", str(mosquitto.port), "-q", "1", "-t", topic, "-m", payload]
            subprocess.run(sent, check=True, timeout=30)
        for process, (line, below) in zip(listening, shown, strict=True):
            assert process.stdout is not None
            printed = process.stdout.read().splitlines()
            assert set(below) <= set(printed), line
            assert process.wait(30) == 0, line
    finally:
        for process in listening:
            process.kill()
            process.wait()


def test_the_escaped_identifier_on_the_page_is_what_the_code_makes() -> None:
    escaped = topics.agent("north/2", "status").removesuffix("status")
    assert f"`heron/<env>/{escaped}...`" in PAGE.read_text(encoding="utf-8")
    assert topics.levels(escaped)[1] == "north/2"


def kinds_of_fields(message: dict[str, Any]) -> set[str]:
    """Return the fields of a message; of those that name a device or peer what stands before the name."""
    model = WIRE_TYPES[message["type"]]
    prefixes = (*getattr(model, "number_prefixes", ()), *getattr(model, "text_prefixes", ()))
    fixed = model.model_fields
    return {next((p for p in prefixes if name not in fixed and name.startswith(p)), name) for name in message}


def recorded_fields(name: str) -> set[str]:
    """Return every kind of field that the page shows in a message of this type."""
    return set().union(*(kinds_of_fields(message) for _, message in RECORDED if message["type"] == name))


# -- rules -------------------------------------------------------------------------------------------


def _examples() -> Iterator[tuple[str, dict[str, Any]]]:
    seen = set()
    for _, message in RECORDED:
        if message["type"] not in seen:
            seen.add(message["type"])
            yield message["type"], message


EXAMPLES = dict(_examples())


@pytest.mark.parametrize("name", EXAMPLES)
def test_unknown_fields_are_ignored(name: str) -> None:
    with_more = parse_any({**EXAMPLES[name], "colour": {"of": ["the", "cable"]}})
    known = set(EXAMPLES[name])
    assert with_more.model_dump(include=known) == parse_any(EXAMPLES[name]).model_dump(include=known)


@pytest.mark.parametrize("name", EXAMPLES)
def test_wrong_fields_are_refused(name: str) -> None:
    for field, value in EXAMPLES[name].items():
        if type(value) in {int, float}:
            if field in WIRE_TYPES[name].for_records:
                assert getattr(parse_any({**EXAMPLES[name], field: "much"}), field) is None
            else:
                with pytest.raises(MessageError, match=field):
                    parse_any({**EXAMPLES[name], field: "much"})
            with pytest.raises(MessageError):
                decode(json.dumps({**EXAMPLES[name], field: float("nan")}).encode())
    with pytest.raises(MessageError):
        parse_any({**EXAMPLES[name], "type": "gossip"})


def test_the_worked_example_of_freshness_is_what_a_lease_does() -> None:
    rows = re.findall(r"^\| (\d+\.\d) \| (.*?) \| (.*?) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    now_s = [0.0]
    lease = DeviceLease(lambda: now_s[0])
    outcomes = []
    for at, event, told in rows:
        now_s[0] = float(at)
        asked = re.search(r"(setpoint|renewal) (\d+)\b.*`heard_seq` (\d+)", event)
        if asked is not None:
            setpoint = Setpoint(
                p_mw=0.02,
                lease_s=6.0,
                sender="MG1",
                boot="g",
                seq=int(asked[2]),
                renewal=asked[1] == "renewal",
                heard_boot="c4",
                heard_seq=int(asked[3]),
            )
            if setpoint.renewal and not lease.is_of(setpoint):
                outcomes.append("ignored" in told)
            elif lease.refusal(setpoint) is not None:
                outcomes.append("refused, stale" in told)
            else:
                lease.hold(setpoint)
                outcomes.append(f"= {lease.ends_at:g}" in told)
        if "over:" in told:
            outcomes.append(not lease.is_running)
            lease.end()
        for numbers in re.findall(r"telemetry (\d+(?:, \d+)*)", f"{event} {told}"):
            for number in numbers.split(", "):
                lease.published("c4", int(number))
    assert outcomes == [True] * 6


# -- a run -------------------------------------------------------------------------------------------


def test_a_run_says_what_the_page_says_and_nothing_else(
    embedded_url: str, tmp_path: Path, env_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Agents, emulated devices and the check of all setpoints: every message is one of the contract's."""
    scenario = (ROOT / "config" / "three_microgrids.toml").read_text(encoding="utf-8")
    start = f'env_id = "{env_id}"\n[envelope]\ngrid_check = true\n\n[network]'
    scenario = scenario.replace("start_row = 0 ", "start_row = 36 ")  # 9:00, when some sell and some buy
    (tmp_path / "scenario.toml").write_text(scenario.replace("[network]", start, 1), encoding="utf-8")
    heard: list[tuple[str, dict[str, Any]]] = []
    watching = MqttBroker(embedded_url, env_id=env_id)
    watching.subscribe("#", lambda message: heard.append((message.channel, dict(message))))
    arguments = ["run", str(tmp_path / "scenario.toml"), "--broker", embedded_url, "--steps", "2", "--json"]
    monkeypatch.setattr(sys, "argv", ["heron-mqtt", *arguments])
    assert run_command_line() == 0
    run_sync(watching.close())

    table = contract()
    heard = [(channel, message) for channel, message in heard if not INTERNAL.search(channel)]
    for channel, message in heard:
        assert shape(channel) in table, f"{channel} is not in the table"
        parsed: Message = parse_any(message)
        assert message["type"] in table[shape(channel)], f"{message['type']} on {channel}"
        assert parsed.env_id == env_id
        assert unknown_fields(message) == set(), channel
        assert kinds_of_fields(message) <= recorded_fields(message["type"]), f"{channel}: record it anew"
    assert {message["type"] for _, message in heard} == {
        *("run_state", "price", "observation", "action", "status", "offer", "accept", "confirm"),
        *("network", "grid_results"),
        *("plan", "clearance", "setpoint", "telemetry", "authority_state", "owner", "lease"),
    }


def test_the_field_tables_are_up_to_date() -> None:
    script = ROOT / "scripts" / "wire_reference.py"
    done = run_script(script, "--check")
    assert done.code == 0, done.out + done.err
