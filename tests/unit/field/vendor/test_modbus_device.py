"""A vendor's device by a table of registers: read, told, released, and believed only as far as it answers."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import pytest

from heron_mqtt.field.modbus.place import TcpAddress
from heron_mqtt.field.modbus.registers import ModbusConnection, Registers
from heron_mqtt.field.vendor import VendorDevice, load_mapping
from heron_mqtt.field.vendor.commands import WriteBudget
from heron_mqtt.field.vendor.link import NotTaken
from heron_mqtt.field.vendor.modbus_link import LOST_AFTER, ModbusLink
from heron_mqtt.field.vendor.register_map import RegisterWrite
from heron_mqtt.messages import AuthorityState
from heron_mqtt.messaging import topics
from heron_mqtt.messaging.memory import InMemoryBroker
from support.modbus_box import ModbusBox, f32, i32
from support.sunspec_gateway import Gateway
from support.waiting import until

TABLE: dict[str, Any] = {
    "name": "hybrid",
    "modbus": {"period_s": 0.1, "max_gap": 4},
    "registers": {
        "watts": {"address": 100, "area": "input", "type": "int32", "absent": [0x80000000]},
        "level": {"address": 104, "area": "input", "scale": 0.1, "absent": [0xFFFF], "clamp": [0, 100]},
        "volts": {"address": 200, "area": "input", "type": "float32"},
        "mode": {"address": 10, "words": {"0": "auto", "2": "forced"}},
        "power": {"address": 11, "type": "int16", "scale": 10},
        "lease": {"address": 12},
    },
    "quantities": {
        "p_mw": {"formula": "watts", "unit": "W"},
        "soc": {"formula": "level", "unit": "percent"},
        "vm_pu": {"formula": "volts", "unit": "V", "nominal_v": 230.0},
    },
    "setpoint": {
        "values": {
            "p": {"quantity": "p_mw", "unit": "W"},
            "t": {"quantity": "lease_s", "unit": "s", "decimals": 0},
        },
        "messages": [
            {"registers": {"mode": "forced"}},
            {"registers": {"power": "{p}", "lease": "{t}"}},
        ],
        "release": [{"registers": {"power": 0, "mode": "auto"}}],
    },
}
UNIT: dict[str, dict[int, list[int]]] = {
    "input": {100: i32(1500), 102: [0, 0], 104: [615], 200: f32(231.5)},
    "holding": {10: [0, 0, 0]},
}


def with_setpoint(**keys: Any) -> dict[str, Any]:
    return {**TABLE, "setpoint": {**TABLE["setpoint"], **keys}}


LEFT = "it was not handed back, and may hold its last setpoint"


class Site:
    """A box, who speaks for it, and a gateway."""

    def __init__(
        self, box: ModbusBox, link: ModbusLink, device: VendorDevice, broker: InMemoryBroker
    ) -> None:
        self.box, self.link, self.device, self.broker = box, link, device, broker
        self.gateway = Gateway(broker)
        self.reports: list[str] = []
        self.leases: list[dict[str, Any]] = []
        broker.subscribe(topics.device("MG1", "ess", "lease"), self.leases.append)
        broker.stats.listeners.append(lambda r: self.reports.append(f"{r.where}: {r.what}"))
        self.running = asyncio.create_task(device.run())

    @property
    def last(self) -> dict[str, Any]:
        return self.gateway.telemetry[-1] if self.gateway.telemetry else {}

    def level(self, level: Any) -> None:
        channel = topics.device("MG1", "ess", "authority_state")
        self.broker.publish(channel, self.gateway.stamper.stamp(channel, AuthorityState(level=level)))

    async def end(self) -> None:
        self.running.cancel()
        await asyncio.gather(self.running, return_exceptions=True)


@pytest.fixture
async def make() -> AsyncIterator[Any]:
    async with contextlib.AsyncExitStack() as stack:

        async def start(
            table: dict[str, Any] = TABLE,
            *,
            unit: int = 1,
            framing: Any = "tcp",
            timeout_s: float = 0.3,
            answers: bool = True,
            is_there: bool = True,
            before: Callable[[InMemoryBroker, ModbusBox], None] = lambda broker, box: None,
            **options: Any,
        ) -> Site:
            box = ModbusBox({1: UNIT, 3: UNIT}, framing=framing)
            await box.start()
            stack.push_async_callback(box.stop)
            if not is_there:
                await box.stop()
            connection = ModbusConnection(
                TcpAddress("127.0.0.1", box.port), timeout_s=timeout_s, framing=framing
            )
            stack.callback(connection.close)
            mapping = load_mapping(table, agent="MG1", device="ess", source="test")
            clock = {k: v for k, v in options.items() if k == "monotonic"}
            link = await stack.enter_async_context(ModbusLink(Registers(connection, unit), mapping, **clock))
            broker = await stack.enter_async_context(InMemoryBroker())
            before(broker, box)
            device = VendorDevice(
                mapping,
                link,
                "MG1",
                "ess",
                broker,
                kind="battery",
                power_range_mw=(-0.01, 0.01),
                **{"period_s": 0.02, "stale_after_s": 0.6, **options},
            )
            site = Site(box, link, device, broker)
            stack.push_async_callback(site.end)
            await until(lambda: site.gateway.status, "the birth")
            if answers:
                await until(lambda: link.connected, "the first answer")
            return site

        yield start


# -- read ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("framing", ["tcp", "rtu"])
async def test_what_the_registers_hold_is_the_telemetry_in_as_few_requests_as_gaps_allow(
    make: Any, framing: str
) -> None:
    site = await make(framing=framing)
    await until(lambda: site.last.get("vm_pu"), "telemetry")
    assert site.last["p_mw"] == pytest.approx(0.0015)
    assert site.last["soc"] == pytest.approx(0.615)
    assert site.last["vm_pu"] == pytest.approx(231.5 / 230.0)
    assert set(site.box.reads()) == {("input", 100, 5), ("input", 200, 2)}
    assert site.box.writes() == []


async def test_what_is_not_available_is_no_number_and_the_rest_counts(make: Any) -> None:
    site = await make()
    await until(lambda: site.last.get("soc"), "telemetry")
    site.box.put(104, 0xFFFF, area="input")
    site.box.put(200, *f32(float("nan")), area="input")
    site.box.put(100, *i32(1700), area="input")
    await until(lambda: site.last.get("p_mw") == pytest.approx(0.0017), "the new power")
    await until(lambda: site.last.get("soc") is None and site.last.get("vm_pu") is None, "nothing known")


async def test_power_that_is_not_available_is_a_fault_and_says_so(make: Any) -> None:
    site = await make()
    await until(lambda: site.last, "telemetry")
    site.box.put(100, 0x8000, 0, area="input")
    await until(lambda: "fault" in site.gateway.states(), "the fault")
    assert "watts (registers): watts gave -2147483648" in site.gateway.status[-1]["reason"]
    site.box.put(100, *i32(100), area="input")
    await until(lambda: site.gateway.states()[-1] == "online", "the recovery")


async def test_an_exception_on_one_request_harms_only_what_is_in_it_and_is_counted_and_named(
    make: Any,
) -> None:
    site = await make()
    site.box.lies.refuse = {200: 2}
    site.box.put(100, *i32(1800), area="input")
    await until(lambda: site.last.get("p_mw") == pytest.approx(0.0018), "the power")
    await until(lambda: any("(volts)" in r for r in site.reports), "the report")
    named = next(r for r in site.reports if "(volts)" in r)
    assert "reading 2 input registers at 200: Modbus exception 2 (illegal data address)" in named
    assert site.broker.stats.rejected > 0
    assert site.gateway.states() == ["online"]


async def test_a_short_answer_is_no_measurement(make: Any) -> None:
    site = await make()
    await until(lambda: site.last, "telemetry")
    site.box.lies.short = True
    await until(lambda: "fault" in site.gateway.states(), "the fault")
    assert "reading 5 input registers at 100" in site.gateway.status[-1]["reason"]


async def test_an_answer_of_another_unit_is_no_measurement(make: Any) -> None:
    site = await make()
    await until(lambda: site.last, "telemetry")
    site.box.put(100, *i32(7000), area="input")
    site.box.lies.other_unit = True
    before = len(site.box.requests)
    await until(lambda: len(site.box.requests) > before + 2, "more requests")
    await until(lambda: "fault" in site.gateway.states(), "the fault")
    assert all(t["p_mw"] == pytest.approx(0.0015) for t in site.gateway.telemetry)


async def test_the_wrong_unit_is_silence_that_is_told(make: Any) -> None:
    site = await make(unit=9, timeout_s=0.1, answers=False)
    await until(lambda: any("no power from the device" in r for r in site.reports), "the report")
    assert "unit 9: reading 5 input registers at 100: no answer" in next(
        r for r in site.reports if "no power" in r
    )
    assert site.gateway.telemetry == []


async def test_a_device_that_comes_later_is_found(make: Any) -> None:
    site = await make(is_there=False, answers=False)
    await until(lambda: any("no answer" in r for r in site.reports), "the report")
    await site.box.start()
    await until(lambda: site.last.get("p_mw") == pytest.approx(0.0015), "telemetry")


async def test_a_counter_that_stands_still_makes_old_values(make: Any) -> None:
    table = {
        **TABLE,
        "modbus": {**TABLE["modbus"], "changed_by": "beat"},
        "registers": {**TABLE["registers"], "beat": {"address": 102, "area": "input"}},
    }
    site = await make(table)
    for n in range(8):
        site.box.put(102, n, area="input")
        await asyncio.sleep(0.1)
    assert site.last["p_mw"] == pytest.approx(0.0015)
    await until(lambda: "fault" in site.gateway.states(), "the fault")
    assert "beat has not changed" in site.gateway.status[-1]["reason"]


async def test_swapped_words_give_nonsense_that_is_not_published_where_it_cannot_be(make: Any) -> None:
    registers = {
        **TABLE["registers"],
        "volts": {**TABLE["registers"]["volts"], "swap_words": True, "clamp": [100, 300]},
    }
    site = await make({**TABLE, "registers": registers})
    await until(lambda: any("volts gave" in r for r in site.reports), "the report")
    assert "outside 100 to 300" in next(r for r in site.reports if "volts gave" in r)
    assert site.last.get("vm_pu") is None


async def test_a_register_tells_whether_it_is_there_and_silence_is_offline_with_its_power(make: Any) -> None:
    table = {
        **TABLE,
        "availability": [{"register": "state", "online": ["1"], "fault": ["9"], "timeout_s": 0.5}],
        "registers": {**TABLE["registers"], "state": {"address": 103, "area": "input"}},
        "quantities": {**TABLE["quantities"], "p_mw": {"formula": "watts", "unit": "W", "offline": 0.0}},
    }
    site = await make(table)
    site.box.put(103, 1, area="input")
    await until(lambda: site.gateway.states()[-1] == "online", "its presence")
    await until(lambda: site.last.get("p_mw") == pytest.approx(0.0015), "telemetry")
    site.box.put(103, 9, area="input")
    await until(lambda: site.gateway.status[-1].get("reason") == "register state: 9", "the fault")
    assert site.gateway.states()[-1] == "fault"
    site.box.put(103, 1, area="input")
    await until(lambda: site.gateway.states()[-1] == "online", "the recovery")
    await site.box.stop()
    await until(lambda: site.last.get("p_mw") == 0.0, "0 W at night")
    assert (await site.gateway.ask(0.001, 5.0))["rejected"]


# -- told ------------------------------------------------------------------------------------------


async def test_a_setpoint_is_written_in_order_and_neighbours_in_one_request(make: Any) -> None:
    site = await make()
    telemetry = await site.gateway.ask(-0.00256, 10.0)
    assert telemetry.get("rejected") is None
    assert site.box.writes() == [(10, [2]), (11, [0x10000 - 256, 10])]


async def test_a_value_is_never_more_than_was_meant(make: Any) -> None:
    site = await make()
    await site.gateway.ask(0.0025699, 10.0)
    assert site.box[11] == 256  # steps of 10 W


async def test_a_value_that_does_not_fit_is_rejected_and_not_cut_off(make: Any) -> None:
    registers = {**TABLE["registers"], "power": {"address": 11, "type": "int16", "scale": 0.1}}
    site = await make({**TABLE, "registers": registers})
    rejected = (await site.gateway.ask(-0.005, 10.0))["rejected"]
    assert "register power: -50000 is no int16, which holds whole numbers from -32768 to 32767" in rejected
    assert site.box.writes() == []


async def test_a_refused_write_is_a_rejection_and_ends_the_message(make: Any) -> None:
    site = await make()
    await until(lambda: site.last, "telemetry")
    site.box.lies.refuse = {10: 3}
    rejected = (await site.gateway.ask(0.002, 10.0))["rejected"]
    assert "mode: 127.0.0.1" in rejected
    assert "Modbus exception 3 (illegal data value)" in rejected
    assert [address for address, _ in site.box.writes()] == [10]


@pytest.mark.parametrize("is_written", [True, False])
async def test_a_device_that_answers_no_write_is_away_and_one_that_refuses_it_is_not(
    is_written: bool,
) -> None:
    """Of what is written and of what is read back; without any answer twice on end it is not there."""
    box = await ModbusBox({1: UNIT}).start()
    connection = ModbusConnection(TcpAddress("127.0.0.1", box.port), timeout_s=0.25)
    mapping = load_mapping(TABLE, agent="MG1", device="ess", source="test")
    link = ModbusLink(Registers(connection, 1), mapping)  # nothing is read in turn
    link._note(answered=True)
    write = RegisterWrite(("power",), "holding", 11, (5,), single=False)
    work = partial(link._put, not_after=math.inf) if is_written else link._compare
    box.lies.refuse = {11: 3}
    for _ in range(LOST_AFTER):
        with pytest.raises(NotTaken, match=r"power: .*exception 3"):
            await work(write)
    assert link.connected
    box.lies.silent = True
    for left in reversed(range(LOST_AFTER)):
        with pytest.raises(NotTaken, match="no answer"):
            await work(write)
        assert link.connected is (left > 0)
    connection.close()
    await box.stop()


async def test_a_busy_device_is_asked_again(make: Any) -> None:
    site = await make()
    await until(lambda: site.last, "telemetry")
    site.box.lies.busy = 2
    assert (await site.gateway.ask(0.002, 10.0)).get("rejected") is None
    assert site.box[11] == 200


async def test_function_6_writes_one_register_at_a_time_and_coils_go_by_function_5(make: Any) -> None:
    table = with_setpoint(
        messages=[
            {"registers": {"mode": "forced", "power": "{p}", "lease": "{t}"}, "function": "single"},
        ]
    )
    site = await make(table)
    await site.gateway.ask(0.002, 10.0)
    written = [(f, address, words) for _, f, address, words in site.box.requests if f in {5, 6, 16}]
    assert written == [(6, 10, [2]), (6, 11, [200]), (6, 12, [10])]


async def test_coils_are_read_and_written(make: Any) -> None:
    table = {
        **TABLE,
        "registers": {**TABLE["registers"], "relay": {"address": 7, "area": "coil"}},
        "quantities": {**TABLE["quantities"], "running": {"formula": "relay"}},
    }
    messages = [{"registers": {"relay": True}}, {"registers": {"power": "{p}", "lease": "{t}"}}]
    table = {**table, "setpoint": {**TABLE["setpoint"], "messages": messages}}
    site = await make(table)
    site.box.put(7, 0, area="coil")
    await until(lambda: site.last.get("running") is False, "the coil")
    await site.gateway.ask(0.001, 10.0)
    assert [(f, a) for _, f, a, _ in site.box.requests if f in {5, 16}] == [(5, 7), (16, 11)]
    await until(lambda: site.last.get("running") is True, "the coil that is on")


async def test_what_is_read_back_otherwise_is_a_rejection(make: Any) -> None:
    table = with_setpoint(
        messages=[{"registers": {"mode": "forced", "power": "{p}", "lease": "{t}"}, "read_back": True}]
    )
    site = await make(table)
    await until(lambda: site.last, "telemetry")
    assert (await site.gateway.ask(0.001, 10.0)).get("rejected") is None
    site.box.lies.forgets = {11}
    rejected = (await site.gateway.ask(0.002, 10.0))["rejected"]
    assert "the device holds 0002 0064 000a where 0002 00c8 000a was written" in rejected


async def test_unchanged_setpoints_are_not_written_again_and_a_return_of_the_device_forgets_that(
    make: Any,
) -> None:
    site = await make(with_setpoint(send="change"))
    await site.gateway.ask(0.002, 10.0)
    await site.gateway.ask(0.002, 10.0)
    assert len(site.box.writes()) == 2
    await site.box.stop()
    await until(lambda: "fault" in site.gateway.states(), "the fault")
    site.box.put(10, 0, 0, 0)  # it was off meanwhile
    await site.box.start()
    await until(lambda: site.gateway.states()[-1] == "online", "the recovery")
    await site.gateway.ask(0.002, 10.0)
    assert len(site.box.writes()) == 4


async def test_what_was_read_before_a_setpoint_was_written_does_not_confirm_it(make: Any) -> None:
    site = await make(with_setpoint(confirm="power", answer_within_s=3.0), timeout_s=1.0)

    def act(address: int, word: int) -> None:
        if address == 11:
            site.box.put(100, *i32(10 * word), area="input")

    site.box.on_write = act
    site.box.lies.slow = {100: 0.15, 200: 0.15}  # the write slips in between the two requests of a reading
    for watts in (2000, 2500, 3000):
        await until(lambda: site.box.reads()[-1][1] == 100, "a reading that has begun")
        telemetry = await site.gateway.ask(watts / 1e6, 10.0)
        assert telemetry["p_mw"] == pytest.approx(watts / 1e6)


async def test_a_daily_budget_refuses_before_it_wears(make: Any) -> None:
    site = await make(with_setpoint(max_writes_per_day=4), budget=WriteBudget(4))
    assert (await site.gateway.ask(0.001, 10.0)).get("rejected") is None
    assert "2 writes in 24 hours" in (await site.gateway.ask(0.002, 10.0))["rejected"]
    assert site.box[11] == 100


async def test_a_heartbeat_is_written_while_it_is_driven(make: Any) -> None:
    table = {
        **TABLE,
        "registers": {**TABLE["registers"], "beat": {"address": 20}},
        "keepalive": [{"registers": {"beat": "{counter:256}"}, "period_s": 0.1, "while": "driven"}],
    }
    site = await make(table)
    site.box.put(20, 0)
    await until(lambda: site.last, "telemetry")
    assert 20 not in [address for address, _ in site.box.writes()]
    await site.gateway.ask(0.001, 30.0)
    await until(lambda: len([a for a, _ in site.box.writes() if a == 20]) > 2, "the heartbeat")


async def test_the_age_of_what_is_read_is_by_the_clock_of_leases(make: Any) -> None:
    """By one that is hours ahead of the loop's, as after a sleep, and that goes on in another one."""
    slept_s = [7200.0]
    site = await make(monotonic=lambda: time.monotonic() + slept_s[0])
    await until(lambda: site.gateway.telemetry, "telemetry")
    measured = site.device.measure()
    assert measured is not None
    assert 0.0 <= (measured.age_s or 0.0) <= 0.6
    slept_s[0] += 7200.0
    assert site.device.measure() is None, "what was read before the sleep is not of now"
    await until(lambda: site.device.measure() is not None, "what is read after it")


async def test_a_listener_that_fails_ends_no_reading() -> None:
    box = await ModbusBox({1: UNIT}).start()
    connection = ModbusConnection(TcpAddress("127.0.0.1", box.port), timeout_s=0.5)
    polls: list[Any] = []

    def fail(poll: Any) -> None:
        polls.append(poll)
        raise RuntimeError("a bug")

    mapping = load_mapping(TABLE, agent="MG1", device="ess", source="test")
    async with ModbusLink(Registers(connection, 1), mapping) as link:
        link.listen((), lambda *_: None, fail)
        await until(lambda: len(polls) >= 3, "more readings")
    connection.close()
    await box.stop()


async def test_two_units_behind_one_address_share_a_connection() -> None:
    box = await ModbusBox({1: UNIT, 3: UNIT}).start()
    mapping = load_mapping(TABLE, agent="MG1", device="ess", source="test")
    connection = ModbusConnection(TcpAddress("127.0.0.1", box.port), timeout_s=0.5)
    polls: list[Any] = []
    box.put(100, *i32(-7), area="input", unit=3)
    async with (
        ModbusLink(Registers(connection, 1), mapping) as one,
        ModbusLink(Registers(connection, 3), mapping) as three,
    ):
        for link in (one, three):
            link.listen((), lambda *_: None, polls.append)
        await until(lambda: len(polls) >= 4, "both")
    assert {poll.values["watts"] for poll in polls} == {1500, -7}
    assert box.accepted == 1
    connection.close()
    await box.stop()


# -- what ends it ----------------------------------------------------------------------------------


async def test_when_the_lease_runs_out_it_is_handed_back(make: Any) -> None:
    site = await make()
    await site.gateway.ask(0.002, 0.3)
    await until(lambda: [site.box[10], site.box[11]] == [0, 0], "the release")
    assert site.box.writes()[-2:] == [(11, [0]), (10, [0])]


async def test_at_its_end_it_is_handed_back(make: Any) -> None:
    site = await make()
    await site.gateway.ask(0.002, 30.0)
    await site.end()
    assert [site.box[10], site.box[11]] == [0, 0]


async def test_in_shadow_nothing_is_written(make: Any) -> None:
    site = await make()
    site.level("shadow")
    await until(lambda: site.last, "telemetry")
    await site.end()
    assert site.box.writes() == []


async def test_an_emergency_stop_writes_zero_and_the_release_of_it_hands_back(make: Any) -> None:
    site = await make()
    await site.gateway.ask(0.002, 30.0)
    site.gateway.stop(True)
    await until(lambda: site.box[11] == 0 and site.box[10] == 2, "zero power")
    site.gateway.stop(False)
    await until(lambda: site.box[10] == 0, "its own control")


async def test_a_stop_that_did_not_reach_it_is_not_confirmed_and_is_caught_up(make: Any) -> None:
    site = await make()
    confirms: list[Any] = []
    site.broker.subscribe(topics.stop_confirm("MG1", "ess"), confirms.append)
    await site.gateway.ask(0.002, 30.0)
    await site.box.stop()
    site.gateway.stop(True)
    await until(lambda: confirms, "what it says of the stop")
    assert confirms[-1]["safe"] is False
    await site.box.start()
    await until(lambda: site.box[11] == 0, "the stop")
    assert confirms[-1]["safe"] is False, "it still has power"
    site.box.put(100, *i32(0), area="input")
    await until(lambda: confirms[-1]["safe"], "its confirmation")


async def test_a_box_that_leaves_the_stop_by_itself_is_not_safe_and_is_told_again(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("heron_mqtt.field.device.hardware_rest.LEAVES_POWER_S", 0.2)
    site = await make()
    confirms: list[Any] = []
    site.broker.subscribe(topics.stop_confirm("MG1", "ess"), confirms.append)
    await site.gateway.ask(0.002, 30.0)
    site.box.put(100, *i32(0), area="input")
    site.gateway.stop(True)
    await until(lambda: confirms and confirms[-1]["safe"], "its confirmation")
    site.box.put(10, 0, 0)
    site.box.put(100, *i32(1500), area="input")
    await until(lambda: site.last["safe"] is False, "telemetry that says so")
    await until(lambda: [site.box[10], site.box[11]] == [2, 0], "it is told again")


async def test_in_a_stop_an_unknown_power_is_told_apart_from_one_that_is_not_0(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("heron_mqtt.field.device.hardware_rest.LEAVES_POWER_S", 0.2)
    site = await make(stale_after_s=0.3)
    confirms: list[Any] = []
    site.broker.subscribe(topics.stop_confirm("MG1", "ess"), confirms.append)
    await site.gateway.ask(0.002, 30.0)
    site.box.put(100, 0x8000, 0, area="input")  # the power is not available any more
    site.gateway.stop(True)
    await until(lambda: len(site.box.writes()) == 5, "zero power, the mode, and zero power in it")
    site.box.requests.clear()
    await until(lambda: any("at 0 is not known" in r for r in site.reports), "the report")
    assert confirms[-1]["safe"] is False
    assert "watts gave -2147483648" in next(r for r in site.reports if "at 0 is not known" in r)
    await asyncio.sleep(0.3)
    assert site.box.writes() == []
    assert not any("not 0" in r for r in site.reports)
    site.box.put(100, *i32(0), area="input")
    await until(lambda: confirms[-1]["safe"], "its confirmation")


async def test_the_end_of_a_lease_that_did_not_reach_it_is_caught_up(make: Any) -> None:
    site = await make()
    await site.gateway.ask(0.002, 0.4)
    await site.box.stop()
    await until(lambda: site.device.is_safe, "the end of the lease")
    assert site.box[11] == 200
    await site.box.start()
    await until(lambda: [site.box[10], site.box[11]] == [0, 0], "the release")


async def test_a_release_that_is_acknowledged_and_ignored_is_no_safe_state_and_no_end(make: Any) -> None:
    site = await make()
    await site.gateway.ask(0.002, 0.3)
    site.box.lies.forgets = {10, 11, 12}
    await until(lambda: site.device.is_safe and site.last["safe"] is False, "the end of the lease")
    await until(lambda: "fault" in site.gateway.states(), "what is wrong")
    reasons = [status.get("reason", "") for status in site.gateway.status]
    assert any("it has acknowledged its release, but" in reason for reason in reasons)
    await site.end()
    why = "it has acknowledged its release, but power: the device holds"
    assert site.device.left_undone.startswith(f"{LEFT}: {why}")


async def test_the_mode_that_an_earlier_program_left_is_not_taken_for_a_release(make: Any) -> None:
    """Its release was acknowledged and ignored. It knew; the next one said ``free`` and ended well."""

    def left(broker: Any, box: ModbusBox) -> None:
        box.put(10, 2, 300)
        box.lies.forgets = {10, 11, 12}
        channel = topics.device("MG1", "ess", "lease")
        held = {
            "type": "lease",
            "state": "held",
            "holder": "MG1",
            "holder_boot": "b",
            "boot": "old",
            "seq": 1,
        }
        broker.publish(channel, held, retain=True)

    site = await make(before=left)
    await until(lambda: "fault" in site.gateway.states(), "what is wrong")
    assert {lease["state"] for lease in site.leases} == {"held"}
    await site.end()
    assert "it has acknowledged its release, but" in site.device.left_undone


@pytest.mark.parametrize("lost", ["with the write", "before"])
async def test_at_its_end_a_lost_connection_is_made_again_for_the_last_write(make: Any, lost: str) -> None:
    site = await make()
    await site.gateway.ask(0.002, 30.0)
    if lost == "with the write":
        site.box.lies.cut = 1
    else:
        await site.box.stop()
        await until(lambda: not site.link.connected, "the loss is known")
        await site.box.start()
    await site.end()
    assert ([site.box[10], site.box[11]], site.device.left_undone) == ([0, 0], None)


@pytest.mark.parametrize("is_there", [False, True])
async def test_registers_that_could_not_be_written_at_the_end_are_named(make: Any, is_there: bool) -> None:
    site = await make(timeout_s=3.0)
    await site.gateway.ask(0.002, 30.0)
    if is_there:
        site.box.lies.silent = True
    else:
        await site.box.stop()
    begun_s = time.monotonic()
    await site.end()
    assert time.monotonic() - begun_s < 2.5, "a run ends within a bound"
    assert [site.box[10], site.box[11]] == [2, 200]
    left = site.device.left_undone
    assert left is not None
    place = f"127.0.0.1:{site.box.port} unit 1"
    silent = f"power, mode: the device at {place} does not answer"
    assert (
        left
        == f"{LEFT}: {silent if is_there else f'power: {place}: no answer; is Modbus TCP switched on there?'}"
    )


async def test_a_stop_whose_messages_wait_longer_than_the_end_is_no_silence_of_the_device(make: Any) -> None:
    messages = [
        {"registers": {"mode": "forced"}},
        {"registers": {"power": "{p}", "lease": "{t}"}, "pause_s": 2.0},
    ]
    site = await make(with_setpoint(messages=messages))
    await site.gateway.ask(0.002, 30.0)
    site.gateway.stop(True)
    await until(lambda: site.box[11] == 0, "the 0, which comes first")
    await site.end()
    left = site.device.left_undone
    assert left is not None
    assert left.endswith("its messages wait 2 s between them (pause_s), and the end is 1 s"), left


async def test_while_it_does_not_answer_a_setpoint_is_rejected_with_the_reason(make: Any) -> None:
    site = await make(timeout_s=0.1)
    await until(lambda: site.last, "telemetry")
    site.box.lies.silent = True
    await until(lambda: not site.link.connected, "silence")
    seq = site.gateway.send(0.002, 5.0)
    site.box.lies.silent = False
    await until(lambda: any(t.get("ack_seq") == seq for t in site.gateway.telemetry), "the answer")
    answer = next(t for t in site.gateway.telemetry if t.get("ack_seq") == seq)
    assert "there is no connection to the device at 127.0.0.1" in answer["rejected"]


async def test_a_connection_that_is_dropped_in_mid_answer_is_made_anew(make: Any) -> None:
    site = await make()
    await until(lambda: site.last, "telemetry")
    site.box.lies.drop = True
    await until(lambda: site.box.accepted > 1, "another try")
    site.box.lies.drop = False
    site.box.put(100, *i32(900), area="input")
    await until(lambda: site.last.get("p_mw") == pytest.approx(0.0009), "telemetry again")


# -- a setpoint that is taken in part, and 0 that comes first ---------------------------------------


async def test_a_setpoint_that_is_taken_in_part_is_taken_back_at_once_and_held_off(make: Any) -> None:
    site = await make()
    await until(lambda: site.last, "telemetry")
    site.box.put(10, 0, 400, 0)  # an old power stands in the box
    site.box.lies.refuse = {11: 3}
    rejected = (await site.gateway.ask(0.002, 10.0))["rejected"]
    assert "it may have taken a part of the setpoint" in rejected
    assert site.box.writes()[:3] == [(10, [2]), (11, [200, 10]), (11, [0])], "the release follows at once"
    site.box.lies.refuse = {}
    site.box.requests.clear()
    again = (await site.gateway.ask(0.002, 10.0))["rejected"]
    assert "the device accepted only a part of a setpoint, less than 5 s ago: none is sent" in again
    assert not any(address == 10 and words == [2] for address, words in site.box.writes())


async def test_one_that_is_refused_before_anything_was_written_changes_nothing(make: Any) -> None:
    site = await make()
    await site.gateway.ask(0.002, 10.0)
    site.box.requests.clear()
    site.box.lies.refuse = {10: 3}
    rejected = (await site.gateway.ask(0.001, 10.0))["rejected"]
    assert "part" not in rejected
    assert site.box.writes() == [(10, [2])]


async def test_a_second_write_without_an_answer_is_taken_back_too(make: Any) -> None:
    site = await make(
        with_setpoint(
            messages=[{"registers": {"mode": "forced", "lease": "{t}"}}, {"registers": {"power": "{p}"}}]
        )
    )
    await until(lambda: site.last, "telemetry")
    put_once = site.link._put_once

    async def unanswered(write: RegisterWrite) -> None:
        if write.names == ("power",) and write.words != (0,):
            raise NotTaken("power: no answer", was_heard=False)
        await put_once(write)

    site.link._put_once = unanswered
    rejected = (await site.gateway.ask(0.002, 10.0))["rejected"]
    assert "power: no answer; it may have taken a part of the setpoint: it was sent its release" in rejected
    assert [site.box[10], site.box[11]] == [0, 0]
    assert site.last["safe"] is True


PAUSED = with_setpoint(
    messages=[
        {"registers": {"mode": "forced"}},
        {"registers": {"power": "{p}", "lease": "{t}"}, "pause_s": 0.3},
    ],
)


async def test_in_a_stop_the_power_comes_before_the_mode_and_without_its_pause(make: Any) -> None:
    site = await make(PAUSED)
    await site.gateway.ask(0.002, 30.0)
    site.box.requests.clear()
    site.gateway.stop(True)
    await until(lambda: len(site.box.writes()) == 3, "the whole stop")
    assert site.box.writes() == [(11, [0, 1]), (10, [2]), (11, [0, 1])]


async def test_a_stop_of_which_a_part_is_refused_goes_on_and_stays_owed(make: Any) -> None:
    messages = [{"registers": {"mode": "forced", "lease": 9, "power": "{p}"}}]
    site = await make(with_setpoint(messages=messages, values={"p": TABLE["setpoint"]["values"]["p"]}))
    await site.gateway.ask(0.002, 30.0)
    site.box.requests.clear()
    site.box.lies.refuse = {10: 4}
    site.gateway.stop(True)
    await until(lambda: len(site.box.writes()) >= 4, "the whole stop")
    assert site.box.writes()[:4] == [(11, [0]), (10, [2]), (12, [9]), (11, [0])]
    await until(lambda: site.last["safe"] is False, "it says so")
    site.box.lies.refuse = {}
    site.box.put(100, *i32(0), area="input")
    await until(lambda: site.last["safe"] is True, "the stop that is repeated", within_s=5.0)


# -- after a lease, and reactive power --------------------------------------------------------------


@pytest.mark.parametrize("release", ["zero", [{"registers": {"power": 0}}]])
async def test_after_a_release_to_0_its_power_has_to_show_it_and_its_end_names_it(
    make: Any, monkeypatch: pytest.MonkeyPatch, release: Any
) -> None:
    monkeypatch.setattr("heron_mqtt.field.device.hardware_rest.LEAVES_POWER_S", 0.2)
    site = await make(with_setpoint(release=release))
    site.box.put(100, *i32(0), area="input")
    await site.gateway.ask(0.002, 0.3)
    await until(lambda: site.device.is_safe and site.last["safe"] is True, "the end of the lease")
    site.box.put(11, 200)  # a write that the box executes late
    site.box.put(100, *i32(2000), area="input")
    await until(lambda: site.last["safe"] is False, "telemetry that says so")
    said = len(site.gateway.telemetry)
    await until(lambda: site.box[11] == 0, "it is told again")
    assert site.leases[-1]["state"] == "held"
    assert not any(each["safe"] for each in site.gateway.telemetry[said:]), "not for a moment"
    measured = len(site.gateway.telemetry)
    await until(lambda: len(site.gateway.telemetry) > measured + 2, "its power, which it still says")
    await site.end()
    left = site.device.left_undone  # it depends on the moment whether it was just told again
    assert left is not None
    assert left.startswith("it was handed back with 0, and ")


@pytest.mark.parametrize("ends_at_0", [False, True])
async def test_power_after_a_release_to_0_holds_the_lease_and_at_the_end_it_is_waited_for(
    make: Any, ends_at_0: bool
) -> None:
    """Before it was told again, after 5 s, its end was a good one, and its lease free."""
    site = await make(with_setpoint(release="zero"))
    site.box.put(100, *i32(0), area="input")
    await site.gateway.ask(0.002, 0.3)
    await until(lambda: site.device.is_safe and site.leases[-1]["state"] == "free", "the end of the lease")
    site.box.put(100, *i32(2000), area="input")
    await until(lambda: site.last["safe"] is False, "telemetry that says so")
    assert site.leases[-1]["state"] == "held"
    if ends_at_0:
        site.box.on_write = lambda address, word: site.box.put(100, *i32(0), area="input")
    await site.end()
    left = "it was handed back with 0, and it gave 2 kW when it was measured last"
    assert site.device.left_undone == (None if ends_at_0 else left)
    assert site.leases[-1]["state"] == ("free" if ends_at_0 else "held")


@pytest.mark.parametrize("shows", ["rest", "power", "nothing"])
async def test_one_that_is_driven_until_the_end_is_read_at_once_whether_it_is_at_0(
    make: Any, shows: str
) -> None:
    table = with_setpoint(release="zero")
    site = await make({**table, "modbus": {**table["modbus"], "period_s": 2.0}}, stale_after_s=5.0)
    site.box.put(100, *i32(0), area="input")
    await site.gateway.ask(0.002, 30.0)
    site.box.put(100, *i32(2000), area="input")
    await until(lambda: site.last["p_mw"] == 0.002, "its power", within_s=5.0)
    if shows == "rest":
        site.box.on_write = lambda address, word: site.box.put(100, *i32(0), area="input")
    elif shows == "nothing":
        site.box.lies.refuse = {100: 4}
    await site.end()
    left = site.device.left_undone
    if shows == "rest":
        assert left is None
    elif shows == "power":
        assert left == "it was handed back with 0, and it gave 2 kW when it was measured last"
    else:
        assert (
            left
            == "it was handed back with 0, and it has not reported its power since then, and may have some"
        )
    assert site.leases[-1]["state"] == ("free" if shows == "rest" else "held")


async def test_after_a_release_to_its_own_control_its_power_proves_nothing(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("heron_mqtt.field.device.hardware_rest.LEAVES_POWER_S", 0.05)
    site = await make()
    await site.gateway.ask(0.002, 0.3)
    await until(lambda: site.device.is_safe and site.last["safe"] is True, "the end of the lease")
    site.box.requests.clear()
    await asyncio.sleep(0.3)  # of its own power, 1.5 kW
    assert (site.last["safe"], site.box.writes()) == (True, [])
    await site.end()
    assert site.device.left_undone is None


async def test_in_a_stop_reactive_power_is_not_at_rest_and_the_end_names_it(make: Any) -> None:
    table = {
        **TABLE,
        "registers": {**TABLE["registers"], "vars": {"address": 102, "area": "input", "type": "int32"}},
    }
    table["quantities"] = {**TABLE["quantities"], "q_mvar": {"formula": "vars", "unit": "var"}}
    site = await make(table)
    site.box.put(100, *i32(0), *i32(3000), area="input")
    await site.gateway.ask(0.002, 30.0)
    site.gateway.stop(True)
    await until(lambda: site.box[11] == 0 and site.last.get("q_mvar") == 0.003, "the stop")
    assert site.last["safe"] is False
    site.box.put(102, *i32(1900), area="input")  # of 10 kVA: what filters have
    await until(lambda: site.last["safe"] is True, "its rest")
    site.box.put(102, *i32(-3000), area="input")
    await until(lambda: site.last["safe"] is False, "its vars")
    await site.end()
    assert "it gave 0 kW and -3 kvar when it was measured last" in site.device.left_undone
