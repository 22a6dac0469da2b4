"""SunSpec registers mean what the SunSpec Alliance's definitions say, and are found where they may be."""

from __future__ import annotations

import asyncio
import builtins
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import sunspec2.device
from hypothesis import given
from hypothesis import strategies as st
from pymodbus.constants import ExcCodes
from pymodbus.pdu.register_message import ReadHoldingRegistersResponse

from heron_mqtt.errors import ConfigError
from heron_mqtt.field.modbus.place import TcpAddress
from heron_mqtt.field.modbus.registers import ModbusConnection, ModbusFault, Registers
from heron_mqtt.field.sunspec.block import NOT_IMPLEMENTED, Block, SunSpecError
from heron_mqtt.field.sunspec.discovery import Place, find_models, read_model
from heron_mqtt.field.sunspec.layouts import layout
from support.rows import each_row
from support.sunspec_server import BATTERY, DER, PV, EmulatedInverter, defined_points


@each_row("model", [1, 103, 113, 120, 121, 123, 124, *range(701, 716), 160])
def test_every_point_stands_where_pysunspec2_puts_it(model: int) -> None:
    counts = {"NPt": 3, "NCrv": 2, "NCtl": 2, "NPrt": 2, "N": 2, "NCrvSet": 2}
    words = [model, 0]
    for name, kind, size in list(defined_points(model, counts))[2:]:
        value = counts.get(name.rsplit(".", 1)[-1], 0) if kind in {"uint16", "count"} else 0
        words += [0] * (size - 1) + [value]
    words[1] = len(words) - 2
    theirs = sunspec2.device.Model(model, data=b"".join(w.to_bytes(2, "big") for w in words))
    ours = Block(model, 0, words)

    def compare(block: Block, group: Any) -> int:
        compared = 0
        for name, point in group.points.items():
            assert (block.at(name), block.point(name).size) == (point.offset, point.len), name
            assert block.point(name).type == point.pdef["type"]
            compared += 1
        flat = [g for found in group.groups.values() for g in (found if isinstance(found, list) else [found])]
        parts = block.parts()
        assert len(parts) == len(flat)
        return compared + sum(compare(part, each) for part, each in zip(parts, flat, strict=True))

    assert compare(ours, theirs) == len(list(defined_points(model, counts)))


def points_of(model: int) -> dict[str, Any]:
    group = layout(model)
    assert group is not None
    return group.points


def block_124(**points: int) -> Block:
    words = [0xFFFF] * 26
    for name, value in points.items():
        words[points_of(124)[name].offset] = value & 0xFFFF
    return Block(124, 0, words)


@pytest.mark.parametrize(
    ("raw", "sf", "value"), [(6400, -2, 64.0), (3, -1, 0.3), (64, 0, 64.0), (6, 1, 60.0), (1, -10, 1e-10)]
)
def test_a_scale_factor_is_a_power_of_ten(raw: int, sf: int, value: float) -> None:
    assert block_124(ChaState=raw, ChaState_SF=sf).value("ChaState") == value


@pytest.mark.parametrize(
    "points", [{"ChaState": 0xFFFF, "ChaState_SF": 0}, {"ChaState": 5, "ChaState_SF": 0x8000}]
)
def test_what_is_not_implemented_has_no_value(points: dict[str, int]) -> None:
    block = block_124(**points)
    assert block.value("ChaState") is None
    assert block_124(InWRte=0x8000).raw("InWRte") is None
    assert block_124(InWRte=-100).raw("InWRte") == -100


@pytest.mark.parametrize("sf", [11, -11, 100])
def test_an_impossible_scale_factor_is_refused(sf: int) -> None:
    with pytest.raises(SunSpecError, match=r"scale factor ChaState_SF is -?\d+, outside"):
        block_124(ChaState=1, ChaState_SF=sf).value("ChaState")


def test_a_point_beyond_the_end_of_a_short_model_is_not_implemented() -> None:
    short = Block(704, 0, [704, 18] + [0] * 18)
    assert short.raw("WMaxLimPctEna") == 0
    assert short.raw("WSetRvrtTms") is None


@given(value=st.floats(-100.0, 100.0), sf=st.integers(-3, 2))
def test_a_value_is_written_in_whole_steps_towards_zero(value: float, sf: int) -> None:
    block = block_124(OutWRte=0, InOutWRte_SF=sf)
    counts = block.counts("OutWRte", value)
    assert abs(counts) * 10.0**sf <= abs(value) * (1 + 1e-12)
    assert abs(counts * 10.0**sf - value) < 10.0**sf * (1 + 1e-9)


@given(model=st.sampled_from([123, 124, 704]), data=st.data())
def test_what_is_written_is_what_is_read_and_never_not_implemented(model: int, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from([n for n, p in points_of(model).items() if p.type != "sunssf"]))
    point = points_of(model)[name]
    raw = data.draw(st.integers(-(2**33), 2**33))
    words = [0] * 80
    block = Block(model, 0, words)
    try:
        written = block.words(name, raw)
    except SunSpecError as exc:
        assert "does not fit" in str(exc)  # noqa: PT017
        return
    assert len(written) == point.size
    words[point.offset : point.offset + point.size] = written
    assert block.raw(name) == raw
    assert (
        int.from_bytes(b"".join(w.to_bytes(2, "big") for w in written), "big") != NOT_IMPLEMENTED[point.type]
    )


# -- over Modbus -----------------------------------------------------------------------------------


@pytest.fixture
async def make() -> AsyncIterator[Any]:
    """Start emulated inverters, and connect to them."""
    inverters: list[EmulatedInverter] = []
    clients: list[Registers] = []

    async def start(models: dict[int, dict[str, Any]], **options: Any) -> tuple[EmulatedInverter, Registers]:
        inverters.append(await EmulatedInverter(models, **options).start())
        clients.append(
            Registers(ModbusConnection(TcpAddress("127.0.0.1", inverters[-1].port), timeout_s=0.5), 1)
        )
        return inverters[-1], clients[-1]

    yield start
    for client in clients:
        client.close()
    for inverter in inverters:
        await inverter.stop()


@pytest.mark.parametrize("base", [40_000, 0, 50_000])
async def test_the_models_are_found_at_each_base_address(make: Any, base: int) -> None:
    _, registers = await make(BATTERY, base=base)
    models = await find_models(registers)
    assert list(models) == [1, 103, 120, 124]
    assert models[1] == Place(base + 2, 68)
    block = await read_model(registers, 1, models[1])
    assert [block.text(name) for name in ("Mn", "Md", "SN")] == ["Heron Works", "ESS-10", "4711"]


async def test_long_models_are_read_whole(make: Any) -> None:
    _, registers = await make(DER)
    models = await find_models(registers)
    assert (await read_model(registers, 701, models[701])).value("W") == -1500.0
    assert len(await registers.read(40_002, 250)) == 250


async def test_a_device_without_marker_is_named_with_what_to_check(make: Any) -> None:
    inverter, registers = await make(PV)
    inverter.image[0] = 0
    with pytest.raises(SunSpecError, match=r"no SunSpec marker at 40000, 0, 50000: is the unit id right"):
        await find_models(registers)


async def test_a_list_of_models_that_does_not_end_is_refused(make: Any) -> None:
    inverter, registers = await make(PV)
    inverter.image[2:] = [7, 0] * ((len(inverter.image) - 2) // 2)
    with pytest.raises((SunSpecError, ModbusFault)):
        await find_models(registers)


async def test_a_model_that_has_moved_is_noticed(make: Any) -> None:
    _, registers = await make(PV)
    models = await find_models(registers)
    with pytest.raises(SunSpecError, match="model 120 stands at"):
        await read_model(registers, 123, models[120])


async def test_an_exception_of_the_device_is_told_with_its_code_and_where(make: Any) -> None:
    inverter, registers = await make(PV)
    inverter.refuse = ExcCodes.DEVICE_FAILURE
    with pytest.raises(
        ModbusFault, match=r"127\.0\.0\.1:\d+ unit 1: reading 2 registers at 40000: .* 4 \(device failure\)$"
    ) as caught:
        await registers.read(40_000, 2)
    assert caught.value.code == 4


async def test_a_silent_device_is_given_up_in_time_and_asked_again_on_a_new_connection(make: Any) -> None:
    inverter, registers = await make(PV)
    await registers.read(40_000, 2)
    inverter.silent = True
    started = time.monotonic()
    with pytest.raises(ModbusFault, match="no answer"):
        await registers.read(40_000, 2)
    assert time.monotonic() - started < 3.0
    inverter.silent = False
    assert await registers.read(40_000, 2) == [0x5375, 0x6E53]
    assert registers.connections == 2


async def test_nobody_at_the_address_is_told_in_one_line(make: Any) -> None:
    inverter, registers = await make(PV)
    await inverter.stop()
    with pytest.raises(ModbusFault, match="no answer; is Modbus TCP switched on there"):
        await registers.connect()


async def test_a_device_that_comes_back_is_read_again(make: Any) -> None:
    inverter, registers = await make(PV)
    await registers.read(40_000, 2)
    await inverter.stop()
    with pytest.raises(ModbusFault):
        await registers.read(40_000, 2)
    await inverter.start()
    assert await registers.read(40_000, 2) == [0x5375, 0x6E53]


async def test_requests_at_the_same_time_wait_for_each_other(make: Any) -> None:
    _, registers = await make(PV)
    answers = await asyncio.gather(*(registers.read(40_000 + i, 2) for i in range(20)))
    everything = await registers.read(40_000, 22)
    assert answers == [everything[i : i + 2] for i in range(20)]
    assert registers.connections == 1


def test_without_pymodbus_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    really = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("pymodbus"):
            raise ImportError(name)
        return really(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=r"pip install 'heron-mqtt\[modbus\]'"):
        ModbusConnection(TcpAddress("127.0.0.1", 502))


async def test_a_model_that_is_longer_than_all_registers_is_one_clear_fault() -> None:
    class Liar(ModbusConnection):
        async def ask(self, what: str, request: Any, *, unit: int, is_write: bool) -> Any:
            return ReadHoldingRegistersResponse(registers=[0] * 125)

    registers = Registers(Liar(TcpAddress("127.0.0.1", 1)), 1)
    with pytest.raises(ModbusFault, match=r"reading 25 registers at 65536: there are none beyond 65535"):
        await registers.read(65_411, 150)


def test_people_are_shown_every_point_that_the_inverter_has_and_nothing_else() -> None:
    silent = {"InWRte": 0x8000, "OutWRte": 0x8000}
    shown = dict(block_124(ChaState=6400, ChaState_SF=0xFFFE, StorCtl_Mod=3, **silent).shown())
    assert shown.keys() == {"ChaState", "StorCtl_Mod"}, "no scale factors, no number and length of the model"
    assert shown["ChaState"].startswith("64")


def test_groups_that_repeat_are_shown_with_their_numbers() -> None:
    words = [714, 0]
    for name, kind, size in list(defined_points(714, {"NPrt": 2}))[2:]:
        last = name.rsplit(".", 1)[-1]
        value = {"NPrt": 2, "PrtTyp": 1, "ID": 7}.get(last, 0)
        words += [0] * (size - 1) + [value if kind != "string" else 0]
    words[1] = len(words) - 2
    shown = dict(Block(714, 0, words).shown())
    assert {name.partition(".")[0] for name in shown if "." in name} == {"Prt[1]", "Prt[2]"}
    assert "Prt[1].ID" in shown
    assert "ID" not in shown
    assert "L" not in shown
