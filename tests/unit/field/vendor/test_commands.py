"""When a device is told something: changes only, not too often, within a budget that outlives a restart."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from heron_mqtt.field.vendor.built_ins import BuiltIns, problem
from heron_mqtt.field.vendor.commands import Commander, NotSent, WriteBudget
from heron_mqtt.field.vendor.mapping import load_mapping
from heron_mqtt.field.vendor.outgoing import MessageContext, Outgoing
from heron_mqtt.messages import Setpoint

ON_OFF = [
    {"topic": "set", "payload": "on {w}", "when": "w > 0"},
    {"topic": "set", "payload": "off", "when": "w <= 0"},
]


class Rig:
    """A commander, a clock, and what it sent."""

    def __init__(
        self, messages: list[dict[str, Any]], budget: WriteBudget | None = None, **setpoint: Any
    ) -> None:
        values: dict[str, Any] = {"w": {"quantity": "p_mw", "unit": "W", "decimals": 0}}
        if "{n}" in str(messages):
            values["n"] = {"quantity": "seq"}
        table = {
            "setpoint": {"values": values, "messages": messages, **setpoint},
            "telemetry": [{"topic": "read", "format": "text", "fields": {"p_mw": {"unit": "W"}}}],
        }
        self.now = 0.0
        self.lease_runs = True
        self.sent: list[str] = []
        mapping = load_mapping(table, agent="MG1", device="ess", source="test")
        self.commander = Commander(
            mapping,
            self._publish,
            within_s=1.0,
            lease_runs=lambda: self.lease_runs,
            budget=budget,
            monotonic=lambda: self.now,
        )
        self.context = MessageContext(BuiltIns(lambda: 1_700_000_000.0, lambda: "id"))

    def _publish(self, message: Outgoing) -> asyncio.Future[None]:
        self.sent.append(message.payload.decode())
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done

    async def tell(self, watts: float, seq: int = 0, *, renewal: bool = False) -> bool:
        setpoint = Setpoint(p_mw=watts / 1e6, lease_s=9.0 + seq, seq=seq, renewal=renewal)
        return await self.commander.tell(setpoint, self.context, renewal=renewal)


async def test_on_change_only_what_means_something_else_is_sent() -> None:
    rig = Rig(
        [{"topic": "p", "payload": {"w": "{w}", "n": "{n}", "t": "{now}"}}, {"topic": "q", "payload": "{n}"}],
        send="change",
    )
    told = [
        await rig.tell(5, 0),
        await rig.tell(5, 1),
        await rig.tell(5, 2, renewal=True),
        await rig.tell(6, 3),
    ]
    assert told == [True, False, False, True]
    assert rig.sent == ['{"w":5,"n":0,"t":1700000000}', "0", '{"w":6,"n":3,"t":1700000000}']


async def test_on_and_off_on_one_topic_are_changes_of_each_other() -> None:
    rig = Rig(ON_OFF, send="change")
    for watts in (5, 5, 0, 0, 5):
        await rig.tell(watts)
    assert rig.sent == ["on 5", "off", "on 5"]


async def test_after_a_release_or_an_absence_everything_is_sent_again() -> None:
    rig = Rig(ON_OFF, send="change", release=[{"topic": "set", "payload": "auto"}])
    await rig.tell(5)
    await rig.commander.release(rig.context)
    await rig.tell(5)
    rig.commander.forget()
    await rig.tell(5)
    await rig.commander.stop(rig.context)
    await rig.tell(5)
    assert rig.sent == ["on 5", "auto", "on 5", "on 5", "off", "on 5"]
    assert rig.commander.values["w"].json == 5


async def test_a_budget_refuses_keeps_a_write_for_the_release_and_comes_back_after_a_day(
    tmp_path: Path,
) -> None:
    now = [1_700_000_000.0]
    file = tmp_path / "deep" / "writes.json"

    def rig() -> Rig:
        budget = WriteBudget(3, file, lambda: now[0])
        return Rig([{"topic": "p", "payload": "{w}"}], budget, release=[{"topic": "p", "payload": "auto"}])

    first = rig()
    await first.tell(1)
    again = rig()  # after a restart
    await again.tell(2)
    with pytest.raises(NotSent, match=r"2 writes in 24 hours, 3 are allowed \(1 are kept for the release\)"):
        await again.tell(3)
    await again.commander.release(again.context)
    assert again.sent == ["2", "auto"]
    now[0] += 25 * 3600.0
    await again.tell(4)
    assert again.sent[-1] == "4"


async def test_counts_that_cannot_be_read_or_kept_are_told_and_stop_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "writes.json"
    file.write_text("[")
    assert WriteBudget(3, file).used == 0
    (tmp_path / "file").write_text("")
    budget = WriteBudget(3, tmp_path / "file" / "below.json")
    budget.add(1)
    budget.add(1)
    assert budget.used == 2
    assert [r.getMessage().split(":")[0].split("/")[-1] for r in caplog.records] == [
        "writes.json",
        "below.json",
    ]


async def test_a_write_that_comes_too_soon_waits_and_only_the_newest_is_sent() -> None:
    rig = Rig([{"topic": "p", "payload": "{w}"}], min_interval_s=0.05)
    await rig.tell(1)
    for watts in (2, 3):
        with pytest.raises(NotSent, match=r"takes a write every 0.05 s"):
            await rig.tell(watts)
    rig.now = 1.0
    await asyncio.sleep(0.1)
    assert rig.sent == ["1", "3"]
    assert rig.commander.deferred == 2


async def test_what_waited_beyond_the_end_of_its_lease_is_not_sent_and_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    rig = Rig([{"topic": "p", "payload": "{w}"}], min_interval_s=0.02)
    await rig.tell(1)
    with pytest.raises(NotSent):
        await rig.tell(2)
    rig.now, rig.lease_runs = 7200.0, False  # the machine has slept
    await asyncio.sleep(0.05)
    assert rig.sent == ["1"]
    assert "a setpoint that waited was not sent: its lease is over" in caplog.text
    rig.lease_runs = True
    await rig.tell(3)
    assert rig.sent == ["1", "3"]


async def test_what_waits_is_dropped_at_the_end() -> None:
    rig = Rig([{"topic": "p", "payload": "{w}"}], min_interval_s=0.02, release="zero")
    await rig.tell(1)
    with pytest.raises(NotSent):
        await rig.tell(2)
    await rig.commander.release(rig.context)
    rig.now = 1.0
    await asyncio.sleep(0.05)
    assert rig.sent == ["1", "0"]


def test_every_message_has_its_own_time_number_and_identifier() -> None:
    ids = iter("abcdef")
    built = BuiltIns(lambda: 1_700_000_000.5, lambda: next(ids) * 32)
    found = []
    for _ in range(3):
        built.begin_message()
        found.append((built.value("counter", "2"), built.value("uid", "3"), built.value("counter", None)))
    assert found == [(1, "aaa", 1), (0, "bbb", 2), (1, "ccc", 3)]
    assert [built.value("now", form) for form in (None, "unix_ms", "iso8601", "%d.%m.%y")] == [
        1_700_000_000,
        1_700_000_000_500,
        "2023-11-14T22:13:20Z",
        "14.11.23",
    ]


@pytest.mark.parametrize("text", ["now:soon", "counter:0", "counter:x", "uid:33", "uid:-1"])
def test_a_format_that_is_none_is_named(text: str) -> None:
    name, form = text.split(":")
    assert f"{{{text}}}: expected" in str(problem(name, form))


@pytest.mark.parametrize(
    ("send", "sent"), [("setpoint", ["100"]), ("change", ["100"]), ("always", ["100", "100"])]
)
async def test_a_renewal_is_sent_only_to_a_device_that_is_told_always(send: str, sent: list[str]) -> None:
    rig = Rig([{"topic": "p", "payload": "{w}"}], send=send)
    assert await rig.tell(100.0) is True
    assert await rig.tell(100.0, seq=1, renewal=True) is (send == "always")
    assert rig.sent == sent


def test_a_used_up_budget_says_at_which_full_hour_writes_are_free_again() -> None:
    now_s = [1_700_000_000.0]  # 2023-11-14 22:13:20 UTC
    budget = WriteBudget(2, utc_s=lambda: now_s[0])
    assert budget.free_again() == "22:00 UTC", "the next day's: nothing was written yet"
    budget.add(1)
    now_s[0] += 3 * 3600.0
    budget.add(1)
    assert (budget.used, budget.free_again()) == (2, "22:00 UTC")
    now_s[0] = 1_700_000_000.0 + 24 * 3600.0 - 801.0  # 21:59:59 the next day
    assert budget.used == 2
    now_s[0] += 1.0
    assert (budget.used, budget.free_again()) == (1, "01:00 UTC")
