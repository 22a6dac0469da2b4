"""Mistakes are found in the file by their line."""

from __future__ import annotations

from pathlib import Path

from heron_mqtt.app.toml_lines import line_of, with_line
from support.rows import each_row

TEXT = """name = "box"                      # 1
[[telemetry]]
topic = "a"
fields.p_mw = { unit = "W" }
[[telemetry]]
topic = "b"
[telemetry.fields.soc]
unit = "percent"                               # 8
[setpoint]
send = "change"
[setpoint.values."p"]
unit = "W"                                     # 12
[[setpoint.messages]]
[[setpoint.messages]]
topic = "c"                                    # 15
"""


@each_row(
    ("key", "line"),
    [
        ("name", 1),
        ("telemetry[0].fields.p_mw.unit", 4),
        ("telemetry[1].fields.soc.unit", 8),
        ("telemetry[1].topic", 6),
        ("setpoint.values.p.unit", 12),
        ("setpoint.values.p.sign", 11),
        ("setpoint.messages[1].topic", 15),
        ("setpoint.messages[0].topic", 13),
        ("keepalive", None),
    ],
)
def test_a_key_is_found_or_the_table_that_it_belongs_to(key: str, line: int | None) -> None:
    assert line_of(TEXT, key) == line


def test_the_line_is_added_to_a_problem_of_its_file(tmp_path: Path) -> None:
    file = tmp_path / "box.toml"
    file.write_text(TEXT)
    problem = f"mine.toml: microgrids.MG1.devices.ess.mapping (profile {file}): setpoint.send: wrong"
    assert with_line(problem) == f"{problem} (box.toml, line 10)"
    assert with_line(f"{file}: setpoint.send = 'x': wrong").endswith("(box.toml, line 10)")
    for other in ("nothing like it", f"{tmp_path / 'none.toml'}: name: wrong"):
        assert with_line(other) == other
