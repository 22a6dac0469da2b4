"""When a device is told something: changes only, not too often, within a budget that outlives a restart."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from heron_mqtt.errors import BrokerError, MessageError
from heron_mqtt.field.state_directory import state_directory
from heron_mqtt.field.vendor.built_ins import BuiltIns, problem
from heron_mqtt.field.vendor.commands import (
    Commander,
    NotSent,
    PartlyTaken,
    SentLater,
    WriteBudget,
    budget_of,
)
from heron_mqtt.field.vendor.link import NotTaken
from heron_mqtt.field.vendor.mapping import load_mapping
from heron_mqtt.field.vendor.outgoing import Outgoing
from heron_mqtt.field.vendor.payload_filling import MessageContext
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
        if "{a}" in str(messages):
            values["a"] = {"formula": "w / volts", "decimals": 0}
        if "{s}" in str(messages):
            values |= {"d": {"formula": "1 if w < 0 else 0"}, "s": {"formula": "abs(w)", "decimals": 0}}
        if "{n}" in str(messages):
            values["n"] = {"quantity": "seq"}
        if "{t}" in str(messages):
            values["t"] = {"quantity": "lease_s", "unit": "s", "decimals": 0}
        table = {
            "setpoint": {"values": values, "messages": messages, **setpoint},
            "telemetry": [
                {"topic": "read", "format": "text", "fields": {"p_mw": {"unit": "W"}}},
                {"topic": "volts", "format": "text", "inputs": {"volts": {}}},
            ],
        }
        self.now = 0.0
        self.sent: list[str] = []
        self.sent_at: list[float] = []  # by the loop's clock
        self.fails: dict[str, Exception] = {}
        self.held: set[str] = set()
        self.waiting: list[asyncio.Future[None]] = []
        self.mapping = load_mapping(table, agent="MG1", device="ess", source="test")
        self.commander = Commander(
            self.mapping,
            self._publish,
            within_s=1.0,
            budget=budget,
            monotonic=lambda: self.now,
        )
        self.context = MessageContext(BuiltIns(lambda: 1_700_000_000.0, lambda: "id"))

    def _publish(self, message: Outgoing) -> asyncio.Future[None]:
        self.sent.append(message.payload.decode())
        self.sent_at.append(asyncio.get_running_loop().time())
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        text = message.payload.decode()
        if text in self.held:
            self.waiting.append(done)
        elif text in self.fails:
            done.set_exception(self.fails[text])
        else:
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


async def test_a_write_that_comes_too_soon_is_not_sent_and_says_when_it_can_be() -> None:
    rig = Rig([{"topic": "p", "payload": "{w}"}], min_interval_s=10.0)
    await rig.tell(1)
    rig.now = 9.0
    for watts in (2, 3):
        with pytest.raises(SentLater, match=r"^the device takes a write every 10 s: sent in 1 s$") as late:
            await rig.tell(watts)
        assert late.value.within_s == 1.0
    assert (rig.sent, rig.commander.deferred) == (["1"], 2)
    assert rig.commander.values["w"].json == 1, "keepalives carry the one that was sent"
    rig.now = 10.0
    assert await rig.tell(3)
    assert (rig.sent, rig.commander.deferred) == (["1", "3"], 2)


async def test_a_stop_is_a_setpoint_of_zero_for_one_second() -> None:
    rig = Rig([{"topic": "p", "payload": "{w} {t}"}])
    await rig.tell(5)
    await rig.commander.stop(rig.context)
    assert rig.sent == ["5 9", "0 1"]
    assert rig.commander.values["w"].json == 0


async def test_a_message_waits_for_its_pause() -> None:
    rig = Rig([{"topic": "p", "payload": "{w}"}, {"topic": "q", "payload": "go", "pause_s": 0.05}])
    await rig.tell(5)
    assert rig.sent == ["5", "go"]
    assert rig.sent_at[1] - rig.sent_at[0] >= 0.04


async def test_a_budget_keeps_as_many_writes_as_the_release_has_messages() -> None:
    for release, kept in ((None, 1), ("zero", 1), ([{"topic": "p", "payload": "auto"}] * 2, 2)):
        rig = Rig([{"topic": "p", "payload": "{w}"}], WriteBudget(3, utc_s=lambda: 0.0), release=release)
        for watts in range(3 - kept):
            await rig.tell(watts)
        with pytest.raises(NotSent, match=rf"{3 - kept} writes in 24 hours, 3 are allowed \({kept} are kept"):
            await rig.tell(9)


def test_counts_outlive_a_restart_where_programs_keep_their_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    message = [{"topic": "p", "payload": "{w}"}]
    assert budget_of(Rig(message).mapping, "env", "MG1", "ess") is None
    mapping = Rig(message, max_writes_per_day=3).mapping
    for used in (0, 2, 4):
        budget = budget_of(mapping, "my/env", "MG 1", "ess")
        assert budget is not None
        assert (budget.limit, budget.used) == (3, used)
        budget.add(1)
        budget.add(1)
    [file] = (tmp_path / "state" / "heron-mqtt" / "writes").iterdir()
    assert file.name == "my%2Fenv-MG 1-ess.json"
    [hour] = json.loads(file.read_text())
    file.write_text(json.dumps({hour: -5, str(int(hour) - 1): 1}))
    found = budget_of(mapping, "my/env", "MG 1", "ess")
    assert found is not None
    assert found.used == 1, "a count below 0 is none"
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert state_directory() == tmp_path / ".local" / "state" / "heron-mqtt"


def test_a_mapping_that_can_only_be_read_has_no_budget() -> None:
    table = {"telemetry": [{"topic": "read", "format": "text", "fields": {"p_mw": {"unit": "W"}}}]}
    mapping = load_mapping(table, agent="MG1", device="ess", source="test")
    assert budget_of(mapping, "env", "MG1", "ess") is None


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


async def test_a_setpoint_is_no_renewal_unless_it_is_said() -> None:
    rig = Rig([{"topic": "p", "payload": "{w}"}], send="setpoint")
    assert await rig.commander.tell(Setpoint(p_mw=5e-6, lease_s=1.0), rig.context)
    assert rig.sent == ["5"]


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


async def test_of_several_messages_one_that_the_broker_refuses_leaves_a_part_and_says_so() -> None:
    rig = Rig([{"topic": "p", "payload": "mode"}, {"topic": "p", "payload": "{w}"}], release="zero")
    rig.fails = {"5": BrokerError("refused")}
    with pytest.raises(PartlyTaken, match="refused"):
        await rig.tell(5)
    alone = Rig([{"topic": "p", "payload": "{w}"}], release="zero")
    alone.fails = {"5": BrokerError("refused")}
    with pytest.raises(BrokerError, match="refused"):
        await alone.tell(5)


@pytest.mark.parametrize("is_alone", [False, True])
async def test_what_the_broker_does_not_acknowledge_is_not_taken_and_of_several_in_part(
    is_alone: bool,
) -> None:
    messages = [{"topic": "p", "payload": "mode"}, {"topic": "p", "payload": "{w}"}]
    rig = Rig(messages[is_alone:], release="zero")
    await rig.tell(4)
    rig.commander._within_s = 0.01
    rig.held = {"5"}
    with pytest.raises(
        NotTaken if is_alone else PartlyTaken, match=r"has not acknowledged it within 0\.01 s"
    ):
        await rig.tell(5)
    assert rig.commander.values["w"].json == 4, "keepalives carry the one before"


async def test_after_one_that_was_not_taken_the_same_as_before_is_sent_again() -> None:
    """It may have arrived all the same, or be refused without a trace."""
    rig = Rig([{"topic": "p", "payload": "{w}"}], release="zero", send="change")
    await rig.tell(4)
    rig.fails = {"5": BrokerError("refused")}
    with pytest.raises(BrokerError):
        await rig.tell(5)
    assert await rig.tell(4)
    assert rig.sent == ["4", "5", "4"]


@pytest.mark.parametrize(
    ("release", "told", "sent"),
    [
        ([{"topic": "p", "payload": "auto"}], True, ["auto"]),
        ("zero", True, ["mode", "amps 0"]),
        ("zero", False, None),
    ],
)
async def test_where_0_cannot_be_computed_its_release_or_the_last_0_is_sent(
    release: Any, told: bool, sent: list[str] | None
) -> None:
    """The amps of a power, at a voltage that is 0 by now."""
    rig = Rig([{"topic": "p", "payload": "mode"}, {"topic": "p", "payload": "amps {a}"}], release=release)
    if told:
        rig.context = MessageContext(rig.context.built_ins, {"volts": 50.0})
        await rig.tell(100)
    rig.context = MessageContext(rig.context.built_ins, {"volts": 0.0})
    rig.sent.clear()
    if sent is None:
        with pytest.raises(MessageError, match="a division by zero"):
            await rig.commander.stop(rig.context)
        return
    instead = await rig.commander.stop(rig.context)
    assert instead is not None
    assert "0 cannot be computed (setpoint.values.a: w / volts: a division by zero)" in instead
    assert sorted(set(rig.sent)) == sorted(sent)
    values = {name: value.json for name, value in rig.commander.values.items()}
    assert values == ({"w": 0, "a": 0.0} if release == "zero" else {})  # with which its answer is compared


class Box:
    """Registers behind a commander, of which some refuse."""

    def __init__(
        self,
        refuses: set[str],
        messages: list[dict[str, Any]] | None = None,
        release: list[dict[str, Any]] | str | None = None,
    ) -> None:
        self.refuses, self.written = refuses, list[str]()
        two = [{"registers": {"mode": "forced"}}, {"registers": {"watts": "{w}"}, "pause_s": 0.2}]
        table = {
            "name": "box",
            "registers": {
                "p": {"address": 0, "type": "int16"},
                "mode": {"address": 10, "words": {"0": "auto", "2": "forced"}},
                "watts": {"address": 20, "type": "int16"},
                "enable": {"address": 30},
            },
            "quantities": {"p_mw": {"formula": "p", "unit": "W"}},
            "setpoint": {
                "values": {"w": {"quantity": "p_mw", "unit": "W", "decimals": 0}},
                "messages": messages or two,
                "release": release or [{"registers": {"mode": "auto"}}],
            },
        }
        mapping = load_mapping(table, agent="MG1", device="ess", source="test")
        self.commander = Commander(mapping, self._put, within_s=1.0)
        self.context = MessageContext(BuiltIns(lambda: 1_700_000_000.0, lambda: "id"))

    def _put(self, message: Any) -> asyncio.Future[None]:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        for write in message.writes:
            (name,) = write.names
            is_refused = name in self.refuses or f"{name} {write.words[0]}" in self.refuses
            self.written.append(f"{name} {write.words[0]}" + " refused" * is_refused)
            if is_refused and not done.done():
                done.set_exception(NotTaken("exception 4"))
            if is_refused and not message.goes_on:
                break
        if not done.done():
            done.set_result(None)
        return done


MODE, WATTS = {"mode": "forced"}, {"watts": "{w}"}
ORDERS = [
    [{"registers": MODE | WATTS}],
    [{"registers": WATTS | MODE}],
    [{"registers": MODE}, {"registers": WATTS}],
    [{"registers": WATTS}, {"registers": MODE}],
]


async def test_a_device_that_refuses_the_0_of_a_stop_is_sent_nothing_that_drives_it() -> None:
    """It stood in its own control, with an old power in its register: the mode of the stop started it."""
    for messages in ORDERS:
        for release, ends in (([{"registers": {"mode": "auto"}}], ["mode 0"]), ("zero", [])):
            box = Box({"watts"}, messages, release)
            for _ in range(2):
                box.written.clear()
                with pytest.raises(NotTaken):
                    await box.commander.stop(box.context)
                assert box.written == ["watts 0 refused", *ends], (messages, release)
                box.written.clear()
                with pytest.raises(NotTaken):
                    await box.commander.stop(box.context, is_at_rest=True)
                assert box.written == ["watts 0 refused"], "what is at rest is left as it is"
            box.refuses.clear()
            box.written.clear()
            await box.commander.stop(box.context)
            assert (box.written[0], "mode 2" in box.written) == ("watts 0", True)


async def test_a_device_that_refuses_the_0_of_its_release_is_sent_nothing_that_drives_it() -> None:
    for messages in ORDERS:
        box = Box({"watts"}, messages, "zero")
        with pytest.raises(NotTaken):
            await box.commander.release(box.context)
        assert box.written == ["watts 0 refused"], messages


async def test_a_0_without_a_power_ends_with_what_is_refused_of_it() -> None:
    """0 is said by a mode of its own here: what enables must not follow where that is refused."""
    messages = [
        {"registers": {"mode": "forced", "watts": "{w}"}, "when": "w != 0"},
        {"registers": {"mode": "auto"}, "when": "w == 0"},
        {"registers": {"enable": 1}},
    ]
    for ends in ("stop", "release"):
        box = Box({"mode"}, messages, "zero")
        with pytest.raises(NotTaken):
            await getattr(box.commander, ends)(box.context)
        assert box.written == ["mode 0 refused"], ends


async def test_of_a_release_what_undoes_a_setpoint_is_sent_though_a_part_is_refused() -> None:
    for release, wanted in (
        ([{"registers": {"watts": 0, "mode": "auto"}}], ["watts 0 refused", "watts 0 refused", "mode 0"]),
        ([{"registers": {"watts": 0}}, {"registers": {"mode": "auto"}}], None),
        ([{"registers": {"watts": 0, "mode": "forced"}}], ["watts 0 refused", "watts 0 refused"]),
    ):
        box = Box({"watts"}, release=release)
        with pytest.raises(NotTaken):
            await box.commander.release(box.context)
        assert box.written == (wanted or ["watts 0 refused", "watts 0 refused", "mode 0"])


async def test_a_stop_of_which_something_else_is_refused_hands_nothing_back() -> None:
    box = Box({"mode"})
    with pytest.raises(NotTaken):
        await box.commander.stop(box.context)
    assert box.written == ["watts 0", "mode 2 refused", "watts 0"]


async def test_on_change_a_0_before_the_sign_is_sent_where_the_sign_changes() -> None:
    for zero, size in (("0", "{s}"), ({"v": 0}, {"v": "{s}"})):
        messages = [
            {"topic": "size", "payload": zero},
            {"topic": "way", "payload": "way {d}"},
            {"topic": "size", "payload": size},
        ]
        rig = Rig(messages, send="change", release="zero")
        for watts in (1, 3, -3, -3):
            await rig.tell(watts)
            rig.sent.append("|")
        shown = " ".join(rig.sent).replace('{"v":', "").replace("}", "")
        assert shown == "0 way 0 1 | 3 | 0 way 1 3 | |"


async def test_of_unchanged_messages_those_are_sent_whose_register_was_overwritten() -> None:
    """A size that is the same in the other direction: the 0 before the direction would stay."""
    table = {
        "name": "box",
        "registers": {"p": {"address": 0}, "way": {"address": 10}, "size": {"address": 20}},
        "quantities": {"p_mw": {"formula": "p", "unit": "W"}},
        "setpoint": {
            "send": "change",
            "values": {
                "w": {"quantity": "p_mw", "unit": "W", "decimals": 0},
                "d": {"formula": "1 if w < 0 else 0"},
                "s": {"formula": "abs(w)"},
            },
            "messages": [{"registers": {"size": 0, "way": "{d}"}}, {"registers": {"size": "{s}"}}],
            "release": "zero",
        },
    }
    box = Box(set())
    mapping = load_mapping(table, agent="MG1", device="ess", source="test")
    commander = Commander(mapping, box._put, within_s=1.0)
    for p_mw, written in (
        (0.001, ["size 0", "way 0", "size 1000"]),
        (0.003, ["size 3000"]),
        (-0.003, ["size 0", "way 1", "size 3000"]),
        (-0.003, []),
    ):
        box.written.clear()
        await commander.tell(Setpoint(p_mw=p_mw, lease_s=5.0), box.context)
        assert box.written == written, p_mw
