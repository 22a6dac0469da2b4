"""One instance of a unit: the moments of its steps, what it reads and keeps, what it says when it is lost."""

from __future__ import annotations

import math
from collections import deque
from types import SimpleNamespace
from typing import Any

import pytest

from heron_mqtt.errors import ModelFailed
from powergrid.devices.fmu_file import FmuVariable
from powergrid.devices.fmu_instance import FmuInstance


class Slave:
    """A unit as FMPy has it; keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.values = [1.0]
        self.flags: Any = None
        self.component: Any = "there"
        self.error: Exception | None = None

    def doStep(self, at_s: float, dt_s: float) -> Any:  # of FMPy
        self.asked.append(("doStep", at_s, dt_s))
        if self.error is not None:
            raise self.error
        return self.flags

    def __getattr__(self, name: str) -> Any:
        def call(*given: Any) -> Any:
            self.asked.append((name, *given))
            if name.startswith("getFMU"):
                return f"state {len(self.asked)}"
            return self.values if name.startswith("get") else None

        return call


def variable(name: str, type_: str = "Real", reference: int = 7) -> FmuVariable:
    return FmuVariable(name, reference, type_, "output", "", "")


def instance(*, is_fmi3: bool = False, can_undo: bool = False) -> tuple[Slave, FmuInstance]:
    made = object.__new__(FmuInstance)
    interface = SimpleNamespace(canGetAndSetFMUstate=can_undo)
    made._file = SimpleNamespace(is_fmi3=is_fmi3, interface=interface, path=SimpleNamespace(name="a.fmu"))  # type: ignore[assignment]
    made._name, made._said, made._before, made.t_s = "unit a", deque(maxlen=3), None, 0.0
    slave = Slave()
    made._unit = slave
    return slave, made


def test_a_step_is_taken_in_equal_parts_from_where_the_last_one_ended() -> None:
    slave, made = instance()
    assert (
        made.step({variable("x"): 5.0}, 900.0, 3, [variable("p"), variable("q", reference=8)])
        == [[1.0, 1.0]] * 3
    )
    assert slave.asked == [
        ("setReal", [7], [5.0]),
        *(
            each
            for at in (0.0, 300.0, 600.0)
            for each in (("doStep", at, 300.0), ("getReal", [7]), ("getReal", [8]))
        ),
    ]
    assert made.t_s == 900.0
    slave.asked.clear()
    made.step({}, 60.0, 1, [])
    assert (slave.asked, made.t_s) == ([("doStep", 900.0, 60.0)], 960.0)


@pytest.mark.parametrize(
    ("flags", "what"),
    [
        (None, ""),
        ((False, False, False, 5.0), ""),
        ((True, False, False, 5.0), ""),
        ((False, True, False, 5.0), "asked to end"),
        ((False, False, True, 5.0), "returned early"),
        ((False, True, True, 5.0), "asked to end"),
    ],
)
def test_a_part_that_ends_early_is_a_failure(flags: Any, what: str) -> None:
    slave, made = instance()
    slave.flags = flags
    if not what:
        assert made.step({}, 60.0, 2, []) == [[], []]
        return
    with pytest.raises(ModelFailed) as caught:
        made.step({}, 60.0, 2, [])
    assert str(caught.value) == f"unit a: it {what} at 5 s"
    assert [each[0] for each in slave.asked] == ["doStep", "freeInstance"]


@pytest.mark.parametrize(("is_fmi3", "name"), [(False, "FMUstate"), (True, "FMUState")])
def test_the_state_before_the_newest_step_alone_is_kept_and_put_back(is_fmi3: bool, name: str) -> None:
    slave, made = instance(is_fmi3=is_fmi3, can_undo=True)
    assert made.can_undo
    made.step({}, 60.0, 1, [])
    made.step({}, 30.0, 1, [])
    assert [each[0] for each in slave.asked] == [
        f"get{name}",
        "doStep",
        f"free{name}",
        f"get{name}",
        "doStep",
    ]
    assert slave.asked[2] == (f"free{name}", "state 1")
    made.undo()
    assert slave.asked[-1] == (f"set{name}", "state 4")
    assert made.t_s == 60.0
    made.close()
    assert [each[0] for each in slave.asked[-3:]] == [f"free{name}", "terminate", "freeInstance"]
    asked = len(slave.asked)
    made.close()
    assert len(slave.asked) == asked
    plain, made = instance(can_undo=False)
    made.step({}, 60.0, 1, [])
    made.close()
    assert not made.can_undo
    assert [each[0] for each in plain.asked] == ["doStep", "terminate", "freeInstance"]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_a_failure_that_says_when(value: float) -> None:
    slave, made = instance()
    made.t_s = 120.0
    slave.values = [value]
    with pytest.raises(ModelFailed) as caught:
        made.read([variable("p")])
    assert str(caught.value) == f"unit a: p is {value} at 120 s"


@pytest.mark.parametrize(
    ("is_fmi3", "type_", "name"),
    [
        (False, "Enumeration", "Integer"),
        (True, "Enumeration", "Int64"),
        (True, "Float64", "Float64"),
        (False, "Boolean", "Boolean"),
    ],
)
def test_a_variable_is_read_as_its_type_in_the_standard(is_fmi3: bool, type_: str, name: str) -> None:
    slave, made = instance(is_fmi3=is_fmi3)
    made.read([variable("x", type_)])
    assert slave.asked == [(f"get{name}", [7])]


@pytest.mark.parametrize(
    ("status", "component", "freed"), [(3, "there", 1), (4, "there", 0), (3, None, 0), (None, "there", 1)]
)
def test_a_unit_that_failed_is_freed_unless_that_may_end_the_process_and_tells_the_last_it_said(
    status: int | None, component: Any, freed: int
) -> None:
    slave, made = instance()
    slave.component, slave.error = component, RuntimeError("too  hot.\n")
    if status is not None:
        slave.error.status = status  # type: ignore[attr-defined]
    for text in (b"one", b" two ", b"three", b"x" * 301):
        made._log3(None, 0, None, text)
    made.t_s = 60.0
    with pytest.raises(ModelFailed) as caught:
        made.step({}, 30.0, 1, [])
    assert str(caught.value) == (
        f"unit a: a.fmu failed in the step from 60 s, of 30 s: too hot; it said: two / three / {'x' * 300}"
    )
    assert [each[0] for each in slave.asked].count("freeInstance") == freed
    made.close()
    assert [each[0] for each in slave.asked].count("terminate") == 0, "it is given up"


def test_a_unit_that_said_nothing_is_told_without(caplog: pytest.LogCaptureFixture) -> None:
    slave, made = instance()
    slave.error = RuntimeError("")
    caplog.set_level("DEBUG")
    with pytest.raises(ModelFailed, match=r"^unit a: a.fmu failed in the step from 0 s, of 30 s: $"):
        made.step({}, 30.0, 1, [])
    made._log3(None, 0, None, None)
    made._log2(None, None, 1, None, b"warm")
    assert [(r.levelname, r.getMessage()) for r in caplog.records] == [
        ("DEBUG", "unit a: "),
        ("WARNING", "unit a: warm"),
    ]
