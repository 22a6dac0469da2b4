"""What a supervisor hears of a program: ready once, alive as long as its event loop turns, stopping."""

from __future__ import annotations

import asyncio
import os
import socket
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from heron_mqtt.service_manager import ServiceManager


class Supervisor:
    """A socket as systemd's, and what came to it."""

    def __init__(self, name: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(f"\0{name[1:]}" if name.startswith("@") else name)
        self.socket.setblocking(False)
        self.environment = {"NOTIFY_SOCKET": name, "HOME": "/"}

    def heard(self) -> list[str]:
        told = []
        while True:
            try:
                told.append(self.socket.recv(4096).decode())
            except BlockingIOError:
                return told


@pytest.fixture(params=["path", "abstract"])
def supervisor(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Supervisor]:
    name = str(tmp_path / "notify") if request.param == "path" else f"@heron-{uuid.uuid4().hex}"
    made = Supervisor(name)
    yield made
    made.socket.close()


def test_ready_stopping_and_status_are_told(supervisor: Supervisor) -> None:
    now_s = 0.0
    service = ServiceManager(supervisor.environment, lambda: now_s)
    service.tell_status("too early")
    service.tell_ready("every agent\nis there")
    service.tell_ready("again")
    service.tell_status("step 1")
    service.tell_status("step 2, at once")
    now_s = 1.0
    service.tell_status("step 9")
    service.tell_stopping()
    service.tell_stopping()
    told = ["READY=1\nSTATUS=every agent is there", "STATUS=step 1", "STATUS=step 9", "STOPPING=1"]
    assert supervisor.heard() == told


async def test_it_says_that_it_lives_while_its_loop_turns_and_no_more_when_that_is_blocked(
    supervisor: Supervisor,
) -> None:
    supervisor.environment |= {"WATCHDOG_USEC": "100000", "WATCHDOG_PID": str(os.getpid())}
    service = ServiceManager(supervisor.environment)
    with service.heartbeat(asyncio.get_running_loop()):
        assert service.watchdog_s == pytest.approx(0.1)
        await asyncio.sleep(0.3)
        assert supervisor.heard().count("WATCHDOG=1") >= 3
        time.sleep(0.3)  # what blocks the loop
        assert supervisor.heard() == []
        await asyncio.sleep(0.06)
        assert "WATCHDOG=1" in supervisor.heard()
    await asyncio.sleep(0.1)
    assert supervisor.heard() == ["STOPPING=1"]


async def test_a_watchdog_of_another_process_is_not_ours(supervisor: Supervisor) -> None:
    supervisor.environment |= {"WATCHDOG_USEC": "100000", "WATCHDOG_PID": "1"}
    service = ServiceManager(supervisor.environment)
    with service.heartbeat(asyncio.get_running_loop()):
        assert service.watchdog_s is None
        await asyncio.sleep(0.1)
    assert supervisor.heard() == ["STOPPING=1"]


def test_children_do_not_inherit_the_socket(supervisor: Supervisor) -> None:
    supervisor.environment |= {"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": str(os.getpid())}
    service = ServiceManager(supervisor.environment)
    assert service.watchdog_s == 1.0
    assert supervisor.environment == {"HOME": "/"}
    service.tell_ready("still there")
    assert supervisor.heard() == ["READY=1\nSTATUS=still there"]


@pytest.mark.parametrize("usec", ["", "0", "-5", "soon"])
async def test_a_watchdog_that_is_no_time_is_none(supervisor: Supervisor, usec: str) -> None:
    supervisor.environment["WATCHDOG_USEC"] = usec
    assert ServiceManager(supervisor.environment).watchdog_s is None


def test_without_a_supervisor_or_with_one_that_is_gone_nothing_happens(tmp_path: Path) -> None:
    for environment in ({}, {"NOTIFY_SOCKET": str(tmp_path / "gone")}):
        service = ServiceManager(environment)
        service.tell_ready("hello")
        service.tell_stopping()
