"""What decides over a DER beside setpoints: local control, the heartbeat, entering service, curves."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from heron_mqtt.field.sunspec import der_control
from heron_mqtt.field.sunspec.der_control import DerControl, active_functions, entry_problem
from heron_mqtt.field.sunspec.discovery import find_models
from support.sunspec_registers import ImageRegisters, block_of


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Return the clock of the event loop, ``s``, for a test to move."""
    now = SimpleNamespace(s=1000.7)
    loop = SimpleNamespace(time=lambda: now.s)
    monkeypatch.setattr(der_control, "asyncio", SimpleNamespace(get_running_loop=lambda: loop))
    return now


async def control_of(points: dict[str, int]) -> tuple[ImageRegisters, DerControl]:
    registers: Any = ImageRegisters({715: points})
    return registers, DerControl(registers, (await find_models(registers))[715])


@pytest.mark.parametrize(("said", "is_local"), [(0, False), (1, True), (2, False), (0xFFFF, False)])
async def test_a_der_is_under_local_control_where_it_says_so(said: int, is_local: bool) -> None:
    _, control = await control_of({"LocRemCtl": said})
    assert await control.is_local() is is_local


async def test_a_heartbeat_counts_the_seconds_from_1_and_is_written_once_for_each(
    now: SimpleNamespace,
) -> None:
    registers, control = await control_of({"ControllerHb": 0})
    for at_s, beats in ((0.0, 1), (0.5, None), (0.99, None), (1.0, 2), (1.9, None), (5.2, 6)):
        now.s = 1000.7 + at_s
        registers.requests.clear()
        await control.beat()
        written = [] if beats is None else [[f"ControllerHb={beats}"]]
        assert registers.take_written() == written, at_s
        assert bool(registers.requests) is bool(written), "nothing is asked where nothing is to be said"
    most = 0x7FFF_FFFE
    for more, beats in ((most - 1, most), (most, 0), (most + 1, 1)):
        now.s = 1000.7 + more + 0.5
        await control.beat()
        assert registers.take_written() == [[f"ControllerHb={beats}"]]


@pytest.mark.usefixtures("now")
async def test_a_der_that_wants_no_heartbeat_is_asked_once_a_second_and_told_nothing() -> None:
    registers, control = await control_of({"LocRemCtl": 0})
    for _ in range(3):
        await control.beat()
    assert registers.take_written() == []
    assert len(registers.requests) == 4, "three to find it, one of the heartbeat"


def test_a_der_that_may_not_enter_service_says_why() -> None:
    expected = (
        "it may not enter service (model 703 ES is disabled): it follows no setpoint until it is enabled"
    )
    assert entry_problem(block_of(703, {"ES": 0})) == expected
    assert entry_problem(block_of(703, {"ES": 1})) is None
    assert entry_problem(block_of(703, {})) is None


async def test_every_curve_that_is_enabled_is_named_and_no_other_model() -> None:
    enabled: dict[int, dict[str, Any]] = {model: {"Ena": 1} for model in range(705, 713)}
    registers: Any = ImageRegisters({704: {"PFWInjEna": 1}, **enabled, 713: {}})
    models = await find_models(registers)
    assert await active_functions(registers, models) == [
        *("705 VoltVar", "706 VoltWatt", "707 TripLV", "708 TripHV", "709 TripLF", "710 TripHF"),
        *("711 FreqDroop", "712 WattVar"),
    ]
    registers = ImageRegisters({705: {"Ena": 0}, 706: {"Ena": 2}, 711: {}, 712: {"Ena": 1}})
    assert await active_functions(registers, await find_models(registers)) == ["712 WattVar"]
