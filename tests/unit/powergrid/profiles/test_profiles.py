"""Profiles: what loads, in which unit, and what a wrong file is told."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from heron_mqtt.config import shipped_config
from heron_mqtt.errors import DataError
from powergrid.profiles import Profiles, load_profiles
from powergrid.profiles import csv_reader as _profile_csv

STEP_S = 900.0


def write(folder: Path, *lines: str, name: str = "site.csv") -> Path:
    path = folder / name
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def good_lines(n_steps: int = 4, step_s: float = STEP_S) -> list[str]:
    start = datetime(2024, 3, 1, tzinfo=UTC)
    times = [(start + timedelta(seconds=step * step_s)).isoformat() for step in range(n_steps)]
    return ["time,load_kw,pv_pu"] + [f"{time},{step}.5,0.{step}" for step, time in enumerate(times)]


def problems_of(path: Path, columns: object = ("load_kw", "pv_pu"), n_steps: int | None = None) -> list[str]:
    with pytest.raises(DataError) as caught:
        load_profiles(path, columns, step_s=STEP_S, n_steps=n_steps)  # type: ignore[arg-type]
    return [problem.removeprefix(str(path)).lstrip(", ") for problem in caught.value.problems]


def test_columns_arrive_in_their_units_and_kilowatts_become_megawatts(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "time,a_mw,b_kw,c_mvar,d_kvar,e_pu,f_per_mwh",
        "2024-03-01T00:00Z,1.5,1500,-0.5,-500,0.25,-12.5",
    )
    names = ("a_mw", "b_kw", "c_mvar", "d_kvar", "e_pu", "f_per_mwh")
    profiles = load_profiles(path, names, step_s=STEP_S)
    assert {name: profiles.at(name, 0) for name in names} == {
        "a_mw": 1.5,
        "b_kw": 1.5,
        "c_mvar": -0.5,
        "d_kvar": -0.5,
        "e_pu": 0.25,
        "f_per_mwh": -12.5,
    }
    assert dict(profiles.units) == {
        "a_mw": "mw",
        "b_kw": "mw",
        "c_mvar": "mvar",
        "d_kvar": "mvar",
        "e_pu": "pu",
        "f_per_mwh": "per_mwh",
    }


def test_values_cannot_be_changed_after_loading(tmp_path: Path) -> None:
    profiles = load_profiles(write(tmp_path, *good_lines()), ["pv_pu"], step_s=STEP_S)
    with pytest.raises(ValueError, match="read-only"):
        profiles.columns["pv_pu"][0] = 9.0
    with pytest.raises(TypeError):
        profiles.columns["pv_pu"] = np.zeros(4)  # type: ignore[index]


def test_profiles_do_not_alias_the_arrays_they_were_made_from() -> None:
    values = np.array([1.0, 2.0])
    profiles = Profiles("test", datetime(2024, 1, 1, tzinfo=UTC), 60.0, {"a_pu": values}, {"a_pu": "pu"})
    values[0] = 5.0
    assert profiles.at("a_pu", 0) == 1.0


def test_past_the_end_is_an_error_unless_wrapping_was_asked_for(tmp_path: Path) -> None:
    profiles = load_profiles(write(tmp_path, *good_lines(4)), ["load_kw"], step_s=STEP_S)
    assert profiles.n_steps == 4
    assert profiles.at("load_kw", 5, wrap=True) == profiles.at("load_kw", 1) == 0.0015
    assert profiles.time(5, wrap=True) == profiles.time(1) == datetime(2024, 3, 1, 0, 15, tzinfo=UTC)
    with pytest.raises(IndexError, match="steps 0 to 3, not 4"):
        profiles.at("load_kw", 4)
    with pytest.raises(IndexError):
        profiles.at("load_kw", -1, wrap=True)


def test_a_longer_file_than_needed_is_kept_whole(tmp_path: Path) -> None:
    assert load_profiles(write(tmp_path, *good_lines(6)), ["pv_pu"], step_s=STEP_S, n_steps=2).n_steps == 6


def test_a_byte_order_mark_windows_line_ends_and_blank_lines_are_no_error(tmp_path: Path) -> None:
    path = tmp_path / "excel.csv"
    text = "\r\n".join([*good_lines(), "", ",,", ""])
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert load_profiles(path, ["pv_pu"], step_s=STEP_S).n_steps == 4


def test_columns_that_nobody_asked_for_are_not_looked_at(tmp_path: Path) -> None:
    path = write(tmp_path, "time,comment,pv_pu", "2024-03-01T00:00,sunny,0.5", "2024-03-01T00:15,,0.6")
    assert load_profiles(path, ["pv_pu"], step_s=STEP_S).columns["pv_pu"].tolist() == [0.5, 0.6]


@pytest.mark.parametrize(
    "content", [b"time,pv_pu\n2024-03-01T00:00,0.5\xff\n", "time;pv_pu\n1;2\n".encode("utf-16")]
)
def test_a_file_that_is_not_utf8_says_so_with_its_row(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "latin.csv"
    path.write_bytes(content)
    (problem,) = problems_of(path)
    assert "is not UTF-8" in problem
    assert problem.startswith("row ")


def test_a_missing_file_a_folder_and_a_device_are_refused(tmp_path: Path) -> None:
    assert problems_of(tmp_path / "none.csv") == [": no such file; check the path"]
    assert problems_of(tmp_path) == [": a folder; expected a file"]
    (problem,) = problems_of(Path("null\0.csv"))
    assert problem.startswith(": cannot be read: ")
    assert "embedded null" in problem  # byte, or since Python 3.13 character in path
    assert problems_of(Path("/dev/zero")) == [": a device, pipe or socket; expected a file"]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([""], "is empty; expected a header"),
        (["time;load_kw", "2024-03-01T00:00;1"], "separated by ';'"),
        (["2024-03-01T00:00,1.0,0.5"], "no header; expected names of columns"),
        (["time,load_kw,load_kw,pv_pu"], "'load_kw': the name appears 2 times"),
        (["date,load_kw,pv_pu"], "column 'time': no such column; there are date, load_kw, pv_pu"),
        (["time,load_kw,PV"], "column 'pv_pu': no such column; there are time, load_kw, PV"),
        (['time,load_kw,"pv_pu', "2024"], "is not CSV"),
    ],
)
def test_a_wrong_header_is_named(tmp_path: Path, lines: list[str], expected: str) -> None:
    assert any(expected in problem for problem in problems_of(write(tmp_path, *lines)))


def test_a_name_without_a_unit_lists_the_units(tmp_path: Path) -> None:
    path = write(tmp_path, "time,load", "2024-03-01T00:00,1")
    (problem,) = problems_of(path, ["load"])
    assert problem.startswith("column 'load': the name does not say the unit")
    assert all(suffix in problem for suffix in ("_mw", "_kw", "_pu", "_mvar", "_kvar", "_per_mwh"))


def test_a_column_of_the_wrong_kind_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, *good_lines())
    assert problems_of(path, {"load_kw": {"per_mwh"}}) == [
        "column 'load_kw': is power; expected price (a name in _per_mwh)"
    ]


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("", "the cell is empty"),
        ("n/a", "'n/a' is not a number"),
        ("1_000", "'1_000' is not a number"),
        ("nan", "'nan' is not finite"),
        ("-inf", "'-inf' is not finite"),
        ("1e999", "'1e999' is not finite"),
        ('"0,5"', "'0,5' is not a number"),
    ],
)
def test_a_bad_cell_is_found_at_its_row_and_column(tmp_path: Path, cell: str, expected: str) -> None:
    lines = good_lines()
    lines[3] = lines[3].rsplit(",", 1)[0] + "," + cell
    (problem,) = problems_of(write(tmp_path, *lines))
    assert problem.startswith("row 4, column 'pv_pu': ")
    assert expected in problem


def test_rows_are_counted_as_an_editor_counts_them(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "time,note,pv_pu",
        "",
        '2024-03-01T00:00,"two',
        'lines",0.5',
        "2024-03-01T00:15,one,oops",
    )
    (problem,) = problems_of(path, ["pv_pu"])
    assert problem.startswith("row 5, column 'pv_pu'")


def test_a_row_with_a_cell_too_many_or_too_few_is_named(tmp_path: Path) -> None:
    lines = good_lines()
    lines[2] += ",7"
    lines[4] = lines[4].rsplit(",", 1)[0]
    assert problems_of(write(tmp_path, *lines)) == [
        "row 3: has 4 cells, the header has 3",
        "row 5: has 2 cells, the header has 3",
    ]


def test_a_gap_names_both_its_rows(tmp_path: Path) -> None:
    lines = good_lines(8)
    del lines[4]
    (problem,) = problems_of(write(tmp_path, *lines))
    assert problem == (
        "row 5, column 'time': gap: row 4 is 2024-03-01T00:30:00+00:00, row 5 is 2024-03-01T01:00:00+00:00; "
        "expected 900 s"
    )


def test_time_that_stands_still_or_runs_back_is_named(tmp_path: Path) -> None:
    lines = good_lines(8)
    lines.insert(5, lines[4])
    lines[8], lines[9] = lines[9], lines[8]
    found = problems_of(write(tmp_path, *lines))
    assert found[0].startswith("row 6, column 'time': time does not advance")
    assert any(problem.startswith("row 10, column 'time': time does not advance") for problem in found)


def test_another_step_length_is_one_problem(tmp_path: Path) -> None:
    assert problems_of(write(tmp_path, *good_lines(20, step_s=3600.0))) == [
        "column 'time': rows are 3600 s apart; expected 900 s"
    ]


def test_the_hour_lost_to_summer_time_is_a_gap_in_local_time_and_none_with_offsets(tmp_path: Path) -> None:
    local = [
        "2024-03-31T01:30",
        "2024-03-31T01:45",
        "2024-03-31T03:00",
        "2024-03-31T03:15",
        "2024-03-31T03:30",
    ]
    offsets = ["+01:00", "+01:00", "+02:00", "+02:00", "+02:00"]
    naive = write(tmp_path, "time,pv_pu", *(f"{time},0" for time in local), name="naive.csv")
    aware = write(
        tmp_path, "time,pv_pu", *(f"{time}{offset},0" for time, offset in zip(local, offsets, strict=True))
    )
    assert "gap" in problems_of(naive, ["pv_pu"])[0]
    assert load_profiles(aware, ["pv_pu"], step_s=STEP_S).n_steps == 5


def test_times_with_and_without_offset_do_not_mix(tmp_path: Path) -> None:
    path = write(tmp_path, "time,pv_pu", "2024-03-01T00:00Z,0", "2024-03-01T00:15,0")
    (problem,) = problems_of(path, ["pv_pu"])
    assert problem.startswith("row 3, column 'time'")
    assert "give all times a UTC offset, or none" in problem


def test_an_unreadable_time_is_one_problem_and_no_gap(tmp_path: Path) -> None:
    lines = good_lines(8)
    lines[4] = "01.03.2024 00:45,1,0.1"
    (problem,) = problems_of(write(tmp_path, *lines))
    assert problem.startswith("row 5, column 'time': '01.03.2024 00:45' is not a time; expected ISO 8601")


def test_too_few_rows_say_how_many_there_are_and_are_needed(tmp_path: Path) -> None:
    assert problems_of(write(tmp_path, *good_lines(4)), n_steps=96) == [
        ": too few rows: 4, but 96 steps are needed"
    ]
    assert problems_of(write(tmp_path, "time,load_kw,pv_pu")) == [": too few rows: 0, but 1 steps are needed"]


def test_all_problems_come_at_once_up_to_ten(tmp_path: Path) -> None:
    path = write(tmp_path, "time,load_kw,pv_pu", *(f"2024-03-01T0{hour}:00,x,y" for hour in range(9)))
    found = problems_of(path)
    assert len(found) == 11
    assert found[0].startswith("row 2, column 'load_kw'")
    assert found[1].startswith("row 2, column 'pv_pu'")
    assert found[-1] == ": and 9 more"  # 18 cells and the step length


def test_a_file_over_the_limits_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, *good_lines(6))
    monkeypatch.setattr(_profile_csv, "MAX_ROWS", 5)
    assert problems_of(path) == ["row 7: more than 5 rows of data; cut the file to what is needed"]
    monkeypatch.setattr(_profile_csv, "MAX_BYTES", 20)
    assert problems_of(path)[0].startswith(": larger than")


def test_a_huge_cell_does_not_fill_the_message(tmp_path: Path) -> None:
    path = write(tmp_path, "time,pv_pu", f"2024-03-01T00:00,{'9x' * 5000}")
    (problem,) = problems_of(path, ["pv_pu"])
    assert len(problem) < 200


@pytest.mark.parametrize(
    ("columns", "units", "step_s"),
    [
        ({}, {}, 1.0),
        ({"a": [1.0]}, {}, 1.0),
        ({"a": [1.0]}, {"a": "pu"}, 0.0),
        ({"a": [1.0], "b": [1.0, 2.0]}, {"a": "pu", "b": "pu"}, 1.0),
        ({"a": [np.nan]}, {"a": "pu"}, 1.0),
        ({"a": []}, {"a": "pu"}, 1.0),
        ({"a": [[1.0]]}, {"a": "pu"}, 1.0),
    ],
)
def test_profiles_made_by_hand_are_checked(columns: dict, units: dict, step_s: float) -> None:
    arrays = {name: np.array(values) for name, values in columns.items()}
    with pytest.raises(ValueError):
        Profiles("test", datetime(2024, 1, 1, tzinfo=UTC), step_s, arrays, units)


CELLS = [
    "time",
    "pv_pu",
    "0.5",
    "nan",
    "",
    '"',
    "2024-03-01T00:00Z",
    "2024-03-01T00:15Z",
    "0001-01-01T00:00+14:00",
]
TABLES = st.lists(st.lists(st.sampled_from(CELLS), max_size=4).map(",".join), max_size=6).map("\n".join)


@given(st.binary(max_size=200) | TABLES.map(str.encode))
def test_whatever_is_in_the_file_it_loads_or_is_a_data_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.csv"
    path.write_bytes(content)
    problems: tuple[str, ...] = ()
    try:
        profiles = load_profiles(path, ["pv_pu"], step_s=STEP_S)
    except DataError as error:
        problems = error.problems
    if problems:
        assert all(problem.startswith(str(path)) for problem in problems)
    else:
        assert np.isfinite(profiles.columns["pv_pu"]).all()


@given(st.binary(max_size=200) | TABLES.map(str.encode))
@example(("\n".join(good_lines()) + "\n").encode())
@example(b"time,pv_pu\r\n2024-03-01T00:00, 1_0\r\n")
@example(b"\ntime,pv_pu\n\n2024-03-01T00:00Z, .5 \n , \n2024-03-01T00:15Z,0.5\n")
@example(b"time,pv_pu\n2024-03-01T00:00Z,1\n2024-03-01T00:15,2\n2024-03-01T00:30,2\n")
def test_a_file_without_a_flaw_is_read_in_one_go_as_it_is_cell_by_cell(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "both.csv"
    path.write_bytes(content)

    def read() -> object:
        try:
            return _profile_csv.read_table(path, {"pv_pu": ("pu",)}, STEP_S, 1)
        except DataError as error:
            return error.problems

    at_once = read()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_profile_csv, "_flawless", lambda *_: None)
        assert at_once == read()


@pytest.mark.parametrize("name", ["simbench_week", "price_week", "neighbourhood_days"])
def test_the_shipped_profiles_are_read_in_one_go(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Cell by cell takes five times as long: it was a third of what building an environment takes."""
    monkeypatch.delattr(_profile_csv, "_looked_through")
    path = shipped_config() / "profiles" / f"{name}.csv"
    column = path.read_text(encoding="utf-8").partition("\n")[0].split(",")[1]
    assert load_profiles(path, [column], step_s=STEP_S).n_steps >= 96


def test_reading_profiles_needs_neither_pandas_nor_pandapower() -> None:
    code = "import sys, powergrid.profiles; print({'pandas', 'pandapower', 'scipy'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "set()"
