"""Network files: they come back as they were written, and cannot make pandapower run anything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandapower as pp
import pandapower.control
import pandapower.networks as pn
import pandas as pd
import pytest

from heron_mqtt.errors import ConfigError
from powergrid.networks import json_file, load_grid

MARKER = "was-here"


@pytest.fixture(scope="module")
def content() -> dict[str, Any]:
    """A network file as Python objects."""
    loaded: dict[str, Any] = json.loads(pp.to_json(pn.create_cigre_network_mv("all")))
    return loaded


def save(folder: Path, content: Any) -> Path:
    path = folder / "net.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def with_entry(content: dict[str, Any], entry: Any) -> dict[str, Any]:
    return {**content, "_object": {**content["_object"], "extra": entry}}


@pytest.fixture
def never_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail the test if pandapower is handed the file at all."""

    def parse(*args: object, **kwargs: object) -> None:
        pytest.fail("pandapower was handed a file that must be refused")

    monkeypatch.setattr(pp, "from_json_string", parse)


def test_a_saved_network_comes_back(tmp_path: Path) -> None:
    net = load_grid("cigre_mv_lv").net
    pp.runpp(net, numba=False)  # results are saved too
    path = tmp_path / "net.json"
    pp.to_json(net, str(path))
    back = load_grid(str(path)).net
    for table in ("bus", "line", "trafo", "load", "switch", "ext_grid"):
        numbers = net[table].select_dtypes("number").astype(float)
        pd.testing.assert_frame_equal(back[table][numbers.columns].astype(float), numbers)
        assert back[table].name.tolist() == net[table].name.tolist()


@pytest.mark.slow_but("case14")
@pytest.mark.parametrize("name", ["mv_oberrhein", "case39", "case14"])
def test_networks_of_pandapower_survive_a_file(tmp_path: Path, name: str) -> None:
    net = load_grid(name).net
    pp.to_json(net, str(tmp_path / "net.json"))
    assert len(load_grid(tmp_path / "net.json").net.bus) == len(net.bus)


def payload(marker: Path) -> dict[str, str]:
    return {"_module": "os", "_class": "system", "_object": f"touch {marker}"}


def hidden_in_table(entry: Any) -> dict[str, Any]:
    table = {"columns": ["a"], "index": [0], "data": [[entry]]}
    return {
        "_module": "pandas.core.frame",
        "_class": "DataFrame",
        "_object": json.dumps(table),
        "orient": "split",
    }


@pytest.mark.usefixtures("never_parsed")
@pytest.mark.parametrize(
    ("make", "named"),
    [
        (payload, "os.system"),
        (lambda marker: [[payload(marker)]], "os.system"),
        (lambda marker: json.dumps(payload(marker)), "os.system"),
        (lambda marker: json.dumps(json.dumps(payload(marker))), "os.system"),
        (lambda marker: " \n" + json.dumps(payload(marker)).replace("_module", "\\u005fmodule"), "os.system"),
        (lambda marker: hidden_in_table(payload(marker)), "os.system"),
        (lambda marker: hidden_in_table(json.dumps(payload(marker))), "os.system"),
        (lambda marker: {"_module": "antigravity", "_class": "x", "_object": "1"}, "antigravity.x"),
        (lambda marker: {"_module": "os", "_class": "function", "_object": "getcwd"}, "os.function"),
        (lambda marker: {"_module": "builtins", "_class": "eval", "_object": "1"}, "builtins.eval"),
        (lambda marker: {"_module": "pandas", "_class": "read_pickle", "_object": "x"}, "pandas.read_pickle"),
        (lambda marker: {"_module": "numpy", "_class": "load", "_object": "x"}, "numpy.load"),
        (lambda marker: {"_module": ["os"], "_class": {"a": 1}, "_object": "x"}, "without a proper name"),
        (lambda marker: {"_class": "x", "_object": "1"}, "without a proper name"),
        (lambda marker: {**hidden_in_table(1), "_object": str(marker)}, "a table whose content is not JSON"),
        (lambda marker: {**hidden_in_table(1), "_object": '[1,2],"}'}, "a table whose content is not JSON"),
        (lambda marker: {**hidden_in_table(1), "storage_options": {}}, "a table with storage_options"),
        (
            lambda marker: {"_module": "pandapower.auxiliary", "_class": "pandapowerNet", "_object": "{}"},
            "a network within the network",
        ),
    ],
)
def test_a_file_that_names_anything_but_tables_and_values_is_refused_unread(
    tmp_path: Path, content: dict[str, Any], make: Any, named: str
) -> None:
    marker = tmp_path / MARKER
    path = save(tmp_path, with_entry(content, make(marker)))
    with pytest.raises(ConfigError) as caught:
        load_grid(path)
    (problem,) = caught.value.problems
    assert problem.startswith(f"network file {path}: holds ")
    assert named in problem
    assert not marker.exists()


@pytest.mark.usefixtures("never_parsed")
def test_a_file_with_a_controller_is_refused_and_says_so(tmp_path: Path) -> None:
    net = pn.create_cigre_network_mv()
    net.trafo["tap_side"] = "hv"
    net.trafo[["tap_neutral", "tap_pos"]] = 0
    net.trafo["tap_min"], net.trafo["tap_max"], net.trafo["tap_step_percent"] = -9, 9, 1.5
    pandapower.control.DiscreteTapControl(net, 0, 0.99, 1.01)
    pp.to_json(net, str(tmp_path / "net.json"))
    with pytest.raises(ConfigError, match="DiscreteTapControl; only tables and plain values are read"):
        load_grid(tmp_path / "net.json")


@pytest.mark.usefixtures("never_parsed")
def test_deep_nesting_is_refused(tmp_path: Path, content: dict[str, Any]) -> None:
    entry: Any = 1
    for _ in range(200):
        entry = [entry]
    with pytest.raises(ConfigError, match="nested too deep"):
        load_grid(save(tmp_path, with_entry(content, entry)))
    (tmp_path / "bomb.json").write_text("[" * 100_000, encoding="utf-8")
    with pytest.raises(ConfigError, match="is not JSON"):
        load_grid(tmp_path / "bomb.json")
    with pytest.raises(ConfigError, match="nested too deep"):
        load_grid(save(tmp_path, with_entry(content, "[" * 100_000)))


@pytest.mark.usefixtures("never_parsed")
@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "is not JSON"),
        (b"{", "is not JSON"),
        (b"\xff\xfe{}", "is not UTF-8"),
        (b"[1, 2]", "is not a pandapower network"),
        (b'{"bus": {}}', "is not a pandapower network"),
    ],
)
def test_what_is_not_a_network_file_says_so(tmp_path: Path, data: bytes, expected: str) -> None:
    path = tmp_path / "net.json"
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=expected):
        load_grid(path)


@pytest.mark.usefixtures("never_parsed")
def test_a_missing_a_special_and_a_huge_file_are_refused(
    tmp_path: Path, content: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=r"none\.json: no such file"):
        load_grid(str(tmp_path / "none.json"))
    with pytest.raises(ConfigError, match="is not a regular file"):
        load_grid(tmp_path)
    with pytest.raises(ConfigError, match="cannot be read: embedded null byte"):
        load_grid(Path("null\0.json"))
    monkeypatch.setattr(json_file, "MAX_BYTES", 100)
    with pytest.raises(ConfigError, match="is larger than"):
        load_grid(save(tmp_path, content))


def test_a_file_that_pandapower_gives_up_on_silently_is_a_config_error(
    tmp_path: Path, content: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # pandapower answers a TypeError while it builds an object with the plain dict.
    monkeypatch.setattr(pp, "from_json_string", lambda text, convert: {})
    with pytest.raises(ConfigError, match="is not a pandapower network"):
        load_grid(save(tmp_path, content))


def test_tables_that_pandapower_cannot_read_are_a_config_error(
    tmp_path: Path, content: dict[str, Any]
) -> None:
    broken = {
        **content,
        "_object": {**content["_object"], "bus": {**hidden_in_table(1), "_object": '{"x": 1}'}},
    }
    with pytest.raises(ConfigError, match="pandapower cannot read it"):
        load_grid(save(tmp_path, broken))
