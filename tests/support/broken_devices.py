"""Devices that break one promise each: docs/examples/bare_device.py with one thing changed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2] / "docs/examples/bare_device.py"
COMMAND = ["{python}", "{script}", "{host}", "{port}", "{env}", "{agent}", "{device}"]


@dataclass(frozen=True)
class Defect:
    """One thing that a maker got wrong.

    Attributes:
        promise: The one that it breaks, and that must fail.
        changes: What stands in the good program, and in the broken one.
    """

    promise: str
    changes: tuple[tuple[str, str], ...]


def _defect(promise: str, *changes: str) -> Defect:
    return Defect(promise, tuple(zip(changes[::2], changes[1::2], strict=True)))


_CONNECTED = "def on_connect(client, userdata, flags, reason, properties):\n"
_MEMORY = "MEMORY = __file__ + '.p_mw'\n"
_HOLDS_ITSELF = (
    "who, whose = holder or (None, None)",
    "who, whose = holder or ((name, boot) if stopped else (None, None))",
    'state="held" if holder else "free"',
    'state="held" if who else "free"',
)
_RELEASED = "            del releases[:-64]\n            say_telemetry()\n"

ALLOWED = {
    "holds its lease itself during a stop": _defect(
        "lease-told", *_HOLDS_ITSELF, _RELEASED, f"{_RELEASED}            say_lease()\n"
    )
}
"""Changes that break no promise: what a device may do as well. ``promise`` names the nearest one."""

DEFECTS = {
    "ignores the lease": _defect("lease-end", "if holder is not None and now() >= lease_ends:", "if False:"),
    "sets the power of a renewal": _defect(
        "lease-end",
        "            lease_ends, lease_s, heard_at = max(lease_ends, begin + for_s), for_s, now()",
        "            power['p_mw'] = p_mw\n"
        "            lease_ends, lease_s, heard_at = max(lease_ends, begin + for_s), for_s, now()",
    ),
    "ends its leases late": _defect("lease-end", "now() >= lease_ends:", "now() >= lease_ends + 0.9:"),
    "ignores a lease of a certain length": _defect(
        "long-lease", "now() >= lease_ends:", "now() >= lease_ends and not 12.0 < lease_s < 29.0:"
    ),
    "ignores a lease beyond half a minute": _defect(
        "long-lease", "now() >= lease_ends:", "now() >= lease_ends and not lease_s > 31.0:"
    ),
    "ignores a long lease": _defect(
        "long-lease",
        "if holder is not None and now() >= lease_ends:",
        "if holder is not None and now() >= lease_ends + (5.0 if lease_s > 20.0 else 0.0):",
    ),
    "ignores the age of what a long lease echoes": _defect(
        "long-lease",
        'refused = "stale: older than its lease" if begin + for_s <= now() else None',
        'refused = "stale: older than its lease" if for_s < 5.0 and begin + for_s <= now() else None',
    ),
    "confirms only a well-formed stop": _defect(
        "malformed-stop",
        "        go_safe()\n    fields = {",
        "        go_safe()\n        if told.get('active') is not True:\n            return\n    fields = {",
    ),
    "keeps its reactive power": _defect(
        "reactive",
        'number(told, "q_mvar", 0.0)  #',
        'power["q_mvar"] = number(told, "q_mvar", 0.0) or power.get("q_mvar", 0.0)  #',
    ),
    "has the wrong sign": _defect(
        "sign", 'power["p_mw"] = min(max(p_mw, -P_MAX_MW), P_MAX_MW)', 'power["p_mw"] = -p_mw'
    ),
    "takes kW for MW": _defect(
        "scale", 'power["p_mw"] = min(max(p_mw,', 'power["p_mw"] = min(max(p_mw / 1e3,'
    ),
    "goes beyond its nameplate": _defect("nameplate", "min(max(p_mw, -P_MAX_MW), P_MAX_MW)", "p_mw"),
    "accepts a copy": _defect("copies", "if seq <= newest.get(who, -1):", "if False:"),
    "accepts a replay": _defect(
        "stale",
        'refused = "stale: it echoes telemetry that we do not know"',
        "pass",
        'refused = "stale: older than its lease" if begin + for_s <= now() else None',
        "pass",
    ),
    "takes the lease from the arrival": _defect(
        "echo",
        "begin = published[heard_seq]\n",
        "begin = now()\n",
        'refused = "stale: older than its lease" if begin + for_s <= now() else None',
        'refused = "stale: older than its lease" if published[heard_seq] + for_s <= now() else None',
    ),
    "accepts a foreign owner": _defect(
        "owner", "if is_held and who != holder and not (take_over", "if False and (take_over"
    ),
    "has no will": _defect("will", "client.will_set(", "False and client.will_set("),
    "ignores a malformed stop": _defect(
        "malformed-stop",
        "    if message.topic == estop:\n        take_stop(told)\n",
        "    if message.topic == estop:\n"
        "        if isinstance(told, dict) and isinstance(told.get('active'), bool):\n"
        "            take_stop(told)\n",
    ),
    "remembers one release only": _defect("repeated-stop", "del releases[:-64]", "del releases[:-1]"),
    "takes an old release": _defect("repeated-stop", "if not (is_named and ident in releases):", "if True:"),
    "does not confirm a stop": _defect(
        "confirm", 'say(confirm, type="estop_confirm"', 'str("estop_confirm"); dict(type=""'
    ),
    "jumps when it returns": _defect(
        "start",
        "\nnext_telemetry = 0.0\n",
        f"\nnext_telemetry = 0.0\n{_MEMORY}"
        "from pathlib import Path\n"
        "if Path(MEMORY).exists():\n"
        "    power['p_mw'] = float(Path(MEMORY).read_text())\n",
        "    was, holder = holder, who\n",
        "    Path(MEMORY).write_text(str(p_mw))\n    was, holder = holder, who\n",
    ),
    "dies of garbage": _defect(
        "garbage", "except (ValueError, OverflowError) as exc:", "except ValueError as exc:"
    ),
    "is born anew when it reconnects": _defect(
        "reconnect",
        _CONNECTED,
        _CONNECTED + "    global boot\n    boot = secrets.token_hex(4)\n",
    ),
    "forgets a stop with its connection": _defect(
        "stop-over-broker",
        _CONNECTED,
        _CONNECTED + "    global stopped\n    stopped = False\n",
    ),
    "speaks once a lease": _defect("pace", "min(1.0, lease_s / 4.0)", "lease_s"),
    "numbers with gaps": _defect("telemetry", "seqs.get(topic, -1) + 1", "seqs.get(topic, -1) + 2"),
    "follows a retained setpoint": _defect(
        "retained-setpoint", "isinstance(told, dict) and not message.retain", "isinstance(told, dict)"
    ),
    "does not keep its birth": _defect(
        "birth", "json.dumps(birth | nameplate), qos=1, retain=True", "json.dumps(birth | nameplate), qos=1"
    ),
    "has one boot for ever": _defect("new-boot", "boot = secrets.token_hex(4)", "boot = 'always'"),
    "says no lease": _defect(
        "lease-told", 'say(f"{base}/lease", retain=True', 'str("lease"); dict(retain=True'
    ),
    "keeps no lease at the broker": _defect(
        "lease-told", 'say(f"{base}/lease", retain=True', 'say(f"{base}/lease", retain=False'
    ),
    "clips one direction only": _defect(
        "nameplate", "min(max(p_mw, -P_MAX_MW), P_MAX_MW)", "min(p_mw, P_MAX_MW)"
    ),
    "says its charge in percent": _defect("telemetry", "**power, safe=", "**power | {'soc': 50.0}, safe="),
    "renews from the arrival": _defect(
        "echo",
        "lease_ends, lease_s, heard_at = max(lease_ends, begin + for_s), for_s, now()",
        "lease_ends, lease_s, heard_at = now() + for_s, for_s, now()",
    ),
    "holds its lease itself after a stop": _defect("lease-told", *_HOLDS_ITSELF),
}


def write_broken(defect: Defect, folder: Path) -> Path:
    """Write the program with the defect; fails if what it changes is not there any more."""
    text = SOURCE.read_text(encoding="utf-8")
    for old, new in defect.changes:
        assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in {SOURCE.name}"
        text = text.replace(old, new)
    path = folder / "broken.py"
    path.write_text(text, encoding="utf-8")
    return path
