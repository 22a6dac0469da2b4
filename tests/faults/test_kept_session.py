"""What others publish while we are away comes later, where it may, and is not taken for news of now."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from heron_mqtt.errors import ConfigError
from heron_mqtt.messaging.base import Received
from heron_mqtt.messaging.mqtt import MqttBroker
from support.mosquitto_server import Mosquitto
from support.observer import Observer, PlainDevice
from support.safety_runs import LEASE_S, on_mosquitto, proxy, run, write
from support.waiting import until

TELEMETRY = "devices/MG1/ess/telemetry"


def number(n: int) -> dict[str, Any]:
    return {"type": "telemetry", "p_mw": 0.001, "sender": "MG1/ess", "boot": "b", "seq": n}


@pytest.fixture(params=["mosquitto", "mosquitto-mqtt5", "embedded"])
def away(request: pytest.FixtureRequest, env_id: str) -> Callable[..., MqttBroker]:
    """Make a client that keeps its session, each time the same."""
    kind = request.param
    url = request.getfixturevalue("embedded_url" if kind == "embedded" else "mosquitto")
    url = url if isinstance(url, str) else url.url

    def make(**options: Any) -> MqttBroker:
        protocol = "5" if kind.endswith("5") else None
        kept: dict[str, Any] = {"clean_start": False, "client_id": f"historian-{env_id}"}
        return MqttBroker(url, env_id=env_id, protocol=protocol, **(kept | options))

    return make


async def publish(make: Callable[..., MqttBroker], channel: str, *messages: dict[str, Any]) -> None:
    async with make(clean_start=True, client_id=None) as publisher:
        await asyncio.gather(*(publisher.publish(channel, message) for message in messages))


async def test_what_is_published_while_we_are_away_comes_once_in_order_and_is_late(
    away: Callable[..., MqttBroker],
) -> None:
    got: list[tuple[int, bool]] = []

    def note(message: Received) -> None:
        got.append((message["seq"], message.late))

    async with away() as broker:
        await broker.subscribe(TELEMETRY, note)
        await publish(away, TELEMETRY, number(0))
        await until(lambda: got == [(0, False)])
    await publish(away, TELEMETRY, *(number(n) for n in range(1, 501)))
    async with away() as broker:
        await broker.subscribe("devices/+/+/authority_state", lambda _: None)  # one after another
        await asyncio.sleep(0.2)
        await broker.subscribe(TELEMETRY, note)
        await until(lambda: len(got) == 501)
        await until(lambda: broker._kept is not None and not broker._kept.is_late, "the mark is back")
        await publish(away, TELEMETRY, number(501))
        await until(lambda: len(got) == 502)
        assert broker.stats.lost == 0
        assert broker.stats.duplicated == 0
    assert got == [(0, False), *((n, True) for n in range(1, 501)), (501, False)]


async def test_a_kept_session_holds_nothing_that_moves_a_device(away: Callable[..., MqttBroker]) -> None:
    got: list[str] = []
    channels = [f"devices/MG1/ess/{leaf}" for leaf in ("setpoint", "authority", "take")]
    channels += ["estop", "agents/MG1/command"]
    wide = "devices/MG1/+/+"

    async def listen(broker: MqttBroker) -> None:
        for channel in (*channels, wide, TELEMETRY):
            await broker.subscribe(channel, lambda m: got.append(m.channel))

    async with away() as broker:
        await listen(broker)
    for channel in channels:
        await publish(away, channel, {"p_mw": 0.01})
    await publish(away, TELEMETRY, number(0))
    async with away() as broker:
        await listen(broker)
        await until(lambda: TELEMETRY in got)
        await asyncio.sleep(0.3)
    assert set(got) == {TELEMETRY}


async def test_a_wide_filter_beside_it_brings_nothing_twice(away: Callable[..., MqttBroker]) -> None:
    """Foreign messages carry nothing to tell copies by."""
    got: list[int] = []
    async with away() as broker:
        await broker.subscribe("#", lambda m: got.append(m["n"]) if m.channel == TELEMETRY else None)
        await broker.subscribe(TELEMETRY, lambda _: None)
        await publish(away, TELEMETRY, *({"n": n} for n in range(20)))
        await until(lambda: len(got) >= 20)
        await asyncio.sleep(0.1)
    assert got == list(range(20))


async def test_who_dies_before_it_subscribes_loses_nothing(away: Callable[..., MqttBroker]) -> None:
    got: list[int] = []
    async with away() as broker:
        await broker.subscribe(TELEMETRY, lambda m: got.append(m["seq"]))
    await publish(away, TELEMETRY, *(number(n) for n in range(10)))
    dies = away()
    await dies.connect()
    kept = dies._kept
    assert kept is not None
    await until(lambda: kept._unread, "it is sent what waited")
    await kept.session.abort()
    async with away() as broker:
        await broker.subscribe(TELEMETRY, lambda m: got.append(m["seq"]))
        await until(lambda: len(got) == 10)
        await dies.close()
    assert got == list(range(10))


async def test_a_session_that_the_broker_lost_is_named_and_counted(
    own_mosquitto: Callable[..., Mosquitto],
) -> None:
    server = own_mosquitto()  # without persistence
    got: list[int] = []
    async with MqttBroker(server.url, env_id="site", client_id="h", clean_start=False) as broker:
        await broker.subscribe(TELEMETRY, lambda m: got.append(m["seq"]))
        server.kill()
        await until(lambda: not broker.connected)
        await asyncio.to_thread(server.start)
        await broker.wait_connected(20)
        assert broker.stats.sessions_lost == 1
        assert broker.stats.reconnects == 1, "one outage is one reconnection"
        told = [r.what for r in broker.stats.reports if "has not kept the session" in r.what]
        assert len(told) == 1
        # A second subscription of the kept session is in force: so is the first one, that came before it.
        await broker.subscribe("devices/MG1/another/telemetry", lambda _: None)
        with Observer(server.url) as plain:
            plain.publish(f"heron/site/{TELEMETRY}", number(7))
            await until(lambda: got == [7], "it goes on")


async def test_a_session_outlives_a_broker_with_persistence(
    own_mosquitto: Callable[..., Mosquitto], tmp_path: Path
) -> None:
    server = own_mosquitto(
        *("allow_anonymous true", "persistence true", f"persistence_location {tmp_path}/"),
        "autosave_interval 1\nautosave_on_changes true",
    )
    got: list[int] = []
    options: dict[str, Any] = {"env_id": "site", "client_id": "h", "clean_start": False}
    async with MqttBroker(server.url, **options) as broker:
        await broker.subscribe(TELEMETRY, lambda m: got.append(m["seq"]))
    async with MqttBroker(server.url, env_id="site") as publisher:
        for n in range(100):
            await publisher.publish(TELEMETRY, number(n))
    await asyncio.to_thread(server.stop)
    await asyncio.to_thread(server.start)
    async with MqttBroker(server.url, **options) as broker:
        await broker.subscribe(TELEMETRY, lambda m: got.append(m["seq"]))
        await until(lambda: len(got) == 100)
    assert got == list(range(100))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"clean_start": False}, "the broker knows a session by its client; give client_id, too"),
        ({"session_expiry_s": 60}, "no session is kept; give clean_start false, too"),
        ({"clean_start": False, "client_id": "h", "session_expiry_s": 0}, "expected whole seconds, 1 to"),
    ],
)
def test_what_does_not_fit_together_is_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        MqttBroker("mqtt://h", **options)


@on_mosquitto
def test_a_gateway_with_a_kept_session_that_is_killed_drives_on_telemetry_of_now(
    tmp_path: Path, url: str
) -> None:
    """It finds what the device said while it was away, and echoes none of it."""
    scenario = write(tmp_path, **{"microgrids.MG1.remote": True})
    kept = ["--client-id", "gateway-1", "--clean-start", "false", "--outbox", str(tmp_path / "outbox")]
    with Observer(url) as observer, PlainDevice(url, "small") as device, run(scenario, url):
        with proxy(scenario, url, *kept) as killed:
            observer.wait("it is driven", lambda: device.p_mw != 0.0 and len(observer.driving()) > 3)
            killed.process.kill()
        time.sleep(2 * LEASE_S)
        assert device.p_mw == 0.0
        with proxy(scenario, url, *kept):
            again = time.monotonic()
            observer.wait("it is driven again", lambda: len(observer.driving(after=again)) > 3)
            said = {m.json["seq"]: m.at for m in observer.on("MG1/ess/telemetry")}
            ages_s = [m.at - said[m.json["heard_seq"]] for m in observer.setpoints(after=again)]
            assert max(ages_s) < LEASE_S
