"""Fault trials: the registry, what breaks a promise, and the link that is spoiled."""

from __future__ import annotations

import random
import re
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from heron_mqtt.errors import ConfigError
from heron_mqtt.testing.faults import FAULT_TRIALS, HEADINGS, FaultResult, chosen_trials, markdown
from heron_mqtt.testing.faults.tally import FaultTally
from heron_mqtt.testing.faults.tcp_link import LinkFaults, TcpLink


def test_each_fault_has_a_name_of_its_own_a_promise_and_one_place_where_it_happens() -> None:
    names = [trial.name for trial in FAULT_TRIALS]
    assert len(names) == len(set(names)) > 40
    for trial in FAULT_TRIALS:
        assert re.fullmatch(r"[a-z0-9-]+", trial.name)
        assert trial.what
        assert trial.promise
        assert (trial.at_site is None) != (trial.in_stream is None), trial.name


def test_quick_ones_are_a_part_and_an_unknown_name_is_refused_with_the_known_ones() -> None:
    quick = chosen_trials(None, quick=True)
    assert 5 < len(quick) < len(chosen_trials(None, quick=False)) / 2
    assert [t.name for t in chosen_trials(["replay"], quick=True)] == ["replay"]
    with pytest.raises(ConfigError, match=r"--only kill-nobody: no such fault; expected kill-run, "):
        chosen_trials(["kill-nobody"], quick=False)


@pytest.mark.parametrize(
    "count",
    ["undetected", "outside", "past_lease", "after_stop", "to_shadow", "second_owner", "hung", "broken"],
)
def test_one_of_what_must_not_be_breaks_the_promise(count: str) -> None:
    tally = FaultTally(tried=3, lost=7, held_s=1.0, recovered_s=[3.0, 1.0, 2.0])
    result = FaultResult(FAULT_TRIALS[0], "mosquitto", tally)
    assert (tally.is_kept, result.verdict, tally.median_s, tally.worst_s) == (True, "kept", 2.0, 3.0)
    setattr(tally, count, 1)
    assert (tally.is_kept, result.verdict) == (False, "BROKEN")
    assert result.as_dict()["kept"] is False


def test_the_table_has_a_row_for_each_and_says_why_one_was_not_tried() -> None:
    tried = FaultResult(FAULT_TRIALS[0], "mosquitto", FaultTally(tried=1, lost=4, recovered_s=[0.5]))
    missing = FaultResult(FAULT_TRIALS[1], "nats", why_not="no server")
    _, _, one, other = markdown([tried, missing]).splitlines()
    assert one.count(" | ") == other.count(" | ") == len(HEADINGS) - 1
    assert "| 0.50 / 0.50 | - | 4 | 0 |" in one
    assert other.endswith("| not tried: no server |")


# -- the link --------------------------------------------------------------------------------------------


class Echo:
    """Sends back what it gets; the end of input ends it, and is kept."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.heard_end = threading.Event()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection:
            try:
                while data := connection.recv(4096):
                    connection.sendall(data)
            except OSError:
                return
            self.heard_end.set()
            time.sleep(0.5)


@pytest.fixture
def echo() -> Iterator[Echo]:
    server = Echo()
    yield server
    server.listener.close()


@pytest.fixture
def link(echo: Echo) -> Iterator[TcpLink]:
    made = TcpLink(echo.port, random.Random(1)).start()
    yield made
    made.close()


def connect(link: TcpLink) -> socket.socket:
    return socket.create_connection(("127.0.0.1", link.port), timeout=5.0)


def read(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = connection.recv(size - len(data))
        assert more, f"ended after {data!r}"
        data += more
    return data


@pytest.mark.parametrize("faults", [LinkFaults(), LinkFaults(chop=2), LinkFaults(delay_s=0.05)])
def test_a_link_hands_on_everything_in_order(link: TcpLink, faults: LinkFaults) -> None:
    link.faults = faults
    data = bytes(range(256)) * 20
    begun = time.monotonic()
    with connect(link) as connection:
        connection.sendall(data)
        assert read(connection, len(data)) == data
    assert time.monotonic() - begun >= 2 * faults.delay_s


class FirstPacketLost(random.Random):
    """Dice by which the first packet is lost, once."""

    thrown = 0

    def random(self) -> float:
        self.thrown += 1
        return 0.0 if self.thrown == 1 else 0.9


def test_lost_packets_come_late_and_in_order(echo: Echo) -> None:
    link = TcpLink(echo.port, FirstPacketLost()).start()
    link.faults = LinkFaults(loss=0.5)
    begun = time.monotonic()
    with connect(link) as connection:
        connection.sendall(b"one")
        connection.sendall(b"two")
        assert read(connection, 6) == b"onetwo"
    assert time.monotonic() - begun >= 0.2
    link.close()


def test_a_silent_link_closes_nothing_and_lets_all_go_in_the_end(link: TcpLink) -> None:
    with connect(link) as connection:
        connection.sendall(b"before")
        assert read(connection, 6) == b"before"
        link.faults = LinkFaults(is_silent=True)
        connection.sendall(b"meanwhile")
        connection.settimeout(0.2)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        connection.settimeout(5.0)
        link.mend()
        assert read(connection, 9) == b"meanwhile"


def test_a_reset_is_one(link: TcpLink) -> None:
    with connect(link) as connection:
        connection.sendall(b"x")
        assert read(connection, 1) == b"x"
        link.reset()
        with pytest.raises(ConnectionResetError):
            connection.recv(1)


def test_a_half_closed_link_ends_one_direction_only(link: TcpLink, echo: Echo) -> None:
    with connect(link) as connection:
        connection.sendall(b"x")
        assert read(connection, 1) == b"x"
        link.half_close(towards_client=True)
        assert connection.recv(1) == b""
        assert not echo.heard_end.is_set()
    with connect(link) as connection:
        connection.sendall(b"y")
        assert read(connection, 1) == b"y"
        link.half_close(towards_client=False)
        assert echo.heard_end.wait(5.0)


def test_a_refused_link_ends_what_connects(link: TcpLink) -> None:
    link.faults = LinkFaults(is_refused=True)
    with connect(link) as connection, pytest.raises((ConnectionResetError, AssertionError)):
        read(connection, 1)
