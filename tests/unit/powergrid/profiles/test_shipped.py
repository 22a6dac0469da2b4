"""The shipped week: plausible, licensed, and made by the script as it says."""

from __future__ import annotations

import csv
from datetime import timedelta
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from powergrid.profiles import Profiles, load_profiles
from support.script_module import load_script

ROOT = Path(__file__).parents[4]
FOLDER = ROOT / "config" / "profiles"
LOADS = ("residential", "industrial", "commercial")
PV = ("pv_1_pu", "pv_2_pu", "pv_3_pu")
COLUMNS = (*(f"{load}_{power}_pu" for load in LOADS for power in "pq"), *PV, "wind_pu")


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script(ROOT / "scripts" / "extract_profiles.py")


@pytest.fixture(scope="module")
def week() -> Profiles:
    return load_profiles(FOLDER / "simbench_week.csv", COLUMNS, step_s=900.0, n_steps=672)


@pytest.fixture(scope="module")
def price() -> Profiles:
    columns = {"price_per_mwh": {"per_mwh"}}
    return load_profiles(FOLDER / "price_week.csv", columns, step_s=900.0, n_steps=672)  # type: ignore[arg-type]


def test_both_files_cover_the_same_whole_week_from_monday(week: Profiles, price: Profiles) -> None:
    assert week.n_steps == price.n_steps == 7 * 96
    assert week.start == price.start
    assert week.start.weekday() == 0
    assert week.start.hour == week.start.minute == 0
    assert week.start.utcoffset() == timedelta(hours=2)


def test_every_value_is_a_plausible_fraction_of_its_rating(week: Profiles) -> None:
    for name, values in week.columns.items():
        assert values.min() >= 0.0, name
        assert 0.2 < values.max() <= 1.0, name


def test_the_sun_is_down_at_night_and_up_at_noon_by_the_clock_of_the_file(week: Profiles) -> None:
    hours = np.array([week.time(step).hour for step in range(week.n_steps)])
    for name in PV:
        assert week.columns[name][(hours < 4) | (hours >= 23)].max() == 0.0, name
        assert week.columns[name][(hours >= 12) & (hours < 15)].min() > 0.0, name


def test_the_week_has_sunny_and_dull_windy_and_calm_days(week: Profiles) -> None:
    sun = np.mean([week.columns[name] for name in PV], axis=0).reshape(7, 96).sum(axis=1)
    wind = week.columns["wind_pu"].reshape(7, 96).mean(axis=1)
    assert sun.max() > 1.4 * sun.min()
    assert wind.max() > 0.5
    assert wind.min() < 0.1


def test_prices_have_the_range_that_the_documentation_states(price: Profiles) -> None:
    values = price.columns["price_per_mwh"]
    assert (values.min(), values.max()) == (-10.93, 87.03)
    assert round(float(values.mean()), 2) == 54.14
    text = (ROOT / "docs" / "profiles.md").read_text(encoding="utf-8")
    assert "-10.93 to 87.03 $/MWh, mean 54.14" in text


def test_prices_follow_from_the_shipped_extract_by_the_stated_formula(
    script: ModuleType, week: Profiles, price: Profiles
) -> None:
    made = script.prices({name: values.tolist() for name, values in week.columns.items()})
    assert made == price.columns["price_per_mwh"].tolist()


def test_the_extract_is_small_and_its_licence_is_beside_it() -> None:
    assert sum(path.stat().st_size for path in FOLDER.glob("*.csv")) < 100_000
    licence = (FOLDER / "LICENCE.md").read_text(encoding="utf-8")
    for needed in (
        "SimBench",
        "Open Database License",
        "Database Contents License",
        "Share-alike",
        "Synthetic",
    ):
        assert needed in licence


def fake_simbench(script: ModuleType, folder: Path, n_steps: int) -> Path:
    """Write a SimBench year of ``n_steps``, the first of them a quarter of an hour before the week."""
    for file in ("LoadProfile.csv", "RESProfile.csv"):
        sources = [source for source in script.SOURCES.values() if source.file == file]
        with (folder / file).open("w", encoding="utf-8", newline="") as stream:
            rows = csv.writer(stream, delimiter=";")
            rows.writerow(["time", *(source.column for source in sources)])
            for step in range(-1, n_steps - 1):
                time = (script.START + step * script.STEP).strftime(script.SIMBENCH_TIME)
                rows.writerow(
                    [time, *(0.5 if step >= 0 else (2.0 if s.rescale else -0.00001) for s in sources)]
                )
    return folder


def test_the_script_takes_the_week_rescales_by_the_year_and_repeats_itself(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    simbench = fake_simbench(script, tmp_path, n_steps=script.N_STEPS + 5)
    outputs = []
    for run in ("one", "two"):
        (tmp_path / run).mkdir()
        script.main(["--simbench", str(simbench), "--output", str(tmp_path / run)])
        outputs.append({path.name: path.read_bytes() for path in (tmp_path / run).iterdir()})
    assert outputs[0] == outputs[1]
    assert "672 steps" in capsys.readouterr().out
    made = load_profiles(tmp_path / "one" / "simbench_week.csv", COLUMNS, step_s=900.0, n_steps=672)
    assert made.n_steps == 672
    assert set(made.columns["residential_p_pu"]) == {0.25}
    assert set(made.columns["industrial_p_pu"]) == {0.5}


@pytest.mark.parametrize("n_steps", [1, 600])
def test_the_script_refuses_a_year_without_the_whole_week(
    script: ModuleType, tmp_path: Path, n_steps: int
) -> None:
    with pytest.raises(SystemExit, match=r"no row for 04\.07\.2016|ends within the week"):
        script.read_series(fake_simbench(script, tmp_path, n_steps))


def test_the_script_refuses_a_folder_that_is_not_simbench(script: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="cannot be read"):
        script.read_series(tmp_path)
    (tmp_path / "LoadProfile.csv").write_text("time;x\n", encoding="utf-8")
    with pytest.raises(SystemExit, match="no column"):
        script.read_series(tmp_path)


def test_the_script_makes_a_year_of_the_same_columns(script: ModuleType, tmp_path: Path) -> None:
    simbench = fake_simbench(script, tmp_path, n_steps=script.N_STEPS + 8)
    script.main(["--simbench", str(simbench), "--year", str(tmp_path)])
    made = load_profiles(tmp_path / "simbench_year.csv", COLUMNS, step_s=900.0, n_steps=680)
    assert made.n_steps == script.N_STEPS + 8
    price = {"price_per_mwh": {"per_mwh"}}
    assert (
        load_profiles(tmp_path / "price_year.csv", price, step_s=900.0, n_steps=680).n_steps == made.n_steps
    )
