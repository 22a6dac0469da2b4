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
        ramp_mw_per_s: How fast its power changes, MW/s; None = at once.
    """

    promise: str
    changes: tuple[tuple[str, str], ...]
    ramp_mw_per_s: float | None = None


def pairs(*changes: str) -> tuple[tuple[str, str], ...]:
    """Return changes, old and new in turn, two by two."""
    return tuple(zip(changes[::2], changes[1::2], strict=True))


def _defect(promise: str, *changes: str) -> Defect:
    return Defect(promise, pairs(*changes))


_CONNECTED = "def on_connect(client, userdata, flags, reason, properties):\n"
_MEMORY = "MEMORY = __file__ + '.p_mw'\n"
_HOLDS_ITSELF = (
    "who, whose = holder or (None, None)",
    "who, whose = holder or ((name, boot) if stopped else (None, None))",
    'state="held" if holder else "free"',
    'state="held" if who else "free"',
)
_RELEASED = "            del releases[:-64]\n            say_telemetry()\n"
_HEARD = "# -- what we hear"
_END = "        go_safe(safe_after_s=round(now() - heard_at, 3))  # it was not renewed"
_STOPPED = "(None, None)\n        go_safe()\n    fields"
_IN_STOP = "(None, None)\n        go_keep()\n    fields"
_PRESSED = "        stopped, stop_id = True, ident if"
_REFUSED = "    if refused:\n        say_telemetry(ack, rejected=refused)"
_UNKNOWN = "    elif heard_boot != boot or heard_seq not in published:"
_NEWEST = "newest = {}  #"


def _keeping(kept_mw: str) -> tuple[str, str]:
    """Return the change that adds a safe state which keeps some powers, as an expression in MW."""
    keep = "def go_keep(**fields):\n    global holder\n"
    keep += f"    holder, power['p_mw'] = None, {kept_mw}\n    say_telemetry(**fields)\n    say_lease()\n"
    return _HEARD, f"{keep}\n\n{_HEARD}"


RAMP_MW_PER_S = 0.02


def _slow(turns: str = "wanted[0] = 0.0", goes_on: str = "") -> tuple[tuple[str, str], ...]:
    """Return the changes to a device whose power rises and falls by a ramp.

    Args:
        turns: What it does where it is to be safe.
        goes_on: What it does in each turn of its loop besides.
    """
    watch = "    if holder is not None and now() >= lease_ends:"
    moves = f"""\
    reach_mw, moved_at[0] = {RAMP_MW_PER_S} * (now() - moved_at[0]), now()
    if power["p_mw"] != wanted[0]:
        left_mw = wanted[0] - power["p_mw"]
        is_there = abs(left_mw) <= reach_mw
        power["p_mw"] = wanted[0] if is_there else power["p_mw"] + reach_mw * (1 if left_mw > 0 else -1)
        next_telemetry = 0.0 if is_there else min(next_telemetry, now() + 0.1)
        if is_there and stopped:
            take_stop({{"boot": stop_id[0], "seq": stop_id[1]}})
"""
    start = 'power = {"p_mw": 0.0, "soc": 0.5}\n'
    safe = 'power["p_mw"] == 0.0'
    return pairs(
        *(start, f"{start}wanted, moved_at, late = [0.0], [0.0], [False]\n"),
        *("**power, safe=holder is None, **fields)", f"**power, safe=holder is None and {safe}, **fields)"),
        *('    holder, power["p_mw"] = None, 0.0\n', f"    holder = None\n    {turns}\n"),
        *('"safe": holder is None}\n', f'"safe": {safe}}}\n'),
        '    power["p_mw"] = min(max(p_mw, -P_MAX_MW), P_MAX_MW)',
        "    wanted[0] = min(max(p_mw, -P_MAX_MW), P_MAX_MW)",
        *(watch, f"{moves}{goes_on}{watch}"),
    )


_CHARGING = _keeping("min(power['p_mw'], 0.0)")
_SMALL = _keeping("power['p_mw'] if 0.0 < power['p_mw'] <= 0.009 else 0.0")

MISWRITTEN = {
    "says its limits as texts": _defect("birth", '"p_min_mw": -P_MAX_MW', '"p_min_mw": str(-P_MAX_MW)'),
    "says a limit as null": _defect(
        "birth", '"p_max_mw": P_MAX_MW,', '"p_max_mw": None,', "if value is not None}", "}"
    ),
    "says its numbers as texts": _defect(
        "telemetry", '"boot": boot, "seq": seq}', '"boot": boot, "seq": str(seq)}'
    ),
}
"""What a maker writes otherwise than the contract says: several promises cannot be looked at then."""

ALLOWED = {
    "rises and falls by a ramp": Defect("stop-ramp", _slow(), RAMP_MW_PER_S),
    "holds its lease itself during a stop": _defect(
        "lease-told", *_HOLDS_ITSELF, _RELEASED, f"{_RELEASED}            say_lease()\n"
    ),
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
    "takes a number far below for a new count": _defect(
        "copies",
        "if seq <= newest.get(who, -1):",
        "if newest.get(who, -1) - 30 < seq <= newest.get(who, -1):",
    ),
    "forgets the numbers at a stop": _defect("stop", _PRESSED, f"        newest.clear()\n{_PRESSED}"),
    "forgets the numbers at a release": _defect(
        "copies",
        "            answered = ack or answered\n            go_safe()",
        "            answered = ack or answered\n            newest.clear()\n            go_safe()",
    ),
    "forgets the numbers at the end of a lease": _defect("copies", _END, f"        newest.clear()\n{_END}"),
    "clips from half as much again on": _defect(
        "nameplate",
        "min(max(p_mw, -P_MAX_MW), P_MAX_MW)",
        "p_mw if abs(p_mw) < 1.5 * P_MAX_MW else min(max(p_mw, -P_MAX_MW), P_MAX_MW)",
    ),
    "does one by hand that takes over in a stop": _defect(
        "stop",
        "    if stopped:\n        say_telemetry(rej",
        "    if stopped and not take_over:\n        say_telemetry(rej",
    ),
    "does a numbered one by hand in a lease": _defect(
        "owner-by-hand",
        "if is_held and who != holder and not (take_over",
        "if is_held and who != holder and not (sender is None and seq is not None) and not (take_over",
    ),
    "takes the last of two keys on estop": _defect(
        "malformed-stop",
        "object_pairs_hook=unique",
        "object_pairs_hook=dict if message.topic == estop else unique",
    ),
    "forgets a release after 10 s": _defect(
        "stop-stays",
        _NEWEST,
        f"rel_at = [0.0]\n{_NEWEST}",
        "        if not (is_named and ident in releases):",
        "        if now() - rel_at[0] > 10.0:\n            releases.clear()\n        rel_at[0] = now()\n"
        "        if not (is_named and ident in releases):",
    ),
    "renews what was released": _defect(
        "owner",
        _NEWEST,
        f"last = [None, 0.0, 0.0]\n{_NEWEST}",
        "            answered = ack or answered\n            go_safe()",
        "            answered = ack or answered\n            last[:] = who, power['p_mw'], now() + 5.0\n"
        "            go_safe()",
        "    if renewal:  # it extends",
        "    if renewal and not stopped and holder is None and last[0] == who and now() < last[2]:\n"
        "        holder, power['p_mw'], lease_ends = who, last[1], begin + for_s\n        say_telemetry()\n"
        "    if renewal:  # it extends",
    ),
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
    "charges on in a stop": _defect("stop", *_CHARGING, _STOPPED, _IN_STOP),
    "goes on with a small power in a stop": _defect("stop", *_SMALL, _STOPPED, _IN_STOP),
    "goes on in a stop with what was set by hand": _defect(
        "stop",
        *_keeping("power['p_mw'] if holder == (None, None) else 0.0"),
        *(_STOPPED, _IN_STOP),
    ),
    "charges on at the end of a lease": _defect(
        "lease-end", *_CHARGING, _END, _END.replace("safe(", "keep(", 1)
    ),
    "goes on with a small power at the end of a lease": _defect(
        "lease-end", *_SMALL, _END, _END.replace("safe(", "keep(", 1)
    ),
    "charges on without its broker": _defect(
        "silence",
        *_CHARGING,
        _END,
        f"        if not client.is_connected():\n            go_keep()\n        else:\n    {_END}",
    ),
    "lets the stale take over": _defect(
        "stale", _REFUSED, _REFUSED.replace("refused:", "refused and not take_over:", 1)
    ),
    "takes the forgotten for fresh": _defect(
        "stale",
        _UNKNOWN,
        "    elif heard_boot == boot and heard_seq is not None and heard_seq < min(published, default=0):\n"
        f"        refused = None\n{_UNKNOWN}",
    ),
    "prolongs its lease by what it refuses": _defect(
        "nothing-else",
        _REFUSED,
        _REFUSED.replace(
            "refused:\n",
            "refused:\n        if is_held and who == holder:\n"
            "            lease_ends = max(lease_ends, now() + for_s)\n",
            1,
        ),
    ),
    "holds for a day what a renewal without an echo extends": _defect(
        "nothing-else",
        "max(lease_ends, begin + for_s), for_s",
        "max(lease_ends, begin + (for_s if heard_boot else 86400.0)), for_s",
    ),
    "does not shorten its lease": _defect(
        "nothing-else",
        "lease_s, lease_ends, heard_at = for_s, begin + for_s, now()\n",
        "lease_ends = max(begin + for_s, lease_ends if is_held and was == who else 0.0)\n"
        "    lease_s, heard_at = for_s, now()\n",
    ),
    "lets a release of another environment end a stop": _defect(
        "malformed-stop", "is False and is_ours:", 'is False and (is_ours or told.get("who")):'
    ),
    "ends a stop by itself": _defect(
        "stop-stays",
        _NEWEST,
        f"stopped_at = [0.0]\n{_NEWEST}",
        _PRESSED,
        f"        stopped_at[0] = now()\n{_PRESSED}",
        "    if holder is not None and now() >= lease_ends:",
        "    if stopped and now() > stopped_at[0] + 20.0:\n        stopped = False\n"
        "    if holder is not None and now() >= lease_ends:",
    ),
    "prolongs its lease with each connection": _defect(
        "reconnect",
        _CONNECTED,
        f"{_CONNECTED}    global lease_ends\n    lease_ends += 3.0 if holder else 0.0\n",
    ),
    "follows one by hand in a stop": _defect(
        "stop", "    if stopped:\n        say_tel", "    if stopped and sender is not None:\n        say_tel"
    ),
    "goes to the end of its ramp in a stop": Defect(
        "stop-ramp",
        _slow(
            "late[0], wanted[0] = stopped, wanted[0] * stopped",
            "    if late[0] and power['p_mw'] == wanted[0]:\n        late[0], wanted[0] = False, 0.0\n",
        ),
        RAMP_MW_PER_S,
    ),
    "forgets numbers after ten seconds": _defect(
        "long-lease",
        _NEWEST,
        f"newest_at = {{}}\n{_NEWEST}",
        "        if seq <= newest.get(who, -1):",
        "        if now() - newest_at.get(who, 0.0) > 10.0:\n            newest.pop(who, None)\n"
        "        newest_at[who] = now()\n        if seq <= newest.get(who, -1):",
    ),
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
