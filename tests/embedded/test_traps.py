"""The traps of amqtt 0.12.1, one test each: ours passes, amqtt as it comes is expected to fail.

amqtt as it comes runs with `-m slow`: whoever moves its pinned version runs them. When an upgrade closes a
trap, its strict xfail turns into a failure here, and the code that closes it can go.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest

from heron_mqtt.errors import ConfigError
from heron_mqtt.messaging.embedded import EmbeddedBroker, Limits
from heron_mqtt.messaging.embedded.auth.credentials import hash_password
from support import raw_mqtt
from support.certificates import Certificates, key_of
from support.other_brokers import LET_IN, stock_amqtt, stock_amqtt_process
from support.raw_mqtt import Ended, Will, connected, opened, publish_packet, subscribe_packet

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


def _stock(*, strict: bool = True) -> pytest.MarkDecorator:
    raises = (AssertionError, TimeoutError, Ended, ConnectionError)
    return pytest.mark.xfail(strict=strict, raises=raises, reason="amqtt 0.12.1 as it comes")


both = pytest.mark.parametrize(
    "kind", ["embedded", pytest.param("stock", marks=[_stock(), pytest.mark.slow])]
)
# Five seconds each; ours is tested for the same in the conformance files.
both_slow = pytest.mark.parametrize(
    "kind",
    [
        pytest.param("embedded", marks=pytest.mark.slow),
        pytest.param("stock", marks=[_stock(), pytest.mark.slow]),
    ],
)


@pytest.fixture(autouse=True)
def patience(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait long for what amqtt will not do."""
    if "stock" in request.node.name:
        monkeypatch.setattr(raw_mqtt, "WAIT_S", 1.0)


@contextlib.asynccontextmanager
async def running(
    kind: str, *, plugins: dict[str, Any] = LET_IN, listener: dict[str, Any] | None = None, **options: Any
) -> AsyncIterator[int]:
    """Run our broker with these options, or amqtt with these plugins; yield the port."""
    if kind == "embedded":
        async with EmbeddedBroker(in_process=True, **options) as broker:
            yield broker.port
    else:
        with stock_amqtt(plugins, listener) as port:
            yield port


@both
async def test_trap_keepalive_a_dead_device_is_noticed_and_its_will_sent(kind: str) -> None:
    async with running(kind) as port, connected(port, "watcher") as watcher:
        await watcher.subscribe(("will", 1))
        async with connected(port, "dead", keepalive=1, will=Will("will", b"gone", 1)):
            assert (await watcher.received(2.5)).payload == b"gone"


@both
async def test_trap_qos_1_unacknowledged_when_the_connection_dies_is_redelivered(kind: str) -> None:
    async with running(kind) as port, connected(port, "sender") as sender:
        async with connected(port, "device", clean=False) as device:
            await device.subscribe(("x", 1))
            for number in range(3):
                await sender.publish("x", b"%d" % number, qos=1)
            for _ in range(3):
                await device.received(ack=False)
            device.drop()
        async with connected(port, "device", clean=False) as device:
            again = [await device.received() for _ in range(3)]
            assert [(message.payload, message.dup) for message in again] == [
                (b"0", True),
                (b"1", True),
                (b"2", True),
            ]


@both_slow
async def test_trap_puback_later_than_5_s_drops_nothing(kind: str) -> None:
    async with running(kind) as port, connected(port, "sender") as sender:
        async with connected(port, "device", clean=False) as device:
            await device.subscribe(("x", 1))
            await sender.publish("x", b"patience", qos=1)
            await device.received(ack=False)
            await asyncio.sleep(5.5)
            device.drop()
        async with connected(port, "device", clean=False) as device:
            assert (await device.received()).payload == b"patience"


@both
async def test_trap_anonymous_clients_have_an_offline_queue_too(kind: str) -> None:
    anonymous = {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}}
    async with running(kind, plugins=anonymous) as port:
        async with connected(port, "device", clean=False) as device:
            await device.subscribe(("x", 1))
            await device.disconnect()
        async with connected(port, "sender") as sender:
            await sender.publish("x", b"while you were away", qos=1)
        async with connected(port, "device", clean=False) as device:
            assert (await device.received()).payload == b"while you were away"


@both
async def test_trap_delivery_qos_is_the_minimum_of_both(kind: str) -> None:
    async with running(kind) as port, connected(port) as client:
        await client.subscribe(("x", 2))
        await client.publish("x", b"qos 0")
        assert (await client.received(ack=False)).qos == 0


@both
async def test_trap_overlapping_subscriptions_deliver_one_copy(kind: str) -> None:
    async with running(kind) as port, connected(port) as client:
        await client.subscribe(("x", 0), ("+", 0), ("#", 0))
        await client.publish("x", b"once", qos=1)
        await client.received()
        await client.expect_nothing(0.3)


@both
async def test_trap_takeover_of_a_persistent_session_leaves_the_new_connection_working(kind: str) -> None:
    async with running(kind) as port, connected(port, "device", clean=False) as old:
        await old.subscribe(("x", 1))
        async with connected(port, "device", clean=False) as new, connected(port, "sender") as sender:
            await sender.publish("x", b"to the new one", qos=1)
            assert (await new.received()).payload == b"to the new one"


@both
async def test_trap_takeover_sends_the_old_will_and_not_the_new_one(kind: str) -> None:
    async with running(kind) as port, connected(port, "watcher") as watcher:
        await watcher.subscribe(("will", 1))
        async with (
            connected(port, "device", clean=False, will=Will("will", b"old", 1)),
            connected(port, "device", clean=False, will=Will("will", b"new", 1)),
        ):
            assert (await watcher.received()).payload == b"old"
            assert await watcher.arrived() == []


@both
async def test_trap_takeover_of_a_clean_session_closes_the_old_connection(kind: str) -> None:
    async with running(kind) as port, connected(port, "device") as old, connected(port, "device"):
        await old.expect_end()


@both
async def test_trap_a_wrong_password_does_not_touch_the_real_device(kind: str, tmp_path: Path) -> None:
    users = tmp_path / "users"
    users.write_text(f"ess:{hash_password(b'right')}\n")
    by_file = {"amqtt.plugins.authentication.FileAuthPlugin": {"password_file": str(users)}}
    async with (
        running(kind, plugins=by_file, users_file=users, limits=Limits(login_delay_s=0)) as port,
        connected(port, "device", clean=False, user="ess", password="right") as device,
    ):
        await device.subscribe(("x", 1))
        for clean in (True, False):
            async with opened(port) as intruder:
                assert await intruder.connect("device", clean=clean, user="ess", password="wrong") in (4, 5)
        await device.publish("x", b"still mine", qos=1)
        assert (await device.received()).payload == b"still mine"


@both
@pytest.mark.parametrize("topic", ["", "$SYS/forged"])
async def test_trap_a_publish_that_is_not_allowed_does_not_make_a_zombie(kind: str, topic: str) -> None:
    """Either the connection ends and the will says so, or the client goes on as if nothing had been."""
    async with running(kind) as port, connected(port, "watcher") as watcher:
        await watcher.subscribe(("x", 0))
        async with connected(port, "device", will=Will("x", b"heard of")) as device:
            await device.send(publish_packet(topic, b""))
            await device.send(publish_packet("x", b"heard of"))
            assert (await watcher.received()).payload == b"heard of"


@both
async def test_trap_nobody_gets_retained_messages_of_anothers_subscription(kind: str) -> None:
    async with running(kind) as port, connected(port, "owner") as owner:
        await owner.subscribe(("secret/#", 1))
        await owner.publish("secret/plan", b"not for everybody", qos=1, retain=True)
        async with connected(port, "curious") as curious:
            await curious.expect_nothing(0.4)


@both
async def test_trap_subscribe_churn_with_a_topic_plugin_loses_no_qos_1_message(
    kind: str, tmp_path: Path
) -> None:
    """With a topic plugin amqtt pauses at each subscriber; a subscription that comes then ends its loop."""
    acl = tmp_path / "acl"
    acl.write_text("pattern readwrite #\n")
    plugins = {**LET_IN, "amqtt.plugins.topic_checking.TopicTabooPlugin": {}}
    async with (
        running(kind, plugins=plugins, acl_file=acl) as port,
        connected(port, "sender") as sender,
        connected(port, "before") as before,
        connected(port, "reader") as reader,
        connected(port, "churner") as churner,
    ):
        await before.subscribe(("data", 0))
        await reader.subscribe(("data/#", 1))

        async def churn() -> None:
            for number in itertools.count():
                await churner.subscribe((f"churn/{number}", 0))

        churning = asyncio.create_task(churn())
        try:
            for number in range(400):
                await sender.publish("data", b"%d" % number, qos=1)
            assert [int((await reader.received()).payload) for _ in range(400)] == list(range(400))
        finally:
            churning.cancel()
            await asyncio.gather(churning, return_exceptions=True)


@both
async def test_trap_shared_subscriptions_are_refused(kind: str) -> None:
    async with running(kind) as port, connected(port) as client:
        assert await client.subscribe(("$share/group/x", 1)) == [0x80]


@both
async def test_trap_the_payload_of_an_invalid_publish_is_not_parsed_as_packets(kind: str) -> None:
    async with running(kind) as port, connected(port, "watcher") as watcher:
        await watcher.subscribe(("injected", 0), ("will", 0))
        async with connected(port, "culprit", will=Will("will", b"closed")) as culprit:
            await culprit.send(publish_packet("bad/+", publish_packet("injected", b"from a payload")))
            assert (await watcher.received()).topic == "will"


@both
async def test_trap_a_payload_over_the_limit_is_not_taken(kind: str) -> None:
    async with running(kind) as port, connected(port) as culprit:
        await culprit.subscribe(("x", 0))
        await culprit.send(publish_packet("x", bytes(2_000_000)))
        await culprit.expect_end()


@both
async def test_trap_a_reader_that_stops_reading_is_dropped(kind: str) -> None:
    async with (
        running(kind, limits=Limits(stall_timeout_s=0.5)) as port,
        connected(port, "sender") as sender,
        connected(port, "stuck") as stuck,
    ):
        await stuck.subscribe(("x", 0))
        stuck.writer.transport.pause_reading()  # type: ignore[attr-defined]
        for _ in range(500):
            await sender.send(publish_packet("x", bytes(64_000)))
        await sender.arrived()
        await asyncio.sleep(0.8)
        stuck.writer.transport.resume_reading()  # type: ignore[attr-defined]
        await stuck.expect_end()


@both_slow
async def test_trap_half_a_connect_is_not_waited_for(kind: str) -> None:
    async with running(kind) as port, opened(port) as client:
        await client.send(b"\x10\x20\0\4MQ")
        await client.expect_end(6)


@both
@pytest.mark.usefixtures("costly_hashes")
async def test_trap_checking_passwords_does_not_hold_up_everybody(kind: str, tmp_path: Path) -> None:
    """Thirty logins cost seconds of argon2; a client that is in must not notice."""
    users = tmp_path / "users"
    hashed = hash_password(b"right")  # each login is checked all the same
    users.write_text("".join(f"u{number}:{hashed}\n" for number in range(30)))
    by_file = {"amqtt.plugins.authentication.FileAuthPlugin": {"password_file": str(users)}}
    async with running(kind, plugins=by_file, users_file=users) as port, contextlib.AsyncExitStack() as stack:
        client = await stack.enter_async_context(connected(port, "in", user="u0", password="right"))
        waiting = [await stack.enter_async_context(opened(port)) for _ in range(30)]
        for number, login in enumerate(waiting):
            await login.send(raw_mqtt.connect_packet(f"c{number}", user=f"u{number}", password="right"))
        await asyncio.sleep(0.02)  # let the logins arrive first
        began_s = time.monotonic()
        await client.arrived()
        assert time.monotonic() - began_s < 0.2


@pytest.mark.parametrize(
    "kind", ["embedded", pytest.param("stock", marks=[_stock(strict=False), pytest.mark.slow])]
)
async def test_trap_shutdown_under_traffic_does_not_hang(kind: str) -> None:
    for _ in range(12 if kind == "stock" else 3):
        async with contextlib.AsyncExitStack() as stack:
            if kind == "stock":
                port, process = stack.enter_context(stock_amqtt_process())
            else:
                broker = await stack.enter_async_context(EmbeddedBroker(in_process=True))
                port = broker.port
            clients = [await stack.enter_async_context(connected(port, f"c{number}")) for number in range(10)]
            for client in clients:
                await client.subscribe(("#", 1))

            async def flood(client: raw_mqtt.RawClient) -> None:
                with contextlib.suppress(Ended, ConnectionError):
                    for number in range(100_000):
                        client.writer.write(
                            publish_packet("x", bytes(200), qos=1, packet_id=number % 65_535 + 1)
                        )
                        await asyncio.sleep(0)

            floods = [asyncio.create_task(flood(client)) for client in clients]
            await asyncio.sleep(0.1)
            began_s = time.monotonic()
            if kind == "stock":
                assert process.stdin is not None
                process.stdin.close()
                try:
                    await asyncio.to_thread(process.wait, 5)
                except subprocess.TimeoutExpired:
                    raise AssertionError("it hangs") from None
                finally:
                    for task in floods:
                        task.cancel()
            else:
                await broker.close()
                assert time.monotonic() - began_s < 2
                for task in floods:
                    task.cancel()


@both
async def test_trap_acl_a_plus_does_not_grant_a_hash(kind: str, tmp_path: Path) -> None:
    acl = tmp_path / "acl"
    acl.write_text("topic read cmd/dev1/+\n")
    rows = {"anonymous": ["cmd/dev1/+"]}
    plugins = {**LET_IN, "amqtt.plugins.topic_checking.TopicAccessControlListPlugin": {"acl": rows}}
    async with running(kind, plugins=plugins, acl_file=acl) as port, connected(port) as client:
        assert await client.subscribe(("cmd/dev1/+", 1), ("cmd/dev1/set", 0)) == [1, 0]
        assert await client.subscribe(("cmd/dev1/#", 1)) == [0x80]


@both
async def test_trap_acl_subscribe_and_receive_can_be_ruled(kind: str, tmp_path: Path) -> None:
    acl = tmp_path / "acl"
    acl.write_text("topic subscribe #\ntopic receive open/#\ntopic publish #\n")
    rows = {"subscribe_acl": {"anonymous": ["#"]}, "receive_acl": {"anonymous": ["open/#"]}}
    plugins = {**LET_IN, "amqtt.plugins.topic_checking.TopicAccessControlListPlugin": rows}
    async with running(kind, plugins=plugins, acl_file=acl) as port, connected(port) as client:
        assert await client.subscribe(("#", 1)) == [1]
        await client.publish("closed/x", b"", qos=1)
        await client.publish("open/x", b"", qos=1)
        assert [message.topic for message in await client.arrived()] == ["open/x"]


@both
async def test_trap_mutual_tls_refuses_a_client_without_a_certificate(kind: str, tmp_path: Path) -> None:
    certificates = Certificates(tmp_path)
    listener = {"ssl": True, "cafile": certificates.ca, "certfile": certificates.server,
                "keyfile": key_of(certificates.server)}  # fmt: skip
    ours = {
        "tls_cert": certificates.server,
        "tls_key": key_of(certificates.server),
        "client_ca": certificates.ca,
    }
    async with running(kind, listener=listener, **ours) as port:
        admitted = False
        with contextlib.suppress(Ended, OSError):
            async with connected(port, tls=certificates.client_context()):
                admitted = True
        assert not admitted


@both
async def test_trap_the_default_is_loopback(kind: str) -> None:
    if kind == "stock":
        from amqtt.contexts import BrokerConfig

        assert str(BrokerConfig().listeners["default"].bind).startswith("127.")
    else:
        assert EmbeddedBroker().host == "127.0.0.1"
        with pytest.raises(ConfigError, match="reachable from other machines"):
            await EmbeddedBroker("0.0.0.0", in_process=True).start()


@both
async def test_trap_the_cost_of_a_message_does_not_grow_with_the_filters_of_others(kind: str) -> None:
    async with running(kind) as port, connected(port, "client") as client, connected(port, "other") as other:
        await client.subscribe(("x", 1))

        # Ours is in this process: what others do meanwhile takes none of its time.
        clock = time.process_time if kind == "embedded" else time.perf_counter

        async def took_s() -> float:
            began_s = clock()
            for number in range(50):
                await client.publish("x", b"%d" % number, qos=1)
                await client.received()
            return clock() - began_s

        await took_s()
        alone_s = min([await took_s() for _ in range(3)])
        for start in range(0, 8_000, 500):
            await other.send(
                subscribe_packet(1, *((f"f/{number}", 0) for number in range(start, start + 500)))
            )
            await other.expect(raw_mqtt.SUBACK, 5)
        assert min([await took_s() for _ in range(3)]) < 4 * alone_s
