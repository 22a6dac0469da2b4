"""Real-time priorities: who has one, who has not, and what is said where the system does not allow it."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from heron_mqtt import scheduling
from heron_mqtt.errors import ConfigError
from heron_mqtt.scheduling import (
    add_priority_option,
    ordinary_scheduling,
    priority_problem,
    real_time_priority,
    require_priority,
)
from support.real_time import FIFO, ORDINARY, PRIORITY, require_rights, without_limit, without_rights
from support.real_time import scheduling as scheduling_of
from support.rows import each_row

ASK = "from heron_mqtt.scheduling import priority_problem as ask\nprint(ask(40))"


@pytest.fixture
def other() -> Iterator[subprocess.Popen[bytes]]:
    """A process that waits, of a process group of its own."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, process_group=0) as process:
        yield process


@each_row("priority", [-1, 0, 100])
def test_a_number_that_is_no_priority_is_refused(priority: int) -> None:
    assert priority_problem(priority) == f"--priority {priority}: expected 1 to 99"
    with pytest.raises(ConfigError, match="expected 1 to 99"):
        require_priority(priority)


def test_a_system_without_such_priorities_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(scheduling, "_TASKS", tmp_path / "none")
    assert priority_problem(40) == "--priority 40: only Linux has it, with /proc; leave it out"
    ordinary_scheduling()  # nothing to do


def test_nobody_has_one_who_asked_for_none() -> None:
    require_priority(None)
    before = scheduling_of(os.getpid())
    with real_time_priority(None):
        assert scheduling_of(os.getpid()) == before


def test_a_user_without_the_right_is_told_what_it_takes() -> None:
    """Root becomes another user for this, once it has imported what that one may not be able to read."""
    become = "if os.geteuid() == 0: os.setgid(65534), os.setuid(65534)"
    code = f"import os, resource, heron_mqtt.scheduling\n{become}\n{ASK}"
    limited = without_limit([sys.executable, "-c", code])
    done = subprocess.run(limited, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == (
        "--priority 40: not allowed to this user, whose limit is 0: needs root, CAP_SYS_NICE, or a limit of "
        "40: LimitRTPRIO=40 in a systemd unit, rtprio in /etc/security/limits.conf (ulimit -r shows it)\n"
    )


def test_where_the_right_is_there_and_the_system_refuses_the_container_is_named() -> None:
    if os.geteuid() != 0:
        pytest.skip("real-time priorities cannot be had here: not root")
    limited = without_rights([sys.executable, "-c", ASK])
    done = subprocess.run(limited, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == (
        "--priority 40: not allowed here: this container, sandbox or control group gives no real-time "
        "scheduling; allow CAP_SYS_NICE (--cap-add SYS_NICE), or leave it out\n"
    )


def test_asking_whether_it_is_possible_changes_nothing() -> None:
    before = scheduling_of(os.getpid())
    priority_problem(PRIORITY)
    assert scheduling_of(os.getpid()) == before


def test_every_thread_has_it_also_one_that_begins_later_and_none_afterwards() -> None:
    require_rights()
    end = threading.Event()
    threads = [threading.Thread(target=end.wait) for _ in range(2)]
    threads[0].start()
    try:
        with real_time_priority(PRIORITY):
            threads[1].start()
            assert scheduling_of(os.getpid()) == {FIFO}
        assert scheduling_of(os.getpid()) == {ORDINARY}
    finally:
        end.set()
        for thread in threads:
            thread.join()


def test_a_process_of_the_group_has_it_meanwhile_and_no_other_one(other: subprocess.Popen[bytes]) -> None:
    require_rights()
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, process_group=0) as stranger:
        with real_time_priority(PRIORITY, [other.pid]):
            assert scheduling_of(other.pid) == {FIFO}
            assert scheduling_of(stranger.pid) == {ORDINARY}
        assert scheduling_of(other.pid) == {ORDINARY}


def test_a_process_that_has_ended_is_left_out(other: subprocess.Popen[bytes]) -> None:
    require_rights()
    other.kill()
    other.wait()
    with real_time_priority(PRIORITY, [other.pid]):
        assert scheduling_of(os.getpid()) == {FIFO}


def test_it_is_taken_away_after_an_error() -> None:
    require_rights()
    with pytest.raises(ZeroDivisionError), real_time_priority(PRIORITY):
        raise ZeroDivisionError
    assert scheduling_of(os.getpid()) == {ORDINARY}


def test_what_computes_for_long_gives_up_what_it_has_inherited() -> None:
    require_rights()
    found: list[int] = []

    def compute() -> None:
        ordinary_scheduling()
        found.append(os.sched_getscheduler(0))

    with real_time_priority(PRIORITY):
        thread = threading.Thread(target=compute)
        thread.start()
        thread.join()
        assert os.sched_getscheduler(0) == os.SCHED_FIFO
    assert found == [os.SCHED_OTHER]


def test_a_policy_that_takes_less_than_others_is_left_alone() -> None:
    found: list[int] = []

    def compute() -> None:
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
        ordinary_scheduling()
        found.append(os.sched_getscheduler(0))

    thread = threading.Thread(target=compute)
    thread.start()
    thread.join()
    assert found == [os.SCHED_BATCH]


def test_the_option_of_programs_takes_a_number() -> None:
    parser = argparse.ArgumentParser()
    add_priority_option(parser)
    assert parser.parse_args([]).priority is None
    assert parser.parse_args(["--priority", "40"]).priority == 40
