"""Whether hardware was left driven, in a file: a broker that was restarted may have lost it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
from pathlib import Path
from typing import Any

from heron_mqtt.field.device.lease import Holder
from heron_mqtt.field.state_directory import state_directory

fcntl: Any
try:
    import fcntl
except ImportError:  # Windows: without a lock it is not known whether the program that wrote it still lives
    fcntl = None

log = logging.getLogger("heron_mqtt.device")

FILE_BYTES = 4_096  # always: what is written in one piece is there whole, or as it was


class KeptLease:
    """What a device says of its lease, kept for the next program of its name on this machine.

    The file is locked while a program uses it, and the system gives the lock up only when that is dead. What
    a program that lives has written counts for nobody else.

    Args:
        topic: The whole topic of the lease: it names environment and device.
    """

    def __init__(self, topic: str) -> None:
        self._name = f"{hashlib.sha256(topic.encode()).hexdigest()[:32]}.json"
        self._descriptor = -1
        self._is_reported = False

    def load(self) -> tuple[Holder | None] | None:
        """Return whose setpoint the last program left in the hardware, alone in a tuple; None = not known."""
        try:
            if not self._path.is_file() or not self._open():
                return None
            content = os.pread(self._descriptor, FILE_BYTES, 0)
            if not content.strip():
                return None
            told = json.loads(content)
            return (Holder(told["holder"], told["boot"]) if told["state"] == "held" else None,)
        except (OSError, RuntimeError, ValueError, TypeError, KeyError) as exc:
            self._report(f"cannot be read: {exc}")
            return None

    def save(self, holder: Holder | None) -> None:
        """Keep whose setpoint the hardware has; None = no one's. Where that fails, it is told once."""
        told: dict[str, Any] = {"state": "free"}
        if holder is not None:
            told = {"state": "held", "holder": holder.sender, "boot": holder.boot}
        try:
            if self._open():
                # In place: another file would have another lock.
                data = json.dumps(told, ensure_ascii=False).encode().ljust(FILE_BYTES)
                if os.pwrite(self._descriptor, data, 0) != len(data):
                    raise OSError("only a part of it")
        except (OSError, RuntimeError) as exc:
            self._report(f"cannot be written: {exc}")

    def close(self) -> None:
        """Let another program have the file. Idempotent."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    @property
    def _path(self) -> Path:
        return state_directory() / "leases" / self._name

    def _open(self) -> bool:
        """Open and lock the file; returns whether it is ours: another program may live, and use it."""
        if self._descriptor >= 0:
            return True
        if fcntl is None:
            return False
        path = self._path
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            os.close(descriptor)
            if not isinstance(exc, BlockingIOError):
                raise
            return False
        self._descriptor = descriptor
        return True

    def _report(self, what: str) -> None:
        if self._is_reported:
            return
        self._is_reported = True
        where: Path | str = self._name
        with contextlib.suppress(RuntimeError):  # no home directory
            where = self._path
        log.warning(
            "%s: %s: after a kill, the next program knows by the broker alone whether the device was driven",
            *(where, what),
        )
