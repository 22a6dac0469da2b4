"""Every shipped profile of a device on Modbus, over a connection, against registers with a stated source."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from heron_mqtt.field.modbus.place import TcpAddress
from heron_mqtt.field.modbus.registers import ModbusConnection, Registers
from heron_mqtt.field.vendor.mapping import DeviceMapping, load_mapping
from heron_mqtt.field.vendor.modbus_link import ModbusLink
from heron_mqtt.field.vendor.outgoing import RegisterCommand
from heron_mqtt.field.vendor.vendor_state import VendorState
from heron_mqtt.messages import Setpoint, Telemetry
from support.modbus_box import ModbusBox

RECORDED = {
    path.stem: recorded
    for path in sorted((Path(__file__).parent / "device_profiles").glob("*.json"))
    if "polled" in (recorded := json.loads(path.read_text()))
}


def load(name: str) -> DeviceMapping:
    given = {"profile": f"device_profiles/{name}.toml", "parameters": RECORDED[name]["parameters"]}
    return load_mapping(given, agent="MG1", device="ess", source="test")


def of_all(what: str) -> list[Any]:
    return [
        pytest.param(name, sample, id=f"{name}-{i}")
        for name, recorded in RECORDED.items()
        for i, sample in enumerate(recorded[what])
    ]


async def read(mapping: DeviceMapping, words: dict[str, dict[str, list[int]]]) -> VendorState:
    areas = {area: {int(at): block for at, block in blocks.items()} for area, blocks in words.items()}
    _fill_gaps(mapping, areas)
    box = await ModbusBox({1: areas}).start()
    connection = ModbusConnection(TcpAddress("127.0.0.1", box.port), timeout_s=1.0)
    state = VendorState(mapping)
    link = ModbusLink(Registers(connection, 1), mapping)
    assert mapping.registers is not None
    for group in mapping.registers.groups(mapping.polled):
        poll = await link.read(group, mapping.registers.blocks(group.names))
        assert poll.unread == {}
        state.take_document(poll.source, poll.values, 0.1, shown=poll.shown, unread=poll.unread)
    connection.close()
    await box.stop()
    return state


def _fill_gaps(mapping: DeviceMapping, areas: dict[str, dict[int, list[int]]]) -> None:
    """Put zeros where a request may read unused registers, as the device has registers there."""
    assert mapping.registers is not None
    for group in mapping.registers.groups(mapping.polled):
        for block in mapping.registers.blocks(group.names):
            held = areas.setdefault(block.area, {})
            taken = {at + i for at, words in held.items() for i in range(len(words))}
            for at in range(block.address, block.address + block.count):
                if at not in taken:
                    held[at] = [0]


@pytest.mark.parametrize(("name", "sample"), of_all("polled"))
async def test_registers_mean_what_they_should(name: str, sample: dict[str, Any]) -> None:
    assert sample["source"]
    state = await read(load(name), sample["words"])
    found = {line.name: line.value for line in state.report(1.0) if line.name in Telemetry.model_fields}
    known = {field: value for field, value in found.items() if value is not None}
    assert known == pytest.approx(sample["fields"], rel=1e-6)
    status = state.status()
    assert (status.state if status else None) == sample.get("state")


def as_written(commands: list[Any]) -> list[list[Any]]:
    assert all(isinstance(command, RegisterCommand) for command in commands)
    return [
        ["single" if write.single else "multiple", write.address, list(write.words)]
        for command in commands
        for write in command.writes
    ]


@pytest.mark.parametrize(("name", "sample"), of_all("sent"))
def test_a_setpoint_becomes_exactly_the_documented_writes(name: str, sample: dict[str, Any]) -> None:
    assert sample["source"]
    sent = load(name).encode(Setpoint(**sample["setpoint"], seq=0))
    assert as_written(sent) == sample["writes"]


@pytest.mark.parametrize("name", [name for name, recorded in RECORDED.items() if recorded["sent"]])
def test_every_profile_that_takes_setpoints_hands_the_device_back(name: str) -> None:
    mapping = load(name)
    assert mapping.has_release
    assert as_written(mapping.release()) == RECORDED[name]["released"] != []


def test_the_profiles_that_only_read_take_no_setpoint() -> None:
    assert {name for name in RECORDED if not load(name).sets} == {"eastron_sdm630"}


async def test_a_server_of_another_make_is_read_and_written() -> None:
    """A server of pymodbus plays a Sungrow: what both ends of ours agree on is not only ours."""
    from pymodbus.server import ModbusTcpServer
    from pymodbus.simulator import DataType, SimData, SimDevice

    bits = [SimData(0, values=[False], datatype=DataType.BITS)]
    inputs = [SimData(13000, values=[0b100, *[0] * 20, 900, 505], datatype=DataType.REGISTERS)]
    holding = [SimData(13049, values=[0, 0, 0], datatype=DataType.REGISTERS)]
    device = SimDevice(1, simdata=(bits, bits, holding, inputs))
    server = ModbusTcpServer([device], address=("127.0.0.1", 0))
    await server.serve_forever(background=True)
    connection = ModbusConnection(
        TcpAddress("127.0.0.1", server.transport.sockets[0].getsockname()[1]), timeout_s=1.0
    )
    mapping = load("sungrow_sh")
    state = VendorState(mapping)
    registers = Registers(connection, 1)
    polls: list[Any] = []
    try:
        async with ModbusLink(registers, mapping) as link:
            link.listen((), lambda *_: None, polls.append)
            async with asyncio.timeout(10.0):
                while not polls:
                    await asyncio.sleep(0.01)
                for command in mapping.encode(Setpoint(p_mw=-0.0015, lease_s=5.0)):
                    await link.send(command, not_after=asyncio.get_running_loop().time() + 5.0)
        state.take_document(polls[0].source, polls[0].values, 0.1, shown=polls[0].shown)
        telemetry = state.telemetry(0.2)
        assert telemetry is not None
        assert (telemetry.p_mw, telemetry.soc) == (pytest.approx(0.0009), pytest.approx(0.505))
        assert await registers.read(13049, 3) == [2, 0xAA, 1500]
    finally:
        connection.close()
        await server.shutdown()
