"""What was published while the broker was away comes later, in order, and nothing that was for now does.

The broker is a real mosquitto that is killed; who listens is plain paho.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sqlite3
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from heron_mqtt.app.live_view import LiveView
from heron_mqtt.dashboard.metrics import BrokerMetrics
from heron_mqtt.errors import BrokerClosed, ConfigError, MessageExpired
from heron_mqtt.messaging.mqtt import MqttBroker
from heron_mqtt.messaging.outbox.kept_message import HELD_S
from support.heron_command import heron, run_heron, script
from support.mosquitto_server import Mosquitto
from support.observer import Observer
from support.safety_runs import LEASE_S, proxy, run, write
from support.waiting import until

TELEMETRY, STOP = "devices/MG1/ess/telemetry", {"type": "estop", "active": True, "who": "test"}
RELEASE = {"type": "estop", "active": False, "who": "test"}


def number(n: int, boot: str = "b") -> dict[str, Any]:
    return {"type": "telemetry", "p_mw": 0.001, "sender": "MG1/ess", "boot": boot, "seq": n}


def seqs(observer: Observer, boot: str | None = None) -> list[int]:
    seen = [m.json for m in observer.on("MG1/ess/telemetry")]
    return [m["seq"] for m in seen if boot in {None, m["boot"]}]


def told(observer: Observer) -> list[str]:
    """Return the channels of what came, but for what clients say of their outboxes."""
    channels = [m.topic.removeprefix("heron/site/") for m in observer.seen]
    return [channel for channel in channels if not channel.startswith("session/")]


@contextlib.contextmanager
def started_and_watched(server: Mosquitto) -> Iterator[Observer]:
    """Start a server with an observer; the loop stands still, so that no broker in it is back before that."""
    server.start()
    with Observer(server.url) as observer:
        yield observer


def execute(path: Path, statement: str) -> list[tuple[Any, ...]]:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        return database.execute(statement).fetchall()


def rows(path: Path) -> list[tuple[Any, ...]]:
    """Read a closed outbox as ``docs/brokers.md`` describes it."""
    return execute(path, "SELECT id, stop, topic, payload FROM message ORDER BY id")


async def lost(server: Mosquitto, broker: MqttBroker) -> None:
    server.kill()
    await until(lambda: not broker.connected, "noticing the loss")


async def test_an_outbox_sends_a_stop_first_then_the_rest_in_order_and_no_setpoint(
    own_mosquitto: Callable[..., Mosquitto], tmp_path: Path
) -> None:
    server = own_mosquitto()
    async with MqttBroker(server.url, env_id="site", outbox=tmp_path / "outbox") as broker:
        await lost(server, broker)
        for n in range(300):
            broker.publish(TELEMETRY, number(n))
        broker.publish("agents/MG1/action", {"type": "action", "p_ess": 0.001})
        broker.publish("p2p/MG1/MG2", {"type": "offer", "quantity_mwh": 0.001})
        broker.publish("devices/MG1/ess/authority_state", {"type": "authority_state"}, retain=True)
        broker.publish("estop", STOP, retain=True)
        for channel in ("setpoint", "authority", "take"):
            with pytest.raises(MessageExpired):
                await broker.publish(f"devices/MG1/ess/{channel}", {"type": channel, "p_mw": 0.001})
        with pytest.raises(MessageExpired):
            await broker.publish("estop", RELEASE, retain=True)
        await until(lambda: broker.stats.stored == 304, "everything is on disk")
        with started_and_watched(server) as observer:
            await broker.wait_connected(20)
            await until(lambda: broker.outbox is not None and broker.outbox.messages == 0, "it is empty")
            await until(lambda: len(told(observer)) == 304)
            topics = told(observer)
            assert topics[0] == "estop"
            assert topics[1:] == [
                *[TELEMETRY] * 300, "agents/MG1/action", "p2p/MG1/MG2", "devices/MG1/ess/authority_state",
            ]  # fmt: skip
            assert seqs(observer) == list(range(300))
    assert rows(tmp_path / "outbox") == []


async def test_what_waits_and_what_was_given_up_is_told_by_kind(
    own_mosquitto: Callable[..., Mosquitto], tmp_path: Path
) -> None:
    server, options = own_mosquitto(), {"client_id": "gateway-1", "outbox_max_mb": 0.02}
    async with MqttBroker(server.url, env_id="site", outbox=tmp_path / "outbox", **options) as broker:
        assert broker.outbox is not None
        await lost(server, broker)
        broker.publish("agents/MG1/action", {"type": "action", "p_ess": 0.001})
        for n in range(200):
            broker.publish(TELEMETRY, number(n))
        broker.publish("estop", STOP, retain=True)
        kinds, waiting = broker.outbox.kinds, broker.outbox.messages
        assert kinds["estop"].messages == 1
        assert kinds["agents/+/action"].dropped == 1
        of_telemetry = kinds["devices/+/+/telemetry"]
        assert of_telemetry.messages + of_telemetry.dropped == 200
        assert waiting == of_telemetry.messages + 1
        await asyncio.to_thread(server.start)
        await broker.wait_connected(20)
        broker.publish("agents/MG1/status", {"type": "status", "state": "online"}, retain=True)
        await until(lambda: broker.outbox is not None and broker.outbox.messages == 0, "it is empty")
        async with LiveView(server.url, "site") as view:
            await until(lambda: any(e["outboxes"] for e in view.snapshot()["environments"]), "its report")
            snapshot = view.snapshot()
            text = BrokerMetrics(lambda: snapshot).text().decode()
        seen = await asyncio.to_thread(run_heron, "status", "--broker", server.url)
        assert (
            f"outbox   gateway-1 0 messages wait (0.0 MB), {broker.stats.outbox_dropped} given up" in seen.out
        )
    labels = 'client="gateway-1",env_id="site",kind="devices/+/+/telemetry"'
    assert f"heron_outbox_messages{{{labels}}} 0.0" in text
    assert f"heron_outbox_dropped_total{{{labels}}} {float(of_telemetry.dropped)}" in text
    assert 'heron_outbox_max_bytes{client="gateway-1",env_id="site"} 20000.0' in text


@pytest.mark.slow  # in order, with fewer messages: test_outbox_queue.py
async def test_what_is_published_live_follows_what_waited_on_its_channel(
    own_mosquitto: Callable[..., Mosquitto], tmp_path: Path
) -> None:
    server = own_mosquitto()
    async with MqttBroker(server.url, env_id="site", outbox=tmp_path / "outbox") as broker:
        await lost(server, broker)
        for n in range(2_500):  # more than wait in memory
            broker.publish(TELEMETRY, number(n))
            if n % 100 == 0:
                await asyncio.sleep(0)
        await until(lambda: broker.stats.stored == 2_500)
        await asyncio.sleep(1.0)  # so that they have been held
        with started_and_watched(server) as observer:
            await broker.wait_connected(20)
            for n in range(2_500, 2_600):
                broker.publish(TELEMETRY, number(n))
                await asyncio.sleep(0.01)
            await until(lambda: len(seqs(observer)) >= 2_600)
            assert seqs(observer) == list(range(2_600))
            held = [m.json.get("held_s") for m in observer.on("MG1/ess/telemetry")]
            assert all(h is not None and h >= 1.0 for h in held[:2_500])


async def test_what_leaves_at_once_is_never_written_and_says_nothing_of_being_held(
    own_mosquitto: Callable[..., Mosquitto], tmp_path: Path
) -> None:
    server = own_mosquitto()
    with Observer(server.url) as observer:
        async with MqttBroker(server.url, env_id="site", outbox=tmp_path / "outbox") as broker:
            for n in range(500):
                await broker.publish(TELEMETRY, number(n))
            assert broker.stats.stored == 0
        await until(lambda: len(seqs(observer)) == 500)
        assert not any("held_s" in m.json for m in observer.seen)


async def test_what_an_earlier_start_stored_counts_as_old_although_the_clock_was_set_back(
    own_mosquitto: Callable[..., Mosquitto], tmp_path: Path
) -> None:
    """As on a small computer without a battery for its clock."""
    server, path = own_mosquitto(), tmp_path / "outbox"
    async with MqttBroker(server.url, env_id="site", outbox=path) as broker:
        await lost(server, broker)
        broker.publish(TELEMETRY, number(0))
    execute(path, "UPDATE message SET published_at = published_at + 3600")
    await asyncio.to_thread(server.start)
    with Observer(server.url) as observer:
        async with MqttBroker(server.url, env_id="site", outbox=path):
            await until(lambda: seqs(observer) == [0])
        assert observer.seen[0].json["held_s"] >= 1.0


async def test_an_outbox_file_that_others_changed_sends_nothing_that_must_not_come_late_and_ends_nothing(
    own_mosquitto: Callable[..., Mosquitto], tmp_path: Path
) -> None:
    server, path = own_mosquitto(), tmp_path / "outbox"
    async with MqttBroker(server.url, env_id="site", outbox=path) as broker:
        await lost(server, broker)
        broker.publish(TELEMETRY, number(0))
    base = "heron/site/devices/MG1/ess"
    wrong = [
        (0, f"{base}/setpoint", b'{"p_mw":0.03,"lease_s":3600}'),
        (0, f"{base}/authority", b'{"level":"full","who":"x"}'),
        (0, f"{base}/status", b'{"state":"online"}'),
        (1, "heron/site/estop", b'{"active":false}'),
        (0, "heron/site/estop", b'{"active":false}'),
        (0, "heron/other/devices/MG1/ess/telemetry", b'{"p_mw":1}'),
        (0, "heron/#", b"{}"),
        (0, "", b"{}"),
    ]
    damaged = [f"'{base}/telemetry',x'7b7d',1,0,'abc'", f"'{base}/telemetry','a text',7,0,1.0"]
    for stop, topic, payload in wrong:
        row = f"{stop},'{topic}',x'{payload.hex()}',1,0,{time.time()}"
        execute(path, f"INSERT INTO message VALUES (NULL,{row})")
    for row in damaged:
        execute(path, f"INSERT INTO message VALUES (NULL,0,{row})")
    unreadable = f"x'7b',1,1,{time.time()}"  # a stop
    execute(path, f"INSERT INTO message VALUES (NULL,1,'heron/site/estop',{unreadable})")
    await asyncio.to_thread(server.start)
    with Observer(server.url) as observer:
        async with MqttBroker(server.url, env_id="site", outbox=path) as broker:
            await until(lambda: broker.outbox is not None and broker.outbox.messages == 0, "it is empty")
            await broker.publish(TELEMETRY, number(1))
            await until(lambda: seqs(observer) == [0, 1])
            assert broker.stats.outbox_dropped == len(wrong) + len(damaged)
        assert told(observer) == ["estop", TELEMETRY, TELEMETRY]
        assert observer.seen[0].payload == b"{"
    assert rows(path) == []


async def test_it_waits_over_a_restart_of_ours(
    own_mosquitto: Callable[..., Mosquitto], tmp_path: Path
) -> None:
    server = own_mosquitto()
    path = tmp_path / "outbox"
    async with MqttBroker(server.url, env_id="site", outbox=path) as broker:
        await lost(server, broker)
        waiting = [broker.publish(TELEMETRY, number(n, "first")) for n in range(50)]
        broker.publish("estop", STOP, retain=True)
        broker.publish("agents/MG1/plan", {"type": "plan"})  # waits in memory, and ends with us
    with pytest.raises(BrokerClosed):
        await waiting[-1]
    assert [topic for _, stop, topic, _ in rows(path) if stop] == ["heron/site/estop"]
    assert len(rows(path)) == 51
    server.start()
    with Observer(server.url) as observer:
        async with MqttBroker(server.url, env_id="site", outbox=path) as broker:
            for n in range(10):
                broker.publish(TELEMETRY, number(n, "second"))
            await until(lambda: len(seqs(observer)) == 60)
        assert observer.seen[0].topic == "heron/site/estop"
        assert seqs(observer) == [*range(50), *range(10)]
        assert not observer.on("plan")
    assert rows(path) == []


def test_kill_9_of_publisher_and_broker_loses_the_last_moment_at_most(
    own_mosquitto: Callable[..., Mosquitto], tmp_path: Path
) -> None:
    server = own_mosquitto()
    path = tmp_path / "outbox"
    publisher = Path(__file__).parents[1] / "support" / "outbox_publisher.py"
    arguments = (server.url, str(path))
    with script(publisher, *arguments, "100000") as program, Observer(server.url) as before:
        before.wait("it publishes", lambda: len(before.seen) > 50)
        server.kill()
        program.wait_for("away")
        time.sleep(1.0)
        os.kill(program.pid, signal.SIGKILL)
        program.wait()
        published = max(int(line) for line in program.out if line.strip().isdigit())
        live = seqs(before)
    server.start()
    with Observer(server.url) as after, script(publisher, *arguments, "0"):
        after.wait("what waited comes", lambda: seqs(after) and time.monotonic() > after.seen[-1].at + 1.0)
        later = seqs(after)
        assert {topic.rsplit("/", 1)[-1] for topic in told(after)} == {"telemetry"}, (
            "nothing that was for now"
        )
    assert later == sorted(set(later)), "in order, and once"
    missing = set(range(published + 1)) - set(live) - set(later)
    # 5 ms apart: what was not yet written, and none before it
    assert missing == set(range(published + 1 - len(missing), published + 1))
    assert len(missing) <= 100
    assert later[0] <= max(live) + 1


async def test_a_receiver_counts_what_came_twice_once(
    own_mosquitto: Callable[..., Mosquitto], tmp_path: Path
) -> None:
    """Killed between the acknowledgement and forgetting it, a sender sends again: boot and seq tell."""
    server = own_mosquitto()
    path = tmp_path / "outbox"
    async with MqttBroker(server.url, env_id="site", outbox=path) as broker:
        await lost(server, broker)
        for n in range(20):
            broker.publish(TELEMETRY, number(n))
    saved = path.read_bytes()
    server.start()
    got: list[int] = []
    async with MqttBroker(server.url, env_id="site") as receiver:
        await receiver.subscribe(TELEMETRY, lambda m: got.append(m["seq"]))
        for _ in range(2):
            path.write_bytes(saved)
            async with MqttBroker(server.url, env_id="site", outbox=path) as broker:
                await until(lambda broker=broker: broker.outbox.messages == 0)  # type: ignore[misc]
        await until(lambda: receiver.stats.duplicated == 20)
        assert got == list(range(20))
        assert receiver.stats.lost == 0


def test_a_gateway_killed_with_its_outbox_replays_nothing_that_drives(
    own_mosquitto: Callable[..., Mosquitto], tmp_path: Path
) -> None:
    """Broker, environment and gateway are killed, broker and gateway come back, and an attacker replays.

    Said again is all that was ever said to the device; it gives no power.
    """
    server = own_mosquitto()
    scenario = write(tmp_path, **{"microgrids.MG1.remote": True})
    outboxes = {name: tmp_path / f"{name}.outbox" for name in ("gateway", "device")}
    battery = ["device", "battery", "--agent", "MG1", "--name", "ess", "--broker", server.url]
    battery += ["--scenario", str(scenario), "--period", "0.1", "--outbox", str(outboxes["device"])]
    gateway = ["--outbox", str(outboxes["gateway"])]
    with Observer(server.url) as before, heron(*battery):
        with proxy(scenario, server.url, *gateway) as killed, run(scenario, server.url) as environment:
            before.wait("the device is driven", lambda: len(before.driving()) > 8)
            server.kill()
            # A step ends, whatever comes of it; leases run out; and what was measured before is then so old
            # that it says for how long it was held.
            time.sleep(LEASE_S + HELD_S + 0.5)
            for program in (killed, environment):
                for process in (*program.descendants(), program.process):
                    process.kill()
        waited = [topic.rsplit("/", 1)[-1] for _, _, topic, _ in rows(outboxes["gateway"])]
        assert set(waited) <= {"action", "authority_state", "MG2", "MG3"}, waited
        server.start()
        came_back = time.monotonic()
        with Observer(server.url) as after, proxy(scenario, server.url, *gateway):
            after.wait("the gateway is there", lambda: after.on("agents/MG1/status", live=False))
            after.wait(
                "what the device measured meanwhile",
                lambda: any("held_s" in m.json for m in after.on("MG1/ess/telemetry")),
            )
            time.sleep(LEASE_S)
            recorded = [m for m in before.seen if "/devices/MG1/ess/" in m.topic
                        and m.topic.rsplit("/", 1)[-1] in {"setpoint", "authority", "take"}]  # fmt: skip
            assert len(recorded) > 8
            for message in recorded:
                after.publish(message.topic, message.payload)
                told = message.json
                after.publish(message.topic, {**told, "seq": told["seq"] + 1000})
                after.publish(message.topic, {**told, "boot": "another"})
            for message in after.on("MG1/ess/telemetry"):
                after.publish(message.topic, message.payload)  # to the gateway: it has heard it before
            time.sleep(2 * LEASE_S)
            forged = {m.payload for m in after.on("MG1/ess/setpoint")} - {m.payload for m in recorded}
            sent = [p for p in forged if b'"another"' not in p and json.loads(p)["seq"] < 1000]
            assert sent == [], "nobody asked the gateway for anything"
            moved = [
                m.json for m in after.on("MG1/ess/telemetry") if m.json["p_mw"] and "held_s" not in m.json
            ]
            assert moved == []
            assert came_back < after.seen[-1].at


@pytest.mark.slow
def test_a_record_marks_what_came_late_and_no_lease_looks_outlived(
    own_mosquitto: Callable[..., Mosquitto], tmp_path: Path
) -> None:
    """What a device measured before its lease ended comes after it: that is no lease outlived."""
    server = own_mosquitto(
        *("allow_anonymous true", "persistence true", f"persistence_location {tmp_path}/"),
        "autosave_interval 1\nautosave_on_changes true",
    )
    scenario, record = write(tmp_path, steps=60), tmp_path / "run.heron"
    kept = ["--client-id", "run-1", "--clean-start", "false"]  # whichever of the two is back first
    battery = ["device", "battery", "--agent", "MG1", "--name", "ess", "--broker", server.url]
    battery += ["--scenario", str(scenario), "--period", "0.1", "--outbox", str(tmp_path / "ess.outbox")]
    with (
        Observer(server.url) as observer,
        heron(*battery),
        run(scenario, server.url, *kept, "--record", str(record)) as program,
    ):
        observer.wait("the device is driven", lambda: len(observer.driving()) > 3)
        server.stop()
        time.sleep(2.5 * LEASE_S)
        server.start()
        ended = program.wait()
    assert ended.code == 0, ended.err
    device = ended.result["devices"]["MG1/ess"]
    assert device["held"] > 5
    assert device["lost"] == 0
    late = execute(record, "SELECT count(*) FROM message_row WHERE arrival = 'late'")
    assert late[0][0] >= device["held"]
    verified = run_heron("verify", str(record)).out
    assert "FAILED no lease outlived" not in verified
    assert "FAILED lost and duplicated" not in verified
    assert "FAILED hash chain" not in verified


# -- bounds --------------------------------------------------------------------------------------------


async def test_the_oldest_goes_when_it_is_full_and_a_stop_does_not(
    own_mosquitto: Callable[..., Mosquitto], tmp_path: Path
) -> None:
    server = own_mosquitto()
    path = tmp_path / "outbox"
    async with MqttBroker(server.url, env_id="site", outbox=path, outbox_max_mb=0.1) as broker:
        await lost(server, broker)
        broker.publish("estop", STOP, retain=True)
        for n in range(2_000):
            broker.publish(TELEMETRY, number(n))
            if n % 50 == 0:
                await asyncio.sleep(0.01)
        assert broker.outbox is not None
        assert broker.outbox.size <= 100_000
        assert broker.stats.outbox_dropped == 2_001 - broker.outbox.messages > 1_000
        told = [r for r in broker.stats.reports if r.kind == "outbox"]
        assert len(told) == 1
        assert "more than 0.1 MB wait: the oldest is dropped" in told[0].what
    kept = rows(path)
    assert sum(len(topic) + len(payload) + 100 for _, _, topic, payload in kept) <= 100_000
    assert kept[0][1] == 1, "the stop is there"
    numbers = [json.loads(payload)["seq"] for _, stop, _, payload in kept if not stop]
    assert numbers == list(range(2_000 - len(numbers), 2_000)), "the newest are there"


async def test_what_is_too_old_is_not_sent_any_more_and_a_stop_is(
    own_mosquitto: Callable[..., Mosquitto], tmp_path: Path
) -> None:
    server = own_mosquitto()
    path = tmp_path / "outbox"
    async with MqttBroker(server.url, env_id="site", outbox=path) as broker:
        await lost(server, broker)
        broker.publish("estop", STOP, retain=True)
        for n in range(10):
            broker.publish(TELEMETRY, number(n))
    execute(path, "UPDATE message SET published_at = published_at - 100 WHERE id <= 6")
    server.start()
    with Observer(server.url) as observer:
        async with MqttBroker(server.url, env_id="site", outbox=path, outbox_max_age_s=60) as broker:
            await until(lambda: broker.outbox is not None and broker.outbox.messages == 0)
            assert broker.stats.outbox_dropped == 5
        await until(lambda: len(seqs(observer)) == 5)
        assert seqs(observer) == [5, 6, 7, 8, 9]
        assert observer.seen[0].topic == "heron/site/estop"
        assert observer.seen[0].json["held_s"] >= 100.0


# -- the disk ------------------------------------------------------------------------------------------


async def test_a_full_disk_is_said_once_and_counted_and_everything_goes_on(
    own_mosquitto: Callable[..., Mosquitto], tmp_path: Path, small_disk: Path
) -> None:
    server = own_mosquitto()
    path = small_disk / "outbox"
    async with MqttBroker(server.url, env_id="site", outbox=path) as broker:
        await lost(server, broker)
        _fill(small_disk)
        for n in range(1_000):
            broker.publish(TELEMETRY, number(n))
        await until(lambda: broker.stats.outbox_errors > 0, "the disk refuses")
        assert broker.stats.stored == 0
        told = [r.what for r in broker.stats.reports if r.kind == "outbox"]
        assert len(told) == 1, told
        assert "full" in told[0]
        with started_and_watched(server) as observer:
            await broker.wait_connected(20)
            await until(lambda: len(seqs(observer)) == 1_000, "from memory")
            assert seqs(observer) == list(range(1_000))
        await lost(server, broker)
        (small_disk / "filling").unlink()
        for n in range(10):
            broker.publish(TELEMETRY, number(n, "later"))
        await until(lambda: broker.stats.stored >= 10, "it is written when there is room", 20.0)
        assert [r.what for r in broker.stats.reports if r.kind == "outbox"][1:] == ["the disk works again"]
    assert len(rows(path)) == 10


def _fill(folder: Path) -> None:
    with (folder / "filling").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(b"x" * 4096):
            pass


# -- whose file it is ----------------------------------------------------------------------------------


async def test_a_file_that_is_not_ours_to_use_is_refused_in_one_line(
    own_mosquitto: Callable[..., Mosquitto], tmp_path: Path
) -> None:
    server = own_mosquitto()
    path = tmp_path / "outbox"

    async def refusal(file: Path, env_id: str = "site") -> str:
        with pytest.raises(ConfigError) as caught:
            await MqttBroker(server.url, env_id=env_id, outbox=file).connect()
        (problem,) = caught.value.problems
        assert str(file) in problem
        return problem

    async with MqttBroker(server.url, env_id="site", outbox=path):
        assert "in use by another process or connection" in await refusal(path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert {stat.S_IMODE(p.stat().st_mode) for p in tmp_path.glob("outbox*")} == {0o600}
    assert "holds messages of environment 'site', not of 'other'" in await refusal(path, "other")
    execute(path, "PRAGMA user_version = 2")
    assert "of version 2, this program knows 1" in await refusal(path)
    (tmp_path / "text").write_text("these are not the messages you are looking for\n" * 100)
    assert "not an outbox, or damaged" in await refusal(tmp_path / "text")
    execute(tmp_path / "other", "CREATE TABLE t (x)")
    assert "an SQLite file, but no outbox" in await refusal(tmp_path / "other")
    assert "there is no folder" in await refusal(tmp_path / "nowhere" / "outbox")
    assert "not a file" in await refusal(tmp_path)


async def test_no_login_is_in_it(own_mosquitto: Callable[..., Mosquitto], tmp_path: Path) -> None:
    server = own_mosquitto()
    path = tmp_path / "outbox"
    url = server.url.replace("mqtt://", "mqtt://ann:s3cr3t@")
    async with MqttBroker(url, env_id="site", outbox=path) as broker:
        await lost(server, broker)
        for n in range(50):
            broker.publish(TELEMETRY, number(n))
        await until(lambda: broker.stats.stored == 50)
    assert len(rows(path)) == 50
    assert b"s3cr3t" not in b"".join(p.read_bytes() for p in tmp_path.glob("outbox*"))
