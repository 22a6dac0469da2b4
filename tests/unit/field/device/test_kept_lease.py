"""KeptLease: what the next program of a device's name finds on its machine, whatever its broker is."""

from __future__ import annotations

import asyncio
import os
import signal
import threading

import pytest

from heron_mqtt.field.device.kept_lease import KeptLease
from heron_mqtt.field.device.lease import Holder
from heron_mqtt.field.state_directory import state_directory
from heron_mqtt.locked_file import LockedFile
from support.clocked_device import ESS, ClockedSite, serve
from support.disk import Disk, soon
from support.field_rig import OpenMemoryBroker

LEASE = f"{ESS}/lease"
HOLDER = Holder("MG1", "g1")


def test_taking_and_release_are_forced_to_the_disk_and_no_setpoint_between(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    disk = Disk(monkeypatch)

    async def test(site: ClockedSite) -> None:
        site.send(0.1)
        await asyncio.sleep(0.1)
        soon(lambda: disk.files == 1, "the disk to have who took it")
        assert state_directory() / "leases" in disk.forced
        for _ in range(5):
            site.send(0.2)
            site.send(0.0, renewal=True)
            await asyncio.sleep(0.1)
        assert disk.files == 1
        site.send(0.0, release=True)
        await asyncio.sleep(0.1)
        soon(lambda: disk.files == 2, "the disk to have that it is free")

    serve(test)


def test_a_disk_that_hangs_holds_up_neither_setpoint_nor_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(monkeypatch)
    disk.works.clear()
    before = set(threading.enumerate())

    async def test(site: ClockedSite) -> None:
        for boot in ("g1", "g2", "g3", "g4"):
            site.send(0.1, boot=boot, take_over=True)
            await asyncio.sleep(0.1)
        site.stop()
        await asyncio.sleep(0.1)
        assert [what for what, _ in site.device.done] == [*4 * ["apply"], "safe"]
        begun = set(threading.enumerate()) - before
        assert [thread.name for thread in begun] == [f"disk {LEASE}"]
        disk.works.set()
        soon(lambda: disk.files == 2, "what was written since to be forced, in one")

    serve(test)


def test_the_end_of_a_device_writes_what_it_leaves_once(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[bytes] = []
    rewrite = LockedFile.rewrite

    def noted(file: LockedFile, content: bytes, size: int) -> None:
        written.append(content)
        rewrite(file, content, size)

    monkeypatch.setattr(LockedFile, "rewrite", noted)

    async def test(site: ClockedSite) -> None:
        site.send(0.1)
        await asyncio.sleep(0.1)
        assert len(written) == 1
        assert site.running is not None
        site.running.cancel()
        await asyncio.gather(site.running, return_exceptions=True)

    serve(test)
    assert [b"MG1" in content for content in written] == [True, False]


def test_a_thread_that_cannot_begin_is_no_file_that_cannot_be_written_and_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    disk = Disk(monkeypatch)
    kept = KeptLease(LEASE)
    with monkeypatch.context() as full:

        def start(thread: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        full.setattr(threading.Thread, "start", start)
        for _ in range(2):
            kept.save(HOLDER)
    [line] = caplog.messages
    assert f"({LEASE}): cannot be forced to the disk: can't start new thread: after a power cut, " in line
    assert (kept.load(), disk.files) == ((HOLDER,), 0)
    kept.save(HOLDER)
    soon(lambda: disk.files == 1, "the disk to have it")
    kept.close()


def test_what_a_program_left_at_one_broker_is_known_to_the_next_at_another() -> None:
    """An embedded broker has a new port with each start; the hardware is the same."""
    kept = KeptLease(OpenMemoryBroker().topic_of(LEASE))
    kept.save(HOLDER)
    kept.close()

    async def starts(site: ClockedSite) -> None:
        await asyncio.sleep(0.1)
        assert ("safe", "an earlier program ended while it held the device") in site.device.done

    serve(starts)  # at a broker of its own


def test_what_was_left_at_another_site_stays_until_one_of_that_site_has_brought_it_to_rest() -> None:
    def program(site: str) -> KeptLease:
        return KeptLease(LEASE, site)

    plant = program("plant.lan")
    plant.save(HOLDER)
    plant.close()  # killed
    for expected in (HOLDER, None):  # a bench beside it heeds it once, drives its own, and ends in order
        bench = program("")
        assert bench.load() == (expected,)
        bench.save(Holder("MG1", "bench"))
        bench.save(None)
        bench.close()
    again = program("plant.lan")
    assert again.load() == (HOLDER,)
    again.save(None)
    again.close()
    for site in ("plant.lan", "", "another"):
        later = program(site)
        assert later.load() == (None,)
        later.close()


def test_a_program_that_has_not_looked_keeps_what_was_left_at_another_site() -> None:
    plant = KeptLease(LEASE, "plant.lan")
    plant.save(HOLDER)
    plant.close()
    bench = KeptLease(LEASE)
    bench.save(None)
    bench.close()
    assert KeptLease(LEASE, "plant.lan").load() == (HOLDER,)


def test_names_as_long_as_they_may_be_leave_room_for_the_newest_of_several_sites() -> None:
    longest = Holder("\u4e2d" * 200, "\u00e9" * 200)
    for site in ("plant.lan", "bench.lan", "other.lan", ""):
        kept = KeptLease(LEASE, site)
        kept.save(longest)
        kept.close()
    for site in ("bench.lan", "other.lan", ""):
        kept = KeptLease(LEASE, site)
        assert kept.load() == (longest,)
        kept.close()


def test_what_has_no_room_any_more_is_named_with_its_site(caplog: pytest.LogCaptureFixture) -> None:
    for site in ("plant.lan", "b.lan", "c.lan", "d.lan", "", "f.lan"):
        assert caplog.messages == []
        kept = KeptLease(LEASE, site)
        kept.save(HOLDER)
        kept.close()
    [line] = caplog.messages
    assert (
        f"({LEASE}): what a program left driven beside the broker at plant.lan has no room in it any more: "
        "at that site, the next program knows by the broker alone whether the device was driven"
    ) in line
    again = KeptLease(LEASE, "plant.lan")
    assert again.load() == (HOLDER,), "what others left is heeded"
    again.save(None)
    assert "at b.lan has no room" in caplog.messages[-1], "of five others"
    again.close()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('{"state": "held", "holder": "MG1", "boot": "g1"}', (HOLDER,)),
        ('{"state": "free"}', (None,)),
        ("[]", None),
        ("null", None),
        ('{"left": []}', None),
        ('{"left": {"": 5}}', None),
        ("{", None),
    ],
)
def test_a_file_of_an_earlier_version_is_read_and_a_damaged_one_is_not_known(
    content: str, expected: tuple[Holder | None] | None, caplog: pytest.LogCaptureFixture
) -> None:
    kept = KeptLease(LEASE, "plant.lan")
    kept.save(None)
    kept.close()
    next((state_directory() / "leases").iterdir()).write_text(content)
    assert kept.load() == expected
    assert ("cannot be read" in caplog.text) is (expected is None)
    kept.save(None)
    assert kept.load() == (None,)
    kept.close()


def test_of_two_programs_of_one_name_at_two_brokers_the_second_says_what_it_cannot_keep(
    caplog: pytest.LogCaptureFixture,
) -> None:
    first = KeptLease(LEASE)
    first.save(HOLDER)

    async def test(site: ClockedSite) -> None:
        for seq in range(3):
            site.send(0.1 * seq)
            await asyncio.sleep(0.1)

    try:
        serve(test)
        assert first.load() == (HOLDER,), "it is the first one's"
    finally:
        first.close()
    [line] = [text for text in caplog.messages if "lives on this machine" in text]
    assert f"({LEASE}): another program of this name" in line
    assert "use names of their own for two devices" in line


def test_a_worker_that_a_killed_program_had_forked_does_not_keep_its_lease_from_the_next() -> None:
    kept = KeptLease(LEASE)
    kept.save(HOLDER)
    reading, writing = os.pipe()
    worker = os.fork()
    if worker == 0:
        os.write(writing, b".")
        signal.pause()
        os._exit(0)
    try:
        os.read(reading, 1)
        kept.close()  # as the system does for a process that was killed
        later = KeptLease(LEASE)
        assert later.load() == (HOLDER,)
        later.close()
    finally:
        os.kill(worker, signal.SIGKILL)
        os.waitpid(worker, 0)
        os.close(reading)
        os.close(writing)
