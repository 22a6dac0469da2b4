"""How the embedded broker starts, where it listens, and that it always ends."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import pytest

from heron_mqtt.errors import AddressInUse, BrokerClosed, ConfigError, DataError
from heron_mqtt.messaging.embedded import BrokerOptions, EmbeddedBroker, Limits
from support.raw_mqtt import Ended, connected, opened, packet, publish_packet

both_ways = pytest.mark.parametrize("in_process", [True, False], ids=["in_process", "child"])
ENTRY = [sys.executable, "-P", "-m", "heron_mqtt.messaging.embedded"]


async def until(condition: object, what: str, wait_s: float = 5.0) -> None:
    """Wait for a condition, but not for ever."""
    end_s = time.monotonic() + wait_s
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end_s, f"waited {wait_s} s for {what}"
        await asyncio.sleep(0.01)


def is_alive(pid: int) -> bool:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@pytest.mark.usefixtures("fresh_programs")
@both_ways
async def test_start_is_quick_and_the_address_is_known(*, in_process: bool) -> None:
    times_s = []
    for _ in range(3 if in_process else 1):
        broker = EmbeddedBroker(in_process=in_process)
        began_s = time.perf_counter()
        async with broker:
            times_s.append(time.perf_counter() - began_s)
            assert broker.host == "127.0.0.1"
            assert broker.url == f"mqtt://127.0.0.1:{broker.port}"
            async with connected(broker.port):
                pass
    assert min(times_s) < (0.5 if in_process else 5.0)  # a bound; figures: benchmarks/broker.py


@both_ways
async def test_a_port_that_is_taken_is_named(*, in_process: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(AddressInUse, match=f"port {port} on 127.0.0.1 is taken"):
            await EmbeddedBroker(port=port, in_process=in_process).start()
        with pytest.raises(AddressInUse):
            await EmbeddedBroker(websocket_port=port, in_process=in_process).start()


@both_ways
async def test_a_port_can_be_used_again_at_once(*, in_process: bool) -> None:
    async with EmbeddedBroker(in_process=in_process) as broker, connected(broker.port):
        port = broker.port
    async with EmbeddedBroker(port=port, in_process=in_process) as broker:
        assert broker.port == port


async def test_ipv6() -> None:
    broker = EmbeddedBroker("::1", in_process=True)
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:  # a machine without IPv6 is told so
        with pytest.raises(ConfigError, match="cannot listen on ::1"):
            await broker.start()
        return
    async with broker, opened(broker.port, host="::1") as client:
        assert broker.url == f"mqtt://[::1]:{broker.port}"
        assert await client.connect("v6") == 0


@both_ways
async def test_every_wrong_option_is_named_at_once(tmp_path: Path, *, in_process: bool) -> None:
    broker = EmbeddedBroker(
        "0.0.0.0",
        70_000,
        in_process=in_process,
        tls_cert=tmp_path / "none.pem",
        limits=Limits(max_inflight=0, connect_timeout_s=float("nan")),
    )
    with pytest.raises(ConfigError) as caught:
        await broker.start()
    assert [line.partition(":")[0] for line in caught.value.problems] == [
        "limits.connect_timeout_s", "limits.max_inflight", "port", "tls_cert and tls_key", "tls_cert", "host",
    ]  # fmt: skip


@both_ways
async def test_a_wrong_file_is_named_with_its_row(tmp_path: Path, *, in_process: bool) -> None:
    acl = tmp_path / "acl"
    acl.write_text("topic read ok\nnonsense\n")
    with pytest.raises(DataError, match="row 2"):
        await EmbeddedBroker(acl_file=acl, in_process=in_process).start()
    with pytest.raises(ConfigError, match="not a certificate"):
        await EmbeddedBroker(tls_cert=acl, tls_key=acl, in_process=in_process).start()


@both_ways
async def test_a_broker_starts_once_and_closes_any_number_of_times(*, in_process: bool) -> None:
    broker = EmbeddedBroker(in_process=in_process)
    await broker.close()
    await broker.start()
    with pytest.raises(BrokerClosed):
        await broker.start()
    await broker.close()
    await broker.close()
    await asyncio.wait_for(broker.wait_closed(), 1)
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", broker.port)


@both_ways
async def test_close_under_full_traffic_keeps_within_two_seconds(*, in_process: bool) -> None:
    broker = EmbeddedBroker(in_process=in_process)
    await broker.start()
    async with contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(connected(broker.port)) for _ in range(10)]
        for client in clients:
            await client.subscribe(("#", 1))
        stuck = clients[0]
        stuck.writer.transport.pause_reading()  # type: ignore[attr-defined]

        async def flood(number: int) -> None:
            with contextlib.suppress(Ended, ConnectionError):
                while not clients[number].writer.is_closing():
                    await clients[number].send(publish_packet("x", bytes(1000), qos=1, packet_id=number))
                    await asyncio.sleep(0)

        floods = [asyncio.create_task(flood(number)) for number in range(1, 10)]
        await asyncio.sleep(0.3)
        began_s = time.monotonic()
        await broker.close()
        assert time.monotonic() - began_s < 2
        for task in floods:
            task.cancel()
        await asyncio.gather(*floods, return_exceptions=True)


@both_ways
async def test_closing_tells_connected_clients(*, in_process: bool) -> None:
    broker = EmbeddedBroker(in_process=in_process)
    await broker.start()
    async with connected(broker.port) as client:
        closing = asyncio.create_task(broker.close())
        await client.expect_end()
        await closing


@pytest.mark.slow
async def test_two_hundred_cycles_leak_no_descriptor_task_or_memory() -> None:
    async def cycle() -> None:
        async with (
            EmbeddedBroker(in_process=True) as broker,
            connected(broker.port, "c", clean=False) as client,
        ):
            await client.subscribe(("#", 1))
            await client.publish("x", bytes(10_000), qos=1, retain=True)
            await client.received(ack=False)

    def levels() -> tuple[int, int, int]:
        gc.collect()
        return len(asyncio.all_tasks()), len(list(Path("/proc/self/fd").iterdir())), len(gc.get_objects())

    for _ in range(20):
        await cycle()
    tasks, descriptors, objects = levels()
    resident = int(Path("/proc/self/statm").read_text().split()[1])
    for _ in range(180):
        await cycle()
    tasks_after, descriptors_after, objects_after = levels()
    resident_after = int(Path("/proc/self/statm").read_text().split()[1])
    assert tasks_after == tasks
    assert descriptors_after <= descriptors
    assert objects_after - objects < 100
    assert (resident_after - resident) * os.sysconf("SC_PAGE_SIZE") < 4 << 20


async def test_the_child_ends_when_its_parent_is_killed() -> None:
    script = (
        "import asyncio, os, signal\n"
        "from heron_mqtt.messaging.embedded import EmbeddedBroker\n"
        "async def main():\n"
        "    broker = EmbeddedBroker()\n"
        "    await broker.start()\n"
        "    if os.fork() == 0:\n"  # a fork that holds the pipe open must not keep the broker alive
        "        import time; time.sleep(4); os._exit(0)\n"
        "    print(broker.pid, flush=True)\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert is_alive(child)
        parent.kill()
    await until(lambda: not is_alive(child), "the child to end", 3)


async def test_an_unexpected_end_of_the_child_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    ends: list[str] = []
    async with EmbeddedBroker(on_exit=ends.append) as broker:
        pid = broker.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await asyncio.wait_for(broker.wait_closed(), 5)
    assert ends == [line for line in caplog.messages if "ended unexpectedly" in line]
    assert f"process {pid}" in ends[0]
    assert "by signal 9" in ends[0]


async def test_an_end_that_was_asked_for_is_not_reported(caplog: pytest.LogCaptureFixture) -> None:
    ends: list[str] = []
    async with EmbeddedBroker(on_exit=ends.append) as broker:
        pid = broker.pid
    assert ends == []
    assert "unexpected" not in caplog.text
    assert not is_alive(pid or 0)


async def test_a_child_that_hangs_is_killed_within_two_seconds() -> None:
    broker = EmbeddedBroker()
    await broker.start()
    pid = broker.pid or 0
    os.kill(pid, signal.SIGSTOP)
    began_s = time.monotonic()
    await broker.close()
    assert time.monotonic() - began_s < 2
    assert not is_alive(pid)


async def test_a_start_that_is_cancelled_kills_the_child_and_waits_for_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    broker = EmbeddedBroker()
    starting = asyncio.create_task(broker.start())
    await until(lambda: broker.pid is not None, "the child")
    pid = broker.pid
    assert pid is not None
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert not is_alive(pid)
    assert "does not end" not in caplog.text, "it was not waited for"


async def test_ctrl_c_does_not_reach_the_child() -> None:
    async with EmbeddedBroker() as broker:
        assert os.getpgid(broker.pid or 0) != os.getpgid(0)  # a terminal signals the foreground group
        os.kill(broker.pid or 0, signal.SIGINT)
        async with connected(broker.port) as client:
            await client.publish("x", b"", qos=1)


async def test_the_log_of_the_child_appears_in_the_parents(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "heron_mqtt.broker")
    async with EmbeddedBroker() as broker:
        async with connected(broker.port, "seen\nINFO forged") as client:
            await client.disconnect()
        await until(lambda: 'reason="disconnect"' in caplog.text, "the log")
    assert r'connected client="seen\nINFO forged"' in caplog.text
    assert {record.levelname for record in caplog.records} == {"INFO"}


async def test_a_parent_that_does_not_read_the_log_does_not_stop_the_child() -> None:
    options = BrokerOptions(limits=Limits(max_log_lines_per_s=0)).to_json()
    child = await asyncio.create_subprocess_exec(*ENTRY, stdin=-1, stdout=-1, stderr=-1)
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write(options.encode() + b"\n")
    port = int((await asyncio.wait_for(child.stdout.readline(), 60)).rpartition(b":")[2])
    assert child.stderr is not None
    child.stderr._transport.pause_reading()  # type: ignore[attr-defined]
    for _ in range(30):
        async with connected(port, "x" * 60_000) as client:
            await client.send(packet(0xE0, b""))
            await client.expect_end()
    child.stdin.close()
    child.stderr._transport.resume_reading()  # type: ignore[attr-defined]
    await asyncio.wait_for(child.communicate(), 5)
    assert child.returncode == 0


async def test_modules_in_the_current_directory_do_not_replace_the_standard_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("queue", "random", "asyncio", "amqtt"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('not this one')\n")
    monkeypatch.chdir(tmp_path)
    async with EmbeddedBroker() as broker, connected(broker.port):
        pass


def test_the_child_imports_only_what_it_needs() -> None:
    run = subprocess.run(
        [sys.executable, "-X", "importtime", *ENTRY[1:]],
        input=BrokerOptions().to_json().encode() + b"\n",
        capture_output=True,
        check=True,
        timeout=20,
    )
    imported = set(re.findall(r"\| +([\w.]+)$", run.stderr.decode(), re.MULTILINE))
    assert "amqtt.broker" in imported
    heavy = {
        "numpy",
        "pandas",
        "pandapower",
        "scipy",
        "pydantic",
        "rich",
        "typer",
        "gymnasium",
        "paho",
        "argon2",
    }
    assert not heavy & {name.partition(".")[0] for name in imported}
    assert run.stdout.decode().startswith("listening mqtt://127.0.0.1:")


def test_importing_the_package_imports_no_amqtt() -> None:
    code = (
        "import sys, heron_mqtt.messaging.embedded; print([name for name in sys.modules if 'amqtt.' in name])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"[]\n"


@pytest.mark.slow_but("15")  # SIGTERM
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_broker_alone_says_where_it_listens_and_ends_at_a_signal(number: signal.Signals) -> None:
    code = (
        "from heron_mqtt.messaging.embedded.process.foreground import run_broker, run_in_foreground\n"
        "run_in_foreground(lambda: run_broker(port=0, websocket_port=0))\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline().decode()
        assert re.fullmatch(r"listening mqtt://127\.0\.0\.1:\d+ ws://127\.0\.0\.1:\d+\n", line)
        process.send_signal(number)
        began_s = time.monotonic()
        rest, log = process.communicate(timeout=5)
        assert time.monotonic() - began_s < 2
        assert process.returncode == 0
    assert rest == b""
    assert b"Traceback" not in log
    assert b"started url=" in log


async def test_counts_of_a_child_are_read_on_request_and_at_its_end() -> None:
    async with EmbeddedBroker() as broker, connected(broker.port) as client:
        await client.subscribe(("x", 1))
        await client.publish("x", b"", qos=1)
        await client.received()
        stats = await broker.read_stats()
        assert (stats.connects, stats.clients, stats.received, stats.delivered) == (1, 1, 1, 1)
        await client.publish("y", b"", qos=1)
    assert (broker.stats.connects, broker.stats.disconnects, broker.stats.received) == (1, 1, 2)


def test_options_survive_the_way_to_the_child() -> None:
    options = BrokerOptions(websocket_origins=("https://a",), limits=Limits(max_inflight=7))
    assert BrokerOptions.from_json(options.to_json()) == options
    assert json.loads(options.to_json())["limits"]["max_inflight"] == 7


async def test_children_leave_no_descriptor_task_or_process_behind() -> None:
    def levels() -> tuple[int, int]:
        return len(asyncio.all_tasks()), len(list(Path("/proc/self/fd").iterdir()))

    async with EmbeddedBroker():  # what the event loop keeps for its first child
        pass
    before = levels()
    pids = []
    for _ in range(4):
        async with EmbeddedBroker() as broker:
            pids.append(broker.pid or 0)
    assert levels() == before
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_amqtt_is_the_version_whose_private_methods_are_replaced() -> None:
    assert version("amqtt") == "0.12.1", "run tests/embedded with -m '' before moving on"
