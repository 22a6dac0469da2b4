"""What is done to a stream of numbered messages in a trial: broker, link, publisher, its outbox's disk.

Each of these functions breaks it once, at a moment that the stream's ``rng`` chooses.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from heron_mqtt.errors import NotReady
from heron_mqtt.testing.faults.stream import NumberedStream
from heron_mqtt.testing.faults.tcp_link import LinkFaults

FULL_BYTES = 65_536
"""What the file of an outbox may have on a disk that is full."""
LAST_MOMENT = 60
"""Messages that a killed program may take with it: 0.3 s of them."""


def broker_killed(stream: NumberedStream) -> None:
    """Kill the broker; it returns and remembers nothing."""
    stream.publish()
    stream.pause(0.1, 0.5)
    stream.broker.kill()
    stream.pause(0.2, 1.5)
    stream.is_over()
    stream.broker.start()
    stream.finish()


def broker_stopped(stream: NumberedStream) -> None:
    """SIGSTOP and SIGCONT the broker."""
    stream.publish()
    _stand_still(stream, stream.broker.signal)


def publisher_stopped(stream: NumberedStream) -> None:
    """SIGSTOP and SIGCONT the publisher."""
    stream.publish()
    assert stream.publisher is not None
    _stand_still(stream, stream.publisher.signal)


def _stand_still(stream: NumberedStream, send_signal: Callable[[signal.Signals], None]) -> None:
    stream.pause(0.1, 0.5)
    send_signal(signal.SIGSTOP)
    stream.pause(0.2, 2.0)
    send_signal(signal.SIGCONT)
    stream.is_over()
    stream.finish()
    _none_lost(stream)


def publisher_killed(stream: NumberedStream) -> None:
    """Kill the publisher; another one takes its place."""
    stream.publish()
    stream.pause(0.1, 0.5)
    _kill_publisher(stream)
    stream.is_over()
    stream.publish()
    stream.finish()


def link_with(make: Callable[[NumberedStream], LinkFaults]) -> Callable[[NumberedStream], None]:
    """Return what carries the stream over a bad link for a while; nothing may be lost of it.

    Args:
        make: What is wrong with the link.
    """

    def disturb(stream: NumberedStream) -> None:
        stream.publish()
        stream.pause(0.1, 0.3)
        stream.link.faults = make(stream)
        stream.pause(0.8, 2.0)
        stream.link.mend()
        stream.is_over()
        stream.finish()
        _none_lost(stream)

    return disturb


def link_reset(stream: NumberedStream) -> None:
    """Reset the connections of publisher and receiver, again and again."""
    stream.publish()
    for _ in range(stream.rng.randrange(1, 4)):
        stream.pause(0.1, 0.6)
        stream.link.reset()
    stream.is_over()
    stream.finish()


def link_half_closed(stream: NumberedStream) -> None:
    """Close one direction of their connections, and then the other one of the next."""
    stream.publish()
    for towards_client in stream.rng.sample([True, False], 2):
        stream.pause(0.2, 0.6)
        stream.link.half_close(towards_client=towards_client)
    stream.is_over()
    stream.finish()


def messages_lost(part: float) -> Callable[[NumberedStream], None]:
    """Return what loses a part of the messages between the publisher and the broker."""

    def lose(stream: NumberedStream) -> None:
        stream.publish("--loss", str(part), "--seed", str(stream.rng.randrange(1 << 30)))
        stream.pause(1.0, 1.5)
        stream.is_over()
        stream.finish()
        if part > 0.1 and not stream.tally.lost:
            stream.tally.break_promise("nothing was lost: the fault was not there")

    return lose


# -- with an outbox --------------------------------------------------------------------------------------


def outbox_bridges(stream: NumberedStream) -> None:
    """Cut the publisher off for a while; it stores its messages in its outbox."""
    stream.publish("--outbox", str(stream.folder / "outbox"))
    _cut_off(stream)
    _end_with_all(stream)


def outbox_and_kill(stream: NumberedStream) -> None:
    """Cut the publisher off, kill it with what waits in its outbox, and start another one."""
    outbox = str(stream.folder / "outbox")
    stream.publish("--outbox", outbox)
    stream.link.faults = LinkFaults(is_refused=True)
    stream.link.reset()
    stream.pause(0.5, 1.5)
    _kill_publisher(stream)
    stream.link.mend()
    stream.is_over()
    stream.publish("--outbox", outbox)
    stream.finish()
    if stream.tally.lost > LAST_MOMENT:
        stream.tally.break_promise(f"{stream.tally.lost} messages went with the process; the last 0.3 s may")


def outbox_full(stream: NumberedStream) -> None:
    """Cut the publisher off while the file of its outbox can grow no more; a longer outage than it holds."""
    stream.publish("--outbox", str(stream.folder / "outbox"), "--file-limit", str(FULL_BYTES))
    _cut_off(stream, least_s=2.0)
    _end_with_trouble(stream)


def outbox_disk_full(stream: NumberedStream) -> None:
    """Fill the file system of the outbox while the publisher is cut off, and free it again."""
    with _small_disk(stream.folder) as disk:
        stream.publish("--outbox", str(disk / "outbox"))
        filler = disk / "filler"
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while file.write(b"x" * 65_536):
                pass
        _cut_off(stream, least_s=2.0)
        filler.unlink()
        _end_with_trouble(stream)


def outbox_read_only(stream: NumberedStream) -> None:
    """Cut a publisher off whose outbox is on a file system that is read-only."""
    with _small_disk(stream.folder) as disk:
        _run("mount", "-o", "remount,ro", str(disk))
        stream.publish("--outbox", str(disk / "outbox"))
        _cut_off(stream, least_s=2.0)
        _end_with_trouble(stream)


def why_no_mount() -> str:
    """Return why no file system can be mounted here; empty: one can."""
    return "" if os.geteuid() == 0 and _can_mount() else "needs the right to mount a file system (root)"


def _can_mount() -> bool:
    done = subprocess.run(["unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", "/mnt"],  # noqa: S607
                          capture_output=True, check=False)  # fmt: skip
    return done.returncode == 0


@contextlib.contextmanager
def _small_disk(folder: Path) -> Iterator[Path]:
    """Mount a file system of 2 MB, and take it away again."""
    disk = folder / "disk"
    disk.mkdir()
    _run("mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk))
    try:
        yield disk
    finally:
        _run("umount", "-l", str(disk))


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - the words above
    if done.returncode:
        raise NotReady(f"{' '.join(command)}: {done.stderr.strip()}")


def _cut_off(stream: NumberedStream, least_s: float = 0.5) -> None:
    stream.link.faults = LinkFaults(is_refused=True)
    stream.link.reset()
    stream.pause(least_s, least_s + 1.0)
    stream.link.mend()
    stream.is_over()


def _end_with_all(stream: NumberedStream) -> None:
    result = stream.finish()
    _none_lost(stream)
    if result and result["waits"]:
        stream.tally.break_promise(f"{result['waits']} messages still wait in the outbox")


def _end_with_trouble(stream: NumberedStream) -> None:
    """What the disk does not take waits in memory: nothing of this is lost, and the failure is counted."""
    result = stream.finish()
    _none_lost(stream)
    if result and not result["stats"]["outbox_errors"]:
        stream.tally.break_promise("the disk failed, and the publisher counted nothing")


def _kill_publisher(stream: NumberedStream) -> None:
    assert stream.publisher is not None
    stream.publisher.process.kill()
    stream.publisher.process.wait()
    time.sleep(0.1)  # what it wrote is read


def _none_lost(stream: NumberedStream) -> None:
    if stream.tally.lost:
        stream.tally.break_promise(f"{stream.tally.lost} messages were lost; none may be")
