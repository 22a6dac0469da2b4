"""Write the field tables of docs/wire-contract.md from the messages' models; the text around them stays.

python scripts/wire_reference.py            write the page
python scripts/wire_reference.py --check    only say whether it is up to date (exit code 1: it is not)
"""

from __future__ import annotations

import sys
from pathlib import Path

from schema_tables import between, plain, row, type_text, value_text

from heron_mqtt.messages import WIRE_TYPES, Message
from heron_mqtt.program_arguments import ProgramArguments

PAGE = Path(__file__).resolve().parent.parent / "docs" / "wire-contract.md"
METADATA = "metadata"

# What a reader of the page needs to know and the model leaves to the field's name.
MEANINGS = {
    ("status", "state"): "What it says of itself; `offline` is the will.",
    ("run_state", "state"): "`lost` is the environment's will.",
    ("run_state", "scenario"): "Name of the scenario.",
    ("authority_request", "level"): "The level asked for.",
    ("authority_state", "level"): "The level in force.",
    ("authority_state", "requested"): "The level that was asked for last.",
    ("authority_state", "granted"): "Whether the last request was granted.",
    ("estop", "active"): "True: stop. False: the release.",
    ("owner", "state"): "`asks` is the question of one that starts; `holds` answers it.",
    ("lease", "state"): "Whether anyone is followed.",
    ("estop", "why"): "Why, for the record.",
    ("fault", "kind"): "What goes wrong.",
}


def marks(name: str) -> tuple[str, str]:
    """Return the lines between which one table stands."""
    return f"<!-- fields of {name}: begin -->", f"<!-- fields of {name}: end -->"


def table(name: str, model: type[Message]) -> str:
    """Return one message's fields in Markdown; for ``metadata`` those that every message has."""
    schema = model.model_json_schema()
    shared = set(Message.model_fields)
    required = set(schema.get("required", ()))
    rows = []
    for field, spec in schema["properties"].items():
        if (field in shared) != (name == METADATA) or field == "type":
            continue
        meaning = MEANINGS.get((name, field)) or spec.get("description")
        if meaning is None:
            raise SystemExit(f"{model.__name__}.{field} has no description: give it one in the model")
        default = "must be given" if field in required else value_text(spec.get("default"))
        rows.append(row(f"`{field}`", type_text(spec), default, plain(meaning)))
    if not rows:
        return "It has no fields of its own but those named above."
    return "\n".join([row("field", "type", "left out", "meaning"), "|---|---|---|---|", *rows])


def page_with_tables(page: str) -> str:
    """Return the page with every table made anew."""
    models: dict[str, type[Message]] = {METADATA: Message, **WIRE_TYPES}
    for name, model in models.items():
        page = between(page, *marks(name), table(name, model))
    return page


def main() -> int:
    """Write or check the page; returns the exit code."""
    parser = ProgramArguments(description="Write the field tables of docs/wire-contract.md.")
    parser.add_argument("--check", action="store_true", help="only say whether the page is up to date")
    options = parser.parse_args()
    page = PAGE.read_text(encoding="utf-8")
    wanted = page_with_tables(page)
    if options.check:
        sys.stdout.write("up to date\n" if page == wanted else f"{PAGE} is not up to date: run this script\n")
        return int(page != wanted)
    PAGE.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
