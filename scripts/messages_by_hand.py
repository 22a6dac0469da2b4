"""Write docs/messages-by-hand.md: a line to listen and a line to send for every message on every channel.

python scripts/messages_by_hand.py            write the page
python scripts/messages_by_hand.py --check    only say whether it is up to date (exit code 1: it is not)

Which messages a channel carries stands in the table of docs/wire-contract.md; whether they are retained,
in the rules of the topics. Every example is read by its model before it is written.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from heron_mqtt.messages import WIRE_TYPES, parse_any
from heron_mqtt.messaging import topics
from heron_mqtt.program_arguments import ProgramArguments

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGE = DOCS / "messages-by-hand.md"
ENV = "bench"

HEAD = f"""# Messages by hand

<!-- scripts/messages_by_hand.py writes this page -->

For every channel of the [wire contract](wire-contract.md) a line that listens and a line that sends, for
`mosquitto_sub` and `mosquitto_pub`. The environment is called `{ENV}`: put your own `env_id` in its place.
`-h HOST -p PORT`, `-u USER` and `--cafile FILE` name another broker than the one on this machine.

Meant to be sent by people are `setpoint`, `take`, `authority`, `estop` and `fault`. The others are what
programs say of themselves: send them to try out a receiver of yours, in an environment where nothing else
runs. A run would take them for what they say.

What is retained (`-r`) stays at the broker. This takes it away again, here a price:

```sh no-run
mosquitto_pub -r -n -t heron/{ENV}/operators/system_operator/price
```
"""

EXAMPLES: dict[str, dict[str, Any]] = {
    "price": {"value": 55.0},
    "observation": {"dt_s": 900.0, "p_load_mw": -0.08, "p_available_pv": 0.03},
    "command": {"p_ess": 0.02},
    "action": {"p_ess": 0.02, "soc_ess": 0.55},
    "plan": {"p_ess": 0.02},
    "clearance": {"p_ess": 1.0},
    "offer": {"quantity": 0.005, "price": 58.0},
    "accept": {"quantity": 0.005},
    "confirm": {"quantity": 0.005, "price": 58.0},
    "order": {"quantity": -0.005, "price": 62.0},
    "fill": {"price": 60.0, "trade_MG1": -0.005},
    "consensus": {"round": 0, "value": 57.5},
    "setpoint": {"p_mw": 0.02, "lease_s": 30},
    "telemetry": {"p_mw": 0.02, "soc": 0.55, "seq": 0, "boot": "c4"},
    "status": {"state": "online", "kind": "battery", "p_min_mw": -0.05, "p_max_mw": 0.05, "boot": "c4"},
    "lease": {"state": "free"},
    "owner": {"state": "free"},
    "take": {"p_mw": 0.005, "for_s": 60, "who": "jane", "why": "commissioning"},
    "authority_request": {"level": "limited", "who": "jane", "why": "commissioning"},
    "authority_state": {"level": "shadow", "granted": False, "reason": "gate health"},
    "fault": {"kind": "silence", "steps": 8},
    "run_state": {"state": "finished"},
    "network": {
        "bus": ["A", "B"],
        "bus_kv": [0.4, 0.4],
        "bus_agent": ["", "MG1"],
        "bus_x": [0, 1],
        "bus_y": [0, 0],
        "line": ["A-B"],
        "line_from": [0],
        "line_to": [1],
    },
    "grid_results": {"vm_pu": [1.0, 0.99]},
    "record": {"head": "9fed19baf686f355" * 4, "rows": 5734},
    "estop": {"active": True, "who": "jane", "why": "smoke"},
    "estop_confirm": {"active": True, "safe": True},
}

OF_AN_AGENT = {"status": {"state": "online"}}
"""Where an agent says something else than a device on the channel of the same name."""

NAMES = {"operator": "system_operator", "agent": "MG1", "from": "MG1", "to": "MG2", "device": "ess"}


def channels() -> Iterator[tuple[str, list[str]]]:
    """Yield each channel of the contract with its messages, in the order of the page."""
    page = (DOCS / "wire-contract.md").read_text(encoding="utf-8")
    for channel, rest in re.findall(r"^\| `([\w/<>]+)` \|(.*)$", page, re.MULTILINE):
        if names := [name for name in re.findall(r"\]\(#(\w+)\)", rest) if name in WIRE_TYPES]:
            yield channel, names


def is_retained(channel: str) -> bool:
    """Whether the rules of the topics keep what comes on a channel."""
    rule = topics.rule_of(re.sub(r"<\w+>", "x", channel))
    return rule is not None and rule.retained


def section(channel: str, names: list[str]) -> str:
    """Return what the page says of one channel."""
    topic = f"heron/{ENV}/" + re.sub(r"<(\w+)>", lambda found: NAMES[found[1]], channel)
    option = "-r " if is_retained(channel) else ""
    sent = []
    for name in names:
        fields = OF_AN_AGENT.get(name, EXAMPLES[name]) if channel.startswith("agents/") else EXAMPLES[name]
        payload = {"type": name, **fields}
        parse_any(payload)
        sent.append(f"mosquitto_pub {option}-t {topic} -m '{json.dumps(payload, separators=(',', ':'))}'")
    heard = f"mosquitto_sub -t 'heron/+/{re.sub(r'<[a-z]+>', '+', channel)}' -v"
    meaning = ", ".join(f"[{name}](wire-contract.md#{name})" for name in names)
    return (
        f"## `{channel}`\n\n{meaning}\n\n```sh no-run\n{heard}\n```\n\n```sh no-run\n"
        + "\n".join(sent)
        + "\n```\n"
    )


def page() -> str:
    """Return the whole page."""
    return "\n".join([HEAD, *(section(channel, names) for channel, names in channels())])


def main() -> int:
    """Write or check the page; returns the exit code."""
    parser = ProgramArguments(description="Write docs/messages-by-hand.md.")
    parser.add_argument("--check", action="store_true", help="only say whether the page is up to date")
    options = parser.parse_args()
    wanted = page()
    if options.check:
        same = PAGE.exists() and PAGE.read_text(encoding="utf-8") == wanted
        sys.stdout.write("up to date\n" if same else f"{PAGE} is not up to date: run this script\n")
        return int(not same)
    PAGE.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
