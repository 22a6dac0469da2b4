"""LockedFile: one process at a time has it, what is written is whole, and it can be forced to the disk."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from heron_mqtt.locked_file import LockedFile


def forked(file: LockedFile) -> int:
    """Fork a process that does nothing until it is killed, and wait until it runs."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writing, b"-1" if file.descriptor < 0 else b"+1")
        signal.pause()
        os._exit(0)
    os.read(reading, 2)
    os.close(reading)
    os.close(writing)
    return pid


@pytest.mark.parametrize("is_inherited", [False, True])
def test_a_forked_process_has_the_lock_only_where_it_is_inherited(tmp_path: Path, is_inherited: bool) -> None:
    path = tmp_path / "file"
    path.touch()
    file = LockedFile(path, is_inherited=is_inherited)
    worker = forked(file)
    try:
        with pytest.raises(BlockingIOError):
            LockedFile(path)
        file.close()
        if is_inherited:
            with pytest.raises(BlockingIOError):
                LockedFile(path)
        else:
            LockedFile(path).close()
    finally:
        os.kill(worker, signal.SIGKILL)
        os.waitpid(worker, 0)
    LockedFile(path).close()


def test_it_is_made_for_this_user_alone_and_no_link_is_followed(tmp_path: Path) -> None:
    path = tmp_path / "of" / "mine" / "file"
    with pytest.raises(FileNotFoundError):
        LockedFile(path)
    LockedFile(path, makes=True).close()
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    link = tmp_path / "link"
    link.symlink_to(path)
    with pytest.raises(OSError, match="link"):
        LockedFile(link, makes=True)
    LockedFile(link).close()  # a record may be one


def test_what_is_written_replaces_what_was_there_and_has_one_size(tmp_path: Path) -> None:
    file = LockedFile(tmp_path / "file", makes=True)
    file.path.write_bytes(b"x" * 100)
    file.rewrite(b"new", 16)
    assert file.path.read_bytes() == file.read(100) == b"new" + 13 * b" "
    assert file.read(2) == b"ne"
    file.close()
    assert not file.is_open


def test_it_is_forced_to_the_disk_with_every_folder_that_was_made_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forced: list[Path] = []
    fsync = os.fsync

    def noting(descriptor: int) -> None:
        forced.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noting)
    file = LockedFile(tmp_path / "of" / "mine" / "file", makes=True)
    file.rewrite(b"new", 16)
    assert not forced, "a lock that no power cut matters to costs no disk anything"
    file.close()
    file.force()
    assert forced == [file.path, file.path.parent, tmp_path / "of", tmp_path]


def test_what_is_too_long_leaves_what_stood_there(tmp_path: Path) -> None:
    file = LockedFile(tmp_path / "file", makes=True)
    file.rewrite(b"before", 8)
    with pytest.raises(OSError, match="9 bytes; expected at most 8"):
        file.rewrite(b"after all", 8)
    assert file.read(100) == b"before  "
    file.close()
