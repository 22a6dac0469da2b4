"""A mapping to start from, with comments: a shipped profile where one fits, else what was guessed."""

from __future__ import annotations

import json
import re

from heron_mqtt.app.probe.listen import ListenResult
from heron_mqtt.app.probe.recognise import ProfileMatch

_DECIMAL_COMMA = re.compile(r"[-+]?\d+,\d+(?!\d)")
_UNIT_BEHIND = re.compile(r"[-+]?[\d.,]+\s*(?P<unit>[^\W\d_]+|%)")
OTHERS = 20  # other devices that are named
WANTED = {"p_mw": "W", "vm_pu": "V", "soc": "%", "q_mvar": "var"}
SIGN = "sign = 1    # -1 if the device reports consumption as positive; here injection is positive"
OF_RATED = f'unit = "percent"\nrated_mw = 1.0    # the power at 100 %, MW: see its nameplate\n{SIGN}'
KEYS = {
    "p_mw": f'unit = "{{unit}}"\n{SIGN}',
    "vm_pu": 'unit = "V"\nnominal_v = 230.0    # the voltage that is 1 pu',
    "soc": 'unit = "percent"',
    "q_mvar": f'unit = "{{unit}}"\n{SIGN}',
}


def draft(heard: ListenResult, matches: list[ProfileMatch]) -> str:
    """Return the text of a mapping file, or of the lines that use a profile."""
    if matches:
        return _with_profile(matches[0], matches[1:])
    return _from_guesses(heard)


def _with_profile(match: ProfileMatch, others: list[ProfileMatch]) -> str:
    lines = [
        f"# {match.name}: the shipped profile {match.profile} fits {len(match.topics)} topics, for example",
        f"#   {match.topics[0]}",
        "# Read the beginning of that file: which settings the device needs, and what it cannot do.",
    ]
    if match.is_asked:
        lines.append(
            "# The device sends more only if this mapping asks for it: probe does not ask (with --mapping: "
            "--ask)."
        )
    if others:
        lines.append(
            "# Other devices publish here too; heron-mqtt probe --topic FILTER --write FILE writes theirs:"
        )
        lines += [f"#   {other.name}: {other.topics[0]}" for other in others[:OTHERS]]
    lines += [f"profile = {json.dumps(match.profile)}", "", "[parameters]"]
    lines += [f"{name} = {json.dumps(value)}" for name, value in match.parameters.items()]
    lines += [f"# {name} = ...    # no message contains it: {what}" for name, what in match.missing.items()]
    return "\n".join(lines) + "\n"


def _from_guesses(heard: ListenResult) -> str:
    lines = [
        "# A draft of a mapping, guessed from words and units. Check each line: sign and unit are the most",
        "# frequent mistakes. heron-mqtt probe --mapping FILE shows raw payloads beside values.",
        'name = "my device"',
        "",
    ]
    taken: set[str] = set()
    for one, path, value, meant in heard.meanings():
        if meant.quantity not in WANTED or meant.quantity in taken:
            continue
        taken.add(meant.quantity)
        lines += [
            f"# {json.dumps(one.sample[:120].decode(errors='replace'))}",
            "[[telemetry]]",
            f"topic = {json.dumps(one.topic)}",
        ]
        pairs = one.pairs
        if pairs is not None:
            lines += ['format = "key_value"', f"separator = {json.dumps(pairs.separator)}"]
            lines += [f"assign = {json.dumps(pairs.assign)}"] * (pairs.assign != "=")
        elif not path:
            lines.append('format = "text"')
        elif one.is_almost_json:
            lines.append("tolerant = true    # it is not quite JSON")
        lines += ["", f"[telemetry.fields.{meant.quantity}]"]
        if path:
            key = "path" if pairs is None else "key"
            lines.append(f"{key} = {json.dumps(path)}    # {json.dumps(value)[:60]}")
        if isinstance(value, str) and _DECIMAL_COMMA.match(value):
            lines.append('decimal = ","')
        if isinstance(value, str) and (behind := _UNIT_BEHIND.fullmatch(value.strip())) is not None:
            lines.append(f"suffix = {json.dumps(behind['unit'])}")
        is_share = meant.quantity == "p_mw" and meant.unit == "%"
        lines += [OF_RATED if is_share else KEYS[meant.quantity].format(unit=meant.unit), ""]
    if "p_mw" not in taken:
        lines += [
            "# No topic was found that looks like a power. Uncomment and fill in:",
            "# [[telemetry]]",
            '# topic = "..."',
            "# [telemetry.fields.p_mw]",
            '# path = "..."',
            '# unit = "W"',
            "",
        ]
    lines += [
        "# To drive the device: how a setpoint is sent, and how it is handed back; see "
        "docs/device-mappings.md.",
        "# [setpoint]",
        '# confirm = "power"',
        "# [setpoint.values.p]",
        '# quantity = "p_mw"',
        '# unit = "W"',
        "# [[setpoint.messages]]",
        '# topic = "..."',
        '# payload = "{p}"',
        "# [[setpoint.release]]",
        '# topic = "..."',
        '# payload = "..."',
    ]
    return "\n".join(lines) + "\n"
