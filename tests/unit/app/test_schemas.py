"""The schemas that editors are given say what a run accepts."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from heron_mqtt.app.schemas import SCHEMAS, schema_of
from heron_mqtt.config import Table, shipped_config
from heron_mqtt.errors import ConfigError
from heron_mqtt.messaging.impairment_kinds import IMPAIRMENTS, Impairment, ImpairmentKind

FILES = {
    "scenario": "*.toml",
    "mapping": "device_profiles/*.toml",
    "impairment": "networks/*.toml",
    "suite": "suites/*.toml",
}
SHIPPED = [(what, path) for what, pattern in FILES.items() for path in sorted(shipped_config().glob(pattern))]


@functools.cache
def validator(what: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(schema_of(what))


def errors(what: str, data: Any) -> list[str]:
    return [error.message for error in validator(what).iter_errors(data)]


@pytest.mark.parametrize("what", SCHEMAS)
def test_the_shipped_schema_is_the_one_of_the_models(what: str) -> None:
    shipped = json.loads((shipped_config() / "schema" / f"{what}.json").read_text("utf-8"))
    assert shipped == schema_of(what), f"heron-mqtt schema {what} > config/schema/{what}.json"


@pytest.mark.slow_but("impairment", "suite")  # those of a scenario and of a mapping take half a second
@pytest.mark.parametrize("what", SCHEMAS)
def test_the_schema_is_one(what: str) -> None:
    jsonschema.Draft202012Validator.check_schema(schema_of(what))


def test_every_shipped_file_validates_and_names_its_schema() -> None:
    assert len(SHIPPED) > 25
    for what, path in SHIPPED:
        text = path.read_text("utf-8")
        assert errors(what, tomllib.loads(text)) == [], path
        named = text.splitlines()[0].removeprefix("#:schema ")
        assert (path.parent / named).resolve() == (shipped_config() / "schema" / f"{what}.json").resolve()


@pytest.mark.parametrize(
    "change",
    [
        {"steps": 0},
        {"stepps": 3},
        {"protocol": {"horizontal": "auction"}},
        {"microgrids": {"MG1": {"devices": {"ess": {"kind": "battery"}}}}},
        {"microgrids": {"MG1": {"devices": {"x": {"kind": "reactor"}}}}},
        {"microgrids": {"MG1": {"devices": {"pv": {"kind": "pv", "max_p_mw": 0.1, "profil": "pv_1_pu"}}}}},
    ],
)
def test_what_a_run_refuses_an_editor_marks(change: dict[str, Any]) -> None:
    data = tomllib.loads((shipped_config() / "three_microgrids.toml").read_text("utf-8"))
    assert errors("scenario", {**data, **change})


def test_an_added_kind_of_impairment_is_a_table_of_a_rule() -> None:
    class SpikesTable(Table):
        spike_s: float

    class Spikes(ImpairmentKind):
        name, table = "added_spikes", SpikesTable

        def affect(self, message: Impairment, draws: Sequence[float]) -> None:
            message.delay_s += self.settings.spike_s

    with IMPAIRMENTS.added(Spikes):
        for what in ("scenario", "impairment"):
            check = jsonschema.Draft202012Validator(schema_of(what)["$defs"]["RuleTable"])
            assert check.is_valid({"added_spikes": {"spike_s": 2.0}})
            assert not check.is_valid({"added_spikes": {"spikes_s": 2.0}})
    assert "added_spikes" not in schema_of("impairment")["$defs"]["RuleTable"]["properties"]


def test_there_is_no_schema_of_other_things() -> None:
    with pytest.raises(ConfigError, match="schema records: expected scenario, mapping, impairment, suite"):
        schema_of("records")


@pytest.mark.slow
def test_a_language_server_for_toml_checks_by_them(tmp_path: Path) -> None:
    taplo = Path(sys.executable).with_name("taplo")
    good = subprocess.run([taplo, "lint", *(path for _, path in SHIPPED)], capture_output=True, check=False)
    assert good.returncode == 0, good.stderr
    folder = tmp_path / "config"
    (folder / "schema").mkdir(parents=True)
    schema = (shipped_config() / "schema" / "scenario.json").read_text("utf-8")
    (folder / "schema" / "scenario.json").write_text(schema)
    text = (shipped_config() / "three_microgrids.toml").read_text("utf-8")
    (folder / "bad.toml").write_text(text.replace("max_soc = 0.9", 'max_soc = "much"', 1))
    bad = subprocess.run([taplo, "lint", folder / "bad.toml"], capture_output=True, check=False)
    assert bad.returncode != 0
