"""Fault trials: the registry, what breaks a promise, and the link that is spoiled."""

from __future__ import annotations

import random
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from heron_mqtt.errors import ConfigError
from heron_mqtt.testing.faults import FAULT_TRIALS, HEADINGS, FaultResult, chosen_trials, markdown, sums
from heron_mqtt.testing.faults.network_faults import _compare_losses
from heron_mqtt.testing.faults.programs import Program
from heron_mqtt.testing.faults.tally import FaultTally
from heron_mqtt.testing.faults.tcp_link import LinkFaults, TcpLink
from heron_mqtt.testing.faults.trial_site import COUNTED, SHADOW, TrialSite
from support.rows import each_row


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


@each_row(
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


def test_the_sums_add_up_each_kind_of_fault_on_each_broker() -> None:
    by_name = {trial.name: trial for trial in FAULT_TRIALS}

    def tried(name: str, broker: str, **counts: Any) -> FaultResult:
        return FaultResult(by_name[name], broker, FaultTally(**counts))

    rows = sums(
        [
            tried("kill-run", "mosquitto", tried=3, held_s=0.9, lost=1, outside=1, after_stop=2, to_shadow=3),
            tried(
                "kill-broker", "mosquitto", tried=2, held_s=0.5, lost=4, undetected=5, past_lease=6, hung=1
            ),
            tried("kill-run", "embedded", tried=1),
            tried("stream-kill-broker", "mosquitto", tried=4, lost=10),
            tried("stream-kill-broker", "nats", tried=7, lost=2),
            tried("stop-run", "mosquitto"),
        ]
    ).splitlines()
    killed = by_name["kill-run"].group
    assert rows[0].split(" | ")[-4:] == [*HEADINGS[9:12], "hung |"]
    assert rows[2:] == [
        f"| {killed} | mosquitto | 9 | 0.90 | 15 | 5 | 1 | 6 | 5 | 1 |",
        f"| {killed} | embedded | 1 | - | 0 | 0 | 0 | 0 | 0 | 0 |",
        f"| {killed} | nats | 7 | - | 2 | 0 | - | - | - | 0 |",
        f"| {by_name['stop-run'].group} | mosquitto | 0 | - | 0 | 0 | 0 | 0 | 0 | 0 |",
    ]
    assert all(trial.group for trial in FAULT_TRIALS)


def test_a_program_that_hangs_before_its_first_trial_is_no_trial_left_out() -> None:
    result = FaultResult(FAULT_TRIALS[0], "mosquitto", FaultTally(hung=1))
    assert result.verdict == "BROKEN"
    assert markdown([result]).splitlines()[-1].endswith("| 1 | BROKEN |")


# -- a site's programs, without the site -----------------------------------------------------------------


@pytest.fixture
def site(tmp_path: Path) -> TrialSite:
    """Nothing of it is started."""
    made = TrialSite("embedded", tmp_path, random.Random(1))
    made.shadow = Silent()  # type: ignore[assignment]
    return made


class Silent:
    """The device in shadow, as far as its numbers go."""

    seq = 0
    is_speaking = False


def program(code: str) -> Program:
    return Program([sys.executable, "-c", code])


@pytest.mark.parametrize("name", ["run", "proxy", "battery"])
def test_a_program_that_ends_by_itself_breaks_the_promise_and_one_that_a_trial_ends_does_not(
    site: TrialSite, name: str
) -> None:
    setattr(site, name, program("import time; time.sleep(60)"))
    site.end_program(name)
    site._find_ended()
    assert site.tally.is_kept
    ended = program("raise SystemExit('it is broken')")
    ended.wait()
    setattr(site, name, ended)
    site._find_ended()
    assert (site.tally.broken, getattr(site, name)) == (1, None)
    assert site.tally.notes == [f"{name} ended with 1: ['it is broken\\n']"]


PATIENT = (
    "import signal, sys, time; signal.signal(signal.SIGINT, lambda *_: {}); "
    "print('there', file=sys.stderr, flush=True); time.sleep(60)"
)


@pytest.mark.parametrize(
    ("end", "told"),
    [
        ("sys.exit(130)", "the run ended without a result"),
        ("(print('{}{}'), sys.exit(130))", "the run ended without a result"),
        ("(print('{}'), sys.exit(7))", "the run ended with 7"),
    ],
)
def test_a_run_that_ends_without_its_result_or_with_an_error_breaks_the_promise(
    site: TrialSite, end: str, told: str
) -> None:
    site.run = program(PATIENT.format(end))
    site.run.wait_for("there")
    assert site.end_run(compare=False) == {}
    assert site.tally.broken == 1
    assert site.tally.notes[0].startswith(told)
    assert site.run is None


def test_a_signal_to_what_has_ended_says_what_it_said() -> None:
    ended = program("raise SystemExit('it is broken')")
    ended.wait()
    with pytest.raises(ProcessLookupError, match=r"it ended with 1; it said \['it is broken"):
        ended.signal(signal.SIGINT)


@pytest.mark.parametrize(
    ("result", "told"),
    [
        ({}, "no result"),
        ({"done": 0, "counted": 0}, "the fault was not there"),
        ({"done": 3, "counted": 0}, "the network lost 3 messages, and the run counted none"),
        ({"done": 3, "counted": 1, "known": 97}, "MG3/ess said 100, counted 97"),
        ({"done": 3, "counted": 1, "known": 101}, "MG3/ess said 100, counted 101"),
        ({"done": 3, "counted": 1, "known": 98}, ""),
    ],
)
def test_what_a_network_loses_must_be_counted_also_where_it_loses_little(
    site: TrialSite, result: dict[str, Any], told: str
) -> None:
    site.shadow.seq = 100
    if result:
        device = dict.fromkeys(COUNTED, 0) | {"telemetry": result.get("known", 100)}
        result = {
            "impairment": {"lost": result["done"]},
            "messages": {"lost": result["counted"]},
            "devices": {SHADOW: device},
        }
    _compare_losses(site, result, 0.01)
    assert site.tally.is_kept == (not told)
    assert told in "".join(site.tally.notes)


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
