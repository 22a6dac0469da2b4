"""Write the tables of docs/scenarios.md from the scenario's schema; the text around them stays.

python scripts/scenario_reference.py            write the page
python scripts/scenario_reference.py --check    only say whether it is up to date (exit code 1: it is not)
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from schema_tables import Schema, between, plain, row, type_text, value_text

from powergrid.devices import DEVICES
from powergrid.scenario import Scenario

PAGE = Path(__file__).resolve().parent.parent / "docs" / "scenarios.md"
BEGIN = "<!-- made by scripts/scenario_reference.py: begin -->"
END = "<!-- made by scripts/scenario_reference.py: end -->"

# Longest ending first: the first that fits a key names its unit.
UNITS = (
    ("_usd_per_mw2h", "$/(MW² h)"),
    ("_usd_per_mwh", "$/MWh"),
    ("_usd_per_h", "$/h"),
    ("_mw_per_s", "MW/s"),
    ("_per_mwh", "$/MWh"),
    ("_rate_per_s", "1/s"),
    ("_per_k", "1/K"),
    ("_percent", "%"),
    ("_mvar", "Mvar"),
    ("_usd", "$"),
    ("_mwh", "MWh"),
    ("_mva", "MVA"),
    ("_mw", "MW"),
    ("_pu", "pu"),
    ("_s", "s"),
)
UNIT_OF = {"charge_below": "$/MWh", "discharge_above": "$/MWh", "voltage_weight": "$/pu", "soc_weight": "$"}
UNIT_OF |= {"loading_weight": "$ per 100 %", "value": "MW", "divergence_penalty": "$", "outbox_max_mb": "MB"}

# What a reader of the page needs to know and the schema leaves to the key's name or to other pages.
MEANINGS = {
    ("Scenario", "name"): "Name of the scenario.",
    ("Scenario", "env_id"): "The environment's level in the topics (`heron/ENV_ID/...`); None = the name.",
    ("Scenario", "operator_id"): "Id of the system operator on the wire.",
    ("Scenario", "seed"): "Seed of a run without `--seed`.",
    ("Scenario", "observation"): "None = `full` when centralized, `local` when distributed (docs/modes.md).",
    ("NetworkTable", "solver"): (
        "The first two are compiled once and fast; `fixed_point` is for networks in which few generators "
        "control voltages (`check` reports where it does not suit). `pandapower` calls `runpp` in every step "
        "and accepts every network that it can solve."
    ),
    ("ProtocolTable", "horizontal"): "Protocol between the microgrids in a step (docs/models.md).",
    ("ProtocolTable", "consensus_rounds"): "Rounds of consensus in a step.",
    ("RewardTable", "vm_min_pu"): "Lower end of the voltage band. EN 50160 allows 0.9; planning uses less.",
    ("RewardTable", "vm_max_pu"): "Upper end of the voltage band.",
    ("RewardTable", "loading_max_percent"): "Loading above this counts as a violation.",
    ("EnvelopeTable", "vm_min_pu"): "Lowest bus voltage allowed. EN 50160: 0.9 of nominal.",
    ("EnvelopeTable", "vm_max_pu"): "Highest bus voltage allowed. EN 50160: 1.1 of nominal.",
    ("EnvelopeTable", "loading_max_percent"): "Highest loading of a line or transformer allowed.",
    ("PartitionTable", "end_s"): "End, in the same seconds.",
    ("PartitionTable", "end_step"): "End, in the same steps.",
    ("FaultTable", "kind"): "Kind of fault.",
    ("BatterySpec", "kind"): "Kind of device.",
    ("GeneratorSpec", "kind"): "Kind of device.",
    ("PvSpec", "kind"): "Kind of device.",
}


def reference() -> str:
    """Return the tables in Markdown."""
    schema = Scenario.model_json_schema()
    definitions = schema["$defs"]
    return "\n".join(_section("Top of the file", None, schema, definitions)).strip()


def _section(title: str, path: str | None, model: Schema, definitions: Schema) -> Iterator[str]:
    """Yield one model's table, then those of the tables in it."""
    yield f"### {title}"
    yield ""
    if path is not None:
        yield from (plain(model.get("description", "")), "")
    inner: list[tuple[str, str, Schema]] = []  # title, path and model
    rows: list[str] = []
    for key, spec in model["properties"].items():
        below = f"{path}.{key}" if path else key
        one, listed, each = (
            _reference(part) for part in (spec, spec.get("items"), spec.get("additionalProperties"))
        )
        if "discriminator" in spec:  # the keys of a device's kind stand beside the table's own
            kinds = spec["discriminator"]["mapping"]
            inner += [(f'kind = "{kind}"', path or "", definitions[_name(kinds[kind])]) for kind in DEVICES]
            continue
        if one is not None:
            inner.append((f"[{below}]", below, definitions[one]))
        elif listed is not None:
            inner.append((f"[[{below}]]", below, definitions[listed]))
        elif each is not None:
            named = f"{below}.{_placeholder(key)}"
            inner.append((f"[{named}]", named, definitions[each]))
        if not (one or listed or each) or _may_be_text(spec):
            rows.append(_row(key, spec, model))
    if rows:
        yield "| key | type | unit | default | meaning |"
        yield "|---|---|---|---|---|"
        yield from rows
        yield ""
    for title_below, below, definition in inner:
        yield from _section(f"`{title_below}`", below, definition, definitions)


def _row(key: str, spec: Schema, model: Schema) -> str:
    title = model["title"]
    meaning = MEANINGS.get((title, key)) or spec.get("description")
    if meaning is None:
        raise SystemExit(f"{title}.{key} has no description: give it one in the schema")
    is_needed = key in model.get("required", ()) or (key == "kind" and "const" in spec)
    default = "must be given" if is_needed else value_text(spec["default"])
    return row(f"`{key}`", type_text(spec), _unit(key, spec), default, plain(meaning))


def _unit(key: str, spec: Schema) -> str:
    if key in UNIT_OF:
        return UNIT_OF[key]
    if not _is_number(spec):
        return ""
    return next((unit for ending, unit in UNITS if key.endswith(ending)), "1")


def _may_be_text(spec: Schema) -> bool:
    return any(part.get("type") == "string" for part in spec.get("anyOf", ()))


def _is_number(spec: Schema) -> bool:
    parts = spec.get("anyOf", [spec])
    return any(part.get("type") == "number" for part in parts)


def _reference(spec: Schema | bool | None) -> str | None:
    """Return the definition that a key refers to, also where it may be left out."""
    if not isinstance(spec, Mapping):
        return None
    for part in (spec, *spec.get("anyOf", ())):
        if "$ref" in part:
            return _name(part["$ref"])
    return None


def _name(ref: str) -> str:
    return ref.rpartition("/")[2]


def _placeholder(key: str) -> str:
    return {"microgrids": "MICROGRID", "devices": "DEVICE"}.get(key, "NAME")


def main() -> int:
    """Write or check the page; returns the exit code."""
    parser = argparse.ArgumentParser(description="Write the tables of docs/scenarios.md.")
    parser.add_argument("--check", action="store_true", help="only say whether the page is up to date")
    options = parser.parse_args()
    page = PAGE.read_text(encoding="utf-8")
    wanted = between(page, BEGIN, END, reference())
    if options.check:
        sys.stdout.write("up to date\n" if page == wanted else f"{PAGE} is not up to date: run this script\n")
        return int(page != wanted)
    PAGE.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
