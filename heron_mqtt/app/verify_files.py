"""The files with which a run began, by name and hash: people compare them with those that they have."""

from __future__ import annotations

import tempfile
from pathlib import Path

from heron_mqtt.app.named_files import changed_here
from heron_mqtt.app.recorded_world import recorded_loaded, recorded_scenario
from heron_mqtt.app.recording import KEPT_WHOLE
from heron_mqtt.record.reader import RecordFile
from heron_mqtt.record.verify.finding import Finding


def check_files(record: RecordFile) -> Finding:
    """Name the files; what is kept whole is compared with its hash, what is elsewhere is not in a record."""
    found = Finding("files of the scenario")
    named = record.files()
    if named is None:
        found.note = "recorded by an older version, without hashes of the files that are not in it"
        return found
    kept = {row["name"]: row["sha256"] for row in record.query("SELECT name, sha256 FROM input_file")}
    for key, file in named.items():
        if key in KEPT_WHOLE:
            found.check(key in kept, f"{key}: {file.name} was kept whole, and is not in it")
        if key in kept:
            found.check(
                file.sha256 == kept[key], f"{key}: {file.name} is not the one that the run began with"
            )
    told = [f"{key} {file.name} {file.sha256[:16]}" for key, file in sorted(named.items())]
    found.note = "; ".join((*told, *files_changed(record)))
    return found


def files_changed(record: RecordFile) -> list[str]:
    """Return which models and policies of a run are other ones on this machine, a line each."""
    with tempfile.TemporaryDirectory(prefix="heron-record-") as folder:
        return changed_here(record, recorded_loaded(record, recorded_scenario(record), Path(folder)))
