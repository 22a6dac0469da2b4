"""A unit's file: what may be set, what it is too large for, what is offered in place of a wrong name."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import pytest

from heron_mqtt.errors import ConfigError
from powergrid.devices import fmu_file as module
from powergrid.devices.fmu_file import FmuFile, FmuVariable, fmu_file
from powergrid.devices.fmu_instance import FmuInstance
from support.fmus import battery, changed
from support.rows import each_row


def file_with(*variables: FmuVariable) -> FmuFile:
    """Return a unit's file that has these variables."""
    file = object.__new__(FmuFile)
    file.variables = {variable.name: variable for variable in variables}
    return file


def a(name: str, type_: str = "Real", causality: str = "parameter", initial: str = "") -> FmuVariable:
    return FmuVariable(name, 0, type_, causality, initial, "")


def complaints(file: FmuFile, name: str, value: Any) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    file.check_start(name, value, lambda key, text: found.append((key, text)))
    return found


@each_row(
    ("type_", "fits"),
    [
        *((name, (1, 0.5)) for name in ("Real", "Float64", "Float32")),
        *((name, (1,)) for name in ("Integer", "Int32", "Int64", "UInt8", "Enumeration")),
        ("Boolean", (True,)),
        ("String", ("word",)),
        ("Binary", ()),
        ("Clock", ()),
    ],
)
def test_a_start_value_is_of_the_type_that_the_unit_wants(type_: str, fits: tuple[Any, ...]) -> None:
    file = file_with(a("x", type_))
    assert file.variables["x"].is_number is (type_ in {"Real", "Float64", "Float32"})
    for value in (1, 0.5, True, "word"):
        expected = (
            []
            if any(type(value) is type(fit) for fit in fits)
            else [("x", f"{value!r}: the unit wants a value of type {type_}")]
        )
        assert complaints(file, "x", value) == expected


@each_row(
    ("causality", "initial", "may_be_set"),
    [
        ("parameter", "", True),
        ("structuralParameter", "", True),
        ("input", "", True),
        ("output", "", False),
        ("output", "exact", True),
        ("local", "approx", True),
        ("local", "calculated", False),
        ("", "", False),
    ],
)
def test_only_what_the_unit_does_not_work_out_can_be_set(
    causality: str, initial: str, may_be_set: bool
) -> None:
    found = complaints(file_with(a("x", causality=causality, initial=initial)), "x", 1.0)
    text = f"is {causality or 'local'}, which the unit works out: it cannot be set"
    assert found == ([] if may_be_set else [("x", text)])


def test_in_place_of_a_wrong_name_those_that_are_close_are_offered_else_those_at_its_terminals() -> None:
    found: list[tuple[str, str]] = []
    file = file_with(a("Power"), a("POWER"), a("p", causality="output"), a("q", causality="input"), a("lag"))
    assert file.variable("p", lambda *told: found.append(told)) is file.variables["p"]
    assert found == []
    for name, offered in (("power", "Power, POWER"), ("speed", "p, q")):
        assert file.variable(name, lambda *told: found.append(told)) is None
        assert found.pop() == ("variable", f"the unit has no variable {name!r}; it has {offered}")
    many = file_with(*(a(f"p{n}", causality="output") for n in range(21)))
    assert many.variable("x", lambda *told: found.append(told)) is None
    assert found.pop()[1].endswith(f"it has {', '.join(f'p{n}' for n in range(20))}")
    assert file_with(a("lag")).variable("x", lambda *told: found.append(told)) is None
    assert found.pop()[1].endswith("it has none")
    assert complaints(file_with(a("lag")), "x", 1.0) == [("x", "the unit has no variable 'x'; it has none")]


def test_a_unit_that_unpacks_to_too_much_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert module.MAX_UNPACKED_BYTES == 2**30
    size = sum(member.file_size for member in zipfile.ZipFile(battery()).infolist())
    monkeypatch.setattr(module, "MAX_UNPACKED_BYTES", size)
    FmuFile(battery())
    monkeypatch.setattr(module, "MAX_UNPACKED_BYTES", size - 1)
    with pytest.raises(ConfigError) as caught:
        FmuFile(battery())
    assert str(caught.value) == (
        f"file = '{battery()}': unpacks to {size} bytes, at most {size - 1} are taken"
    )


def test_what_a_unit_says_of_itself_is_read_by_its_standard() -> None:
    for version, number, token in ((2, "Real", "{heron-battery}"), (3, "Float64", "{heron-battery}")):
        file = FmuFile(battery(version))
        assert (file.is_fmi3, file.token) == (version == 3, token)
        assert file.variables["p_set"] == FmuVariable("p_set", 0, number, "input", "exact", "kW")
        assert file.variables["soc"].unit == "%"
        assert file.variables["capacity_kwh"].unit == ""
        assert file.variables["running"].type == "Boolean"


def test_the_same_content_is_read_once_and_unpacked_once(tmp_path: Path) -> None:
    path = changed(tmp_path / "unit.fmu")
    file = fmu_file(path)
    assert fmu_file(path) is file
    folder = file.unpacked()
    assert file.unpacked() == folder
    assert (folder / "modelDescription.xml").is_file()
    changed(path, {"A battery with a lag": "Another battery"})
    assert fmu_file(path) is not file
    with pytest.raises(ConfigError, match="no such file; expected a functional mock-up unit"):
        fmu_file(tmp_path / "none.fmu")


def test_a_platform_that_it_has_no_binary_for_is_told_with_those_that_it_has(tmp_path: Path) -> None:
    names = {"linux64": "win64", "x86_64-linux": "x86_64-windows", ".so": ".dll"}
    for renamed, shown in ((names, "win64"), ({"binaries": "sources"}, "none"), ({".so": ".dll"}, "linux64")):
        path = changed(tmp_path / "unit.fmu", names=renamed)
        with pytest.raises(ConfigError) as caught:
            FmuFile(path)
        assert str(caught.value) == (
            f"file = '{path}': has no binary for linux64; it has {shown}: export it for this platform"
        )


def test_a_long_complaint_of_a_library_is_one_line_of_300_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    def complains(*_: Any, **__: Any) -> None:
        raise RuntimeError("very \n " + "x" * 400)

    with monkeypatch.context() as patched:
        patched.setattr("fmpy.read_model_description", complains)
        with pytest.raises(ConfigError) as caught:
            FmuFile(battery())
    start = f"file = '{battery()}': its "
    assert str(caught.value) == f"{start}description cannot be read: very {'x' * 295}"
    monkeypatch.setattr("fmpy.fmi2.FMU2Slave", complains)
    with pytest.raises(ConfigError) as caught:
        FmuInstance(FmuFile(battery()), "unit", {})
    assert str(caught.value) == f"{start}library cannot be used: very {'x' * 295}"
