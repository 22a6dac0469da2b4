"""What a record says of the run at its beginning: it is there, and it is of the side whose rows follow."""

from __future__ import annotations

from heron_mqtt.record.reader import RecordFile
from heron_mqtt.record.verify.finding import Finding

ALWAYS_SAID = ("role", "begun_at", "scenario", "scenario_json", "mode", "seed", "step_s", "agents")
"""Keys of ``meta`` that every version has written: without one of them checks would find nothing to check."""
ENVIRONMENT = "environment"


def has_steps(record: RecordFile) -> bool:
    """Whether a record is an environment's: by what it says, or by its steps, which only that one writes."""
    return record.meta.get("role") == ENVIRONMENT or bool(record.query("SELECT 1 FROM step_row LIMIT 1"))


def check_beginning(record: RecordFile) -> Finding:
    """Check that everything is said on which the other checks depend."""
    found = Finding("the beginning of the run is told")
    for key in ALWAYS_SAID:
        found.check(key in record.meta, f"meta has no {key}: a row was removed")
    role = record.meta.get("role", ENVIRONMENT)
    if role != ENVIRONMENT:
        unknown = sorted(set(role.split(", ")) - set(record.agents))
        found.check(not unknown, f"its role is {role!r}: expected {ENVIRONMENT!r} or agents of the scenario")
        found.check(not has_steps(record), f"its role is {role!r}, and it has steps of an environment")
    return found
