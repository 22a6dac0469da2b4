"""Whether hardware was left driven, in a file: a broker that was restarted may have lost it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from pathlib import Path
from typing import Any, NamedTuple

from heron_mqtt.field.device.lease import Holder
from heron_mqtt.field.state_directory import state_directory
from heron_mqtt.forced_files import DiskThread
from heron_mqtt.locked_file import CAN_LOCK, LockedFile

log = logging.getLogger("heron_mqtt.device")

FILE_BYTES = 4_096


MOST_SITES = 4
UNKNOWN_SITE = "?"  # of what an earlier version has written


class _Left(NamedTuple):
    """What a program left.

    Attributes:
        holder: Whose setpoint the hardware had.
        rested: The other sites at which hardware was at rest since.
    """

    holder: Holder
    rested: tuple[str, ...]

    def seen_at_rest(self, site: str) -> _Left:
        """Return the same, where hardware was at rest at one more site."""
        return self._replace(rested=tuple(dict.fromkeys((*self.rested, site)))[-MOST_SITES:])


def _left_in(told: Any) -> dict[str, _Left]:
    """Return what programs left, by site.

    Raises:
        ValueError: A file holds something else.
    """
    if not isinstance(told, dict) or not ("left" in told or told.get("state") in {"free", "held"}):
        raise ValueError("expected an object with what programs left, by site")
    if "left" not in told:
        held = told["state"] == "held"
        return {UNKNOWN_SITE: _Left(Holder(told["holder"], told["boot"]), ())} if held else {}
    return {
        site: _Left(Holder(each["holder"], each["boot"]), tuple(each["rested"]))
        for site, each in told["left"].items()
    }


def _written(left: dict[str, _Left]) -> bytes:
    """Return what programs left as it stands in the file; see ``_left_in``."""
    told = {
        site: {"holder": each.holder.sender, "boot": each.holder.boot, "rested": each.rested}
        for site, each in left.items()
    }
    return json.dumps({"left": told}, ensure_ascii=False).encode()


class KeptLease:
    """What a device says of its lease, kept for the next program of its name on this machine.

    The file is locked while a program uses it. The entry of a program that is alive counts for no other.

    It is named after the device and not after its broker. A program that starts again may find its device at
    another one, as a site's broker has a new address. Hardware that it took for another device's would be
    left driven; hardware that is another device's after all is only brought to rest, once. But an entry of a
    program at another site stays in the file until a program of that site has brought the device to rest. The
    plant's device may have been killed while a test bench on the same machine runs a device of the same name.

    Args:
        topic: The whole topic of the lease: it names environment and device.
        site: Where its broker is, as ``MessageBroker.site``.
    """

    def __init__(self, topic: str, site: str = "") -> None:
        self._topic = topic
        self._site = site
        self._left: dict[str, _Left] = {}  # by site
        self._is_read = False
        self._name = f"{hashlib.sha256(topic.encode()).hexdigest()[:32]}.json"
        self._file: LockedFile | None = None
        self._written: bytes | None = None  # what this program has written to the file that is open
        self._reported: set[str] = set()
        self._disk = DiskThread(f"disk {topic}", self._report_unforced)

    def load(self) -> tuple[Holder | None] | None:
        """Return whose setpoint the last program left in the hardware, alone in a tuple; None = not known."""
        try:
            file = self._opened() if self._path.is_file() else None
            if file is None or not file.read(FILE_BYTES).strip():
                return None
            self._read(file)
            own = self._left.get(self._site)
            foreign = (left for left in self._left.values() if self._site not in left.rested)
            found = own or next(foreign, None)
            return (None if found is None else found.holder,)
        except (OSError, RuntimeError, ValueError, TypeError, KeyError, AttributeError) as exc:
            self._report("cannot be used", f"cannot be read: {exc}")
            return None

    def save(self, holder: Holder | None) -> None:
        """Keep whose setpoint the hardware has; None = nobody's. A failure is reported once.

        It is there for the next program at once. A thread forces it to the disk, for a power cut. This takes
        some milliseconds. If the disk hangs, no lease and no stop waits for it.
        """
        try:
            file = self._opened()
            if file is not None and not self._is_read:  # what it holds of other sites stays
                with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError):
                    self._read(file)
            before = [site for site in self._left if site != UNKNOWN_SITE]
            told = self._told(holder)
            if file is not None:
                if told == self._written:
                    return
                file.rewrite(told, FILE_BYTES)
                self._written = told
                self._report_left_out([site for site in before if site not in {*self._left, self._site}])
                if not self._disk.do(file.force):
                    self._written = None  # it is not done: saving the same again is not too much
            elif holder is not None and CAN_LOCK:
                what = "another program of this name lives on this machine, and has it locked"
                self._report(what, f"{what}: end that one, or use names of their own for two devices")
        except (OSError, RuntimeError) as exc:
            self._report("cannot be used", f"cannot be written: {exc}")

    def _read(self, file: LockedFile) -> None:
        self._is_read = True
        self._left = _left_in(json.loads(file.read(FILE_BYTES)))

    def _told(self, holder: Holder | None) -> bytes:
        """Return what the file is to hold: what is left here, and what is left at other sites.

        Of more than it has room for, those that were written first are left out. A site at which hardware was
        at rest, and that is left out of such a list, only brings it to rest once more.
        """
        for site in (self._site, UNKNOWN_SITE):
            self._left.pop(site, None)
        others = [*self._left.items()][-MOST_SITES:]
        if holder is None:  # the hardware rests
            others = [(site, left.seen_at_rest(self._site)) for site, left in others]
        own = {} if holder is None else {self._site: _Left(holder, ())}
        for first in range(len(others) + 1):
            self._left = {**dict(others[first:]), **own}
            if len(told := _written(self._left)) <= FILE_BYTES:
                break
        return told

    def close(self) -> None:
        """Let another program have the file. Idempotent."""
        if self._file is not None:
            self._file.close()

    @property
    def _path(self) -> Path:
        return state_directory() / "leases" / self._name

    def _opened(self) -> LockedFile | None:
        """Return the file, locked; None = another program may live, and use it."""
        if self._file is None or not self._file.is_open:
            if not CAN_LOCK:  # then it is not known whether the program that wrote it still lives
                return None
            try:
                self._file = LockedFile(self._path, makes=True)
            except BlockingIOError:
                return None
            self._written = None
        return self._file

    def _report_left_out(self, sites: list[str]) -> None:
        for site in sites:
            at = f"the broker at {site}" if site else "a broker on this machine"
            what = f"what a program left driven beside {at} has no room in it any more"
            self._report(f"left out: {site}", what, "at that site")

    def _report_unforced(self, exc: Exception) -> None:
        self._report("cannot be forced", f"cannot be forced to the disk: {exc}", "after a power cut")

    def _report(self, kind: str, what: str, when: str = "after a kill") -> None:
        if kind in self._reported:
            return
        self._reported.add(kind)
        where: Path | str = self._name
        with contextlib.suppress(RuntimeError):  # no home directory
            where = self._path
        log.warning(
            "%s (%s): %s: %s, the next program knows by the broker alone whether the device was driven",
            *(where, self._topic, what, when),
        )
