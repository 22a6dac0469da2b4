"""Succession: whose leases a gateway that was started again may take, and who keeps it from that."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from heron_mqtt.errors import ConfigError, NameTaken
from heron_mqtt.field.gateway.succession import Succession, machine_run

HERE = "this machine, this run"
REMEMBERED_BOOTS = 64
FILE_BYTES = 8_192


def start(folder: Path, machine: str | None = HERE, agent: str = "MG1") -> Succession:
    return Succession(folder, "env", agent, machine)


def lived(folder: Path, *boots: str) -> Path:
    """Let gateways start and die one after the other; return their file."""
    for boot in boots:
        with closing(start(folder)) as one:
            one.begin(boot)
    return one.path


def has_open(pid: int, path: Path) -> int:
    """Return how often a process has a file open."""
    return sum(os.path.realpath(link) == str(path) for link in Path(f"/proc/{pid}/fd").iterdir())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "state"


def test_a_first_start_has_no_predecessors_and_nothing_to_complain_of(folder: Path) -> None:
    with closing(start(folder)) as first:
        assert (first.predecessors, first.why_none) == (frozenset(), "")
    with closing(start(folder)) as second:
        assert second.predecessors == frozenset(), "one that has begun nothing has left no lease"


def test_the_file_is_its_owners_alone_in_a_folder_that_is_made_and_is_named_after_the_agent(
    folder: Path,
) -> None:
    deep = folder / "of" / "a" / "site"
    agent = "MG-1/" + "x" * 40
    with closing(start(deep, agent=agent)) as one:
        assert deep.stat().st_mode & 0o777 == 0o700
        assert one.path.stat().st_mode & 0o777 == 0o600
        assert re.fullmatch(rf"gateway-MG_1_{'x' * 27}-[0-9a-f]{{16}}\.json", one.path.name)
        assert one.path.parent == deep
    with (
        closing(start(deep, agent=f"{agent}y")) as other,
        closing(Succession(deep, "lab", agent, HERE)) as lab,
    ):
        assert len({one.path, other.path, lab.path}) == 3, "whatever is cut of the name"


def test_every_start_since_is_a_predecessor_also_one_that_was_killed_before_it_could_send(
    folder: Path,
) -> None:
    lived(folder, "a", "b")
    with closing(start(folder)) as third:
        assert third.predecessors == {"a", "b"}
        third.begin("c")
        assert third.predecessors == {"a", "b"}, "not itself"
    with closing(start(folder, agent="MG2")) as other:
        assert other.predecessors == frozenset()


def test_the_number_of_predecessors_is_bounded_and_the_newest_count(folder: Path) -> None:
    path = lived(folder, *(f"{i:08x}" for i in range(REMEMBERED_BOOTS + 5)))
    with closing(start(folder)) as last:
        assert len(last.predecessors) == REMEMBERED_BOOTS
        assert f"{REMEMBERED_BOOTS + 4:08x}" in last.predecessors
    assert path.stat().st_size == FILE_BYTES


def test_longest_names_fit_the_file(folder: Path) -> None:
    agent = "\N{SNOWMAN}" * 200
    for boot in [f"{i:08x}" for i in range(REMEMBERED_BOOTS)]:
        with closing(Succession(folder, agent, agent, HERE)) as one:
            one.begin(boot)
    with closing(Succession(folder, agent, agent, HERE)) as last:
        assert len(last.predecessors) == REMEMBERED_BOOTS


def test_the_second_of_two_on_one_machine_is_refused_and_told_by_whom(folder: Path) -> None:
    with closing(start(folder)) as first:
        first.begin("a")
        with pytest.raises(NameTaken, match=rf"agent MG1 .* pid {os.getpid()} .*has not ended.*is locked"):
            start(folder)
        if sys.platform == "linux":
            assert has_open(os.getpid(), first.path) == 1, "who is refused leaves nothing open"
        with closing(start(folder, agent="MG2")):
            pass
    with closing(start(folder)) as next_one:
        assert next_one.predecessors == {"a"}


def program(code: str, folder: Path, stderr: int | None = None) -> subprocess.Popen[str]:
    """Start a program that has the file of a folder until its input ends."""
    return subprocess.Popen(
        [sys.executable, "-c", code, str(folder), HERE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
    )


KEEPS_IT = """
import sys, pathlib
from heron_mqtt.field.gateway.succession import Succession
one = Succession(pathlib.Path(sys.argv[1]), "env", "MG1", sys.argv[2])
one.begin("a")
print("has it", flush=True)
sys.stdin.read()
"""


def test_a_paused_program_is_alive_and_a_killed_one_is_a_predecessor(folder: Path) -> None:
    holder = program(KEEPS_IT, folder)
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "has it\n"
        holder.send_signal(signal.SIGSTOP)
        with pytest.raises(NameTaken, match=f"pid {holder.pid} "):
            start(folder)
        holder.kill()
        holder.wait()
        with closing(start(folder)) as successor:
            assert successor.predecessors == {"a"}


FORKS_A_WORKER = """
import os, pathlib, sys, time
from heron_mqtt.field.gateway.succession import Succession
one = Succession(pathlib.Path(sys.argv[1]), "env", "MG1", sys.argv[2])
one.begin("a")
if os.fork() == 0:
    one.begin("the worker")
    print(os.getpid(), flush=True)
    time.sleep(60)
    os._exit(0)
sys.stdin.read()
"""


def test_a_worker_that_was_forked_takes_no_lock_with_it_and_none_away(folder: Path) -> None:
    parent = program(FORKS_A_WORKER, folder, stderr=subprocess.DEVNULL)
    with parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        try:
            if sys.platform == "linux":
                (path,) = folder.iterdir()
                assert has_open(parent.pid, path)
                assert not has_open(worker, path)
            with pytest.raises(NameTaken, match=f"pid {parent.pid} "):
                start(folder)
            parent.kill()
            parent.wait()
            os.kill(worker, 0)  # it outlives its parent
            with closing(start(folder)) as successor:
                assert successor.predecessors == {"a"}
        finally:
            os.kill(worker, signal.SIGKILL)


def test_a_file_of_another_machine_or_of_before_a_restart_of_this_one_names_no_predecessor(
    folder: Path,
) -> None:
    lived(folder, "a")
    with closing(start(folder, "another machine, or run")) as other:
        assert other.predecessors == frozenset()
        assert "another machine, or before this one was switched on" in other.why_none
        other.begin("b")
    with closing(start(folder)) as back:
        assert back.predecessors == frozenset(), "it is the other one's now"


def test_where_no_machine_can_be_told_from_another_there_are_no_predecessors(folder: Path) -> None:
    lived(folder, "a")
    with closing(start(folder, None)) as unknown:
        assert unknown.predecessors == frozenset()
        assert unknown.why_none == "this system cannot tell whether the process that wrote it is dead"
        unknown.begin("b")


@pytest.mark.parametrize("copies", ["folder", "file"])
def test_a_copy_names_no_predecessor(folder: Path, copies: str) -> None:
    path = lived(folder, "a")
    if copies == "folder":
        shutil.copytree(folder, folder.with_name("copy"))
    else:
        folder.with_name("copy").mkdir()
        shutil.copy2(path, folder.with_name("copy") / path.name)
    with closing(start(folder.with_name("copy"))) as copied, closing(start(folder)) as own:
        assert (copied.predecessors, copied.why_none) == (frozenset(), "it is a copy")
        assert own.predecessors == {"a"}


def test_a_file_that_was_renamed_to_another_agents_names_no_predecessor(folder: Path) -> None:
    path = lived(folder, "a")
    with closing(start(folder, agent="MG2")) as other:
        there = other.path
    path.rename(there)
    with closing(start(folder, agent="MG2")) as other:
        assert (other.predecessors, other.why_none) == (frozenset(), "it is another agent's")


@pytest.mark.parametrize("mode", [0o620, 0o602])
def test_a_file_that_others_may_write_to_names_no_predecessor(folder: Path, mode: int) -> None:
    path = lived(folder, "a")
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(mode)
    with closing(start(folder)) as successor:
        assert successor.predecessors == frozenset()
        assert "others may write to it" in successor.why_none


@pytest.mark.parametrize("mode", [0o664, 0o606])
def test_a_file_that_others_could_write_to_is_our_own_again_after_the_next_start(
    folder: Path, mode: int
) -> None:
    path = lived(folder, "a")
    path.chmod(mode)
    lived(folder, "b")
    assert path.stat().st_mode & 0o777 == 0o600
    with closing(start(folder)) as next_one:
        assert (next_one.predecessors, next_one.why_none) == ({"b"}, "")


def test_a_file_of_another_user_that_cannot_be_opened_is_named_in_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = lived(folder, "a")
    real = os.open

    def refused(name: object, *rest: object) -> int:
        if name == path:
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(name, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", refused)
    with pytest.raises(ConfigError, match=rf"{path.name} cannot be used there: Permission denied"):
        start(folder)


def test_a_file_of_another_user_names_no_predecessor(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lived(folder, "a")
    ours = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: ours + 1)
    with closing(start(folder)) as successor:
        assert successor.predecessors == frozenset()
        assert "another user's" in successor.why_none
        successor.path.chmod(0o620)
        successor.begin("b")
        assert successor.path.stat().st_mode & 0o777 == 0o620, "it is not ours to mend"


def test_a_file_that_was_removed_while_its_owner_lives_leads_to_no_predecessor(folder: Path) -> None:
    with closing(start(folder)) as first:
        first.begin("a")
        first.path.unlink()
        with closing(start(folder)) as second:  # the agent's name at the broker keeps it out
            assert second.predecessors == frozenset()


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"[" * 5000,
        b"null",
        b"{}",
        b"\xff\xfe",
        b'{"boots": ["a"]}',
        b"\0" * FILE_BYTES,
        b"x" * 3 * FILE_BYTES,
    ],
    ids=lambda data: repr(data[:12]),
)
def test_a_damaged_file_names_no_predecessor_and_is_mended(folder: Path, content: bytes) -> None:
    path = lived(folder, "a")
    path.write_bytes(content)
    with closing(start(folder)) as successor:
        assert (successor.predecessors, successor.why_none) == (frozenset(), "it is damaged")
        successor.begin("b")
    with closing(start(folder)) as next_one:
        assert (next_one.predecessors, next_one.why_none) == ({"b"}, "")


@pytest.mark.parametrize(
    ("field", "value"), [("boots", "a"), ("boots", ["x" * 65]), ("inode", "1"), ("who", None), ("x", 1)]
)
def test_a_field_of_another_kind_is_damage(folder: Path, field: str, value: object) -> None:
    path = lived(folder, "a")
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))
    with closing(start(folder)) as successor:
        assert (successor.predecessors, successor.why_none) == (frozenset(), "it is damaged")


def test_a_file_that_is_longer_than_any_that_was_written_is_damage(folder: Path) -> None:
    path = lived(folder, "a")
    path.write_bytes(path.read_bytes() + b" ")
    with closing(start(folder)) as successor:
        assert (successor.predecessors, successor.why_none) == (frozenset(), "it is damaged")


@pytest.mark.parametrize("what", ["file", "link", "fifo"])
def test_a_folder_that_cannot_be_used_is_named_in_one_line(folder: Path, what: str) -> None:
    if what == "file":
        folder.write_text("")
    else:
        path = lived(folder, "a")
        path.unlink()
        if what == "link":
            path.symlink_to(folder / "elsewhere")
        else:
            os.mkfifo(path)
    with pytest.raises(ConfigError, match=r"gateway-MG1-\w+\.json ") as raised:
        start(folder)
    assert len(raised.value.problems) == 1
    if what == "fifo" and sys.platform == "linux":
        assert has_open(os.getpid(), path) == 0


def test_a_full_disk_keeps_no_gateway_from_working(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with closing(start(folder)) as one:
        monkeypatch.setattr(os, "pwrite", full)
        one.begin("a")
    assert "No space left on device" in caplog.text
    assert "waits for the end of its leases" in caplog.text


def test_this_machine_has_a_name_that_does_not_change_while_it_is_on() -> None:
    assert machine_run() == machine_run()
    if sys.platform == "linux":
        assert machine_run()
