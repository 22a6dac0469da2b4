"""Whether hardware was left driven, in a file: a broker that was restarted may have lost it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import threading
from pathlib import Path
from typing import Any

from heron_mqtt.field.device.lease import Holder
from heron_mqtt.field.state_directory import state_directory
from heron_mqtt.locked_file import CAN_LOCK, LockedFile

log = logging.getLogger("heron_mqtt.device")

FILE_BYTES = 4_096


class KeptLease:
    """What a device says of its lease, kept for the next program of its name on this machine.

    The file is locked while a program uses it. What a program that lives has written counts for nobody else.

    It is named after the device and not after its broker. A program that starts again may find its device at
    another one: an embedded broker has a new port, a site's a new address. Hardware that it took for another
    device's would be left driven; hardware that is another device's after all is only brought to rest.

    Args:
        topic: The whole topic of the lease: it names environment and device.
    """

    def __init__(self, topic: str) -> None:
        self._topic = topic
        self._name = f"{hashlib.sha256(topic.encode()).hexdigest()[:32]}.json"
        self._file: LockedFile | None = None
        self._reported: set[str] = set()
        self._disk = threading.Lock()  # of the two below
        self._is_forcing = self._is_unforced = False

    def load(self) -> tuple[Holder | None] | None:
        """Return whose setpoint the last program left in the hardware, alone in a tuple; None = not known."""
        try:
            file = self._opened() if self._path.is_file() else None
            content = b"" if file is None else file.read(FILE_BYTES)
            if not content.strip():
                return None
            told = json.loads(content)
            return (Holder(told["holder"], told["boot"]) if told["state"] == "held" else None,)
        except (OSError, RuntimeError, ValueError, TypeError, KeyError) as exc:
            self._report("cannot be used", f"cannot be read: {exc}")
            return None

    def save(self, holder: Holder | None) -> None:
        """Keep whose setpoint the hardware has; None = no one's. Where that fails, it is told once.

        It is there for the next program at once. A thread forces it to the disk, for a power cut: that takes
        some milliseconds, and on a disk that hangs no lease and no stop waits for it.
        """
        told: dict[str, Any] = {"state": "free"}
        if holder is not None:
            told = {"state": "held", "holder": holder.sender, "boot": holder.boot}
        try:
            file = self._opened()
            if file is not None:
                file.rewrite(json.dumps(told, ensure_ascii=False).encode(), FILE_BYTES)
                self._force(file)
            elif holder is not None and CAN_LOCK:
                what = "another program of this name lives on this machine, and has it locked"
                self._report(what, f"{what}: end that one, or use names of their own for two devices")
        except (OSError, RuntimeError) as exc:
            self._report("cannot be used", f"cannot be written: {exc}")

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
        return self._file

    def _force(self, file: LockedFile) -> None:
        """Have what was written forced to the disk, by one thread at a time, however long that takes."""
        with self._disk:
            self._is_unforced = True
            if self._is_forcing:
                return
            self._is_forcing = True
        threading.Thread(
            target=self._force_all, args=(file,), name=f"disk {self._topic}", daemon=True
        ).start()

    def _force_all(self, file: LockedFile) -> None:
        while True:
            with self._disk:
                self._is_forcing, self._is_unforced = self._is_unforced, False
                if not self._is_forcing:
                    return
            try:
                file.force()
            except OSError as exc:
                self._report("cannot be used", f"cannot be forced to the disk: {exc}")

    def _report(self, kind: str, what: str) -> None:
        if kind in self._reported:
            return
        self._reported.add(kind)
        where: Path | str = self._name
        with contextlib.suppress(RuntimeError):  # no home directory
            where = self._path
        log.warning(
            "%s (%s): %s: after a kill, the next program knows by the broker alone whether the device was "
            "driven",
            *(where, self._topic, what),
        )
