"""What ``heron-mqtt run`` says of files that the user has named."""

from __future__ import annotations

from pathlib import Path

from heron_mqtt.app.run_summary import Summary
from heron_mqtt.cli.run_to_end import _missing_rows


def test_rows_that_are_missing_are_an_error_where_the_user_has_named_the_file() -> None:
    made = Summary("s", "centralized", "none", 0, 900.0, {}, record={"file": "day.heron", "lost": 3})
    assert list(_missing_rows(made, None, None)) == []  # the last line of the run says it
    assert list(_missing_rows(made, "day.heron", None)) == ["--record day.heron: 3 rows are missing"]
    assert list(_missing_rows(made, None, Path("day.heron"))) == ["--resume day.heron: 3 rows are missing"]
    made.record, made.csv = {"file": "day.heron", "lost": 0}, {"file": "/dev/full", "lost": 6}
    assert list(_missing_rows(made, "day.heron", None)) == ["--csv /dev/full: 6 rows could not be written"]
