"""Succession: a gateway that was killed and started again continues with its dead predecessor's leases.

For a device, a restarted gateway is another sender. The gateway would have to wait until the lease of the
dead one is over, and the device would be in its safe state until then. A gateway may take that lease if it
can prove that the holder was an earlier start of the very same gateway, and is dead:

- Each start writes its ``boot`` into a file, before its first setpoint. A lease counts as a predecessor's
  only where the device says that it is held by a boot of that file. A lease that another one has taken
  meanwhile (``--take-over``, a setpoint by hand) is thus not taken.
- The file is locked for as long as the process lives, and the system gives the lock up only when it is dead.
  One that stands still (SIGSTOP, a hanging disk) has it still.
- The file counts only where it was written: on this machine, since that was switched on, and not as a copy.
  So no two machines have the same predecessors.

The agent's name is taken as ever, without displacing another one: while it lives, nothing begins.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from heron_mqtt.errors import ConfigError, NameTaken
from heron_mqtt.locked_file import CAN_LOCK, LockedFile
from heron_mqtt.messaging.ownership import this_process

__all__ = ["StateFolder", "Succession", "machine_run"]

log = logging.getLogger("heron_mqtt.gateway")

REMEMBERED_BOOTS = 64
"""A gateway that fails at once may be started often, and the lease is that of the last one that worked."""
FILE_BYTES = 8_192  # always: what is written in one piece is there whole, or as it was
_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH
_MACHINE_RUN = Path("/proc/sys/kernel/random/boot_id")


def machine_run() -> str | None:
    """Return what this machine is called since it was switched on, and no other is; None = not known."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return _MACHINE_RUN.read_text(encoding="ascii").strip() or None
    return None


@dataclass(frozen=True, slots=True)
class StateFolder:
    """Where a gateway's state outlives it, and whether it was asked for explicitly.

    Attributes:
        path: The folder; made if it is not there.
        variable: The environment variable that names it, as a service manager sets it for everything that it
            starts: what cannot be kept there is only told. None = asked for by ``--state``.
    """

    path: Path
    variable: str | None = None


class _Written(BaseModel):
    """What stands in the file.

    Attributes:
        agent: Whose gateway it is.
        env_id: Of which environment.
        machine: As of ``machine_run``.
        device: Of the file system that the file is on.
        inode: Of the file; a copy has another one.
        boots: Of the gateway's starts, the newest last.
        who: Wrote it last, for people.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    agent: str
    env_id: str
    machine: str
    device: int
    inode: int
    boots: list[Annotated[str, Field(min_length=1, max_length=64)]]
    who: str


class Succession:
    """The earlier starts of one agent's gateway, all dead, and the file that proves it.

    Args:
        folder: Where the file is; made if it is not there.
        env_id: The environment.
        agent_id: The agent.
        machine: As of ``machine_run``; None = not known: then there are no predecessors.

    Raises:
        NameTaken: Another process on this machine has the file, and may stand still but is not dead.
        ConfigError: There can be no file in the folder.
    """

    def __init__(self, folder: Path, env_id: str, agent_id: str, machine: str | None) -> None:
        self.predecessors: frozenset[str] = frozenset()
        """Boots of earlier starts, none of which lives."""
        self.why_none = ""
        """Why a file that is there names none, for people; empty = it does, or there was none."""
        self._env_id, self._agent_id, self._machine = env_id, agent_id, machine
        digest = hashlib.sha256(f"{env_id}\0{agent_id}".encode()).hexdigest()[:16]
        shown = re.sub(r"[^A-Za-z0-9_]", "_", agent_id)[:32]
        self.path = folder / f"gateway-{shown}-{digest}.json"
        self._boots: list[str] = []
        try:
            self._file = LockedFile(self.path, makes=True)
            try:
                self._read()
            except BaseException:
                self.close()
                raise
        except BlockingIOError:
            raise NameTaken(
                f"agent {agent_id} in environment {env_id!r} is served by {_writer_of(self.path)} on this "
                f"machine, which has not ended ({self.path} is locked): end that one first"
            ) from None
        except OSError as exc:
            raise ConfigError(
                f"{folder}: {self.path.name} cannot be used there: {exc.strerror}; expected a folder of this "
                "program's own, on a disk of this machine"
            ) from exc

    def begin(self, boot: str) -> None:
        """Let later starts know of this one; called before it sends anything.

        If that fails (a full disk), the gateway still works: its successor then waits for the lease.
        """
        self._boots = [*(old for old in self._boots if old != boot), boot][-REMEMBERED_BOOTS:]
        if self._machine is None or not CAN_LOCK:
            return
        try:
            about = os.fstat(self._file.descriptor)
            if about.st_uid == os.geteuid() and about.st_mode & _WRITABLE_BY_OTHERS:
                os.fchmod(self._file.descriptor, 0o600)  # or the next start would not believe it either
            told = _Written(
                agent=self._agent_id,
                env_id=self._env_id,
                machine=self._machine,
                device=about.st_dev,
                inode=about.st_ino,
                boots=self._boots,
                who=this_process(),
            )
            # It need not be forced to the disk: what a power cut takes away does not count after it.
            self._file.rewrite(told.model_dump_json().encode(), FILE_BYTES)
        except OSError as exc:
            log.warning(
                "%s: cannot be written (%s): after a kill the next start of agent %s waits for the end of "
                "its leases",
                self.path,
                exc,
                self._agent_id,
            )

    def close(self) -> None:
        """Let another one have the file. Idempotent."""
        self._file.close()

    def _read(self) -> None:
        """Take the boots of earlier starts, if they were starts on this machine that are surely over."""
        written = _parsed(self._file.read(FILE_BYTES + 1))
        if written is None:
            return
        about = os.fstat(self._file.descriptor)
        if isinstance(written, str):
            self.why_none = written
        elif (written.agent, written.env_id) != (self._agent_id, self._env_id):
            self.why_none = "it is another agent's"
        elif self._machine is None or not CAN_LOCK:
            self.why_none = "this system cannot tell whether the process that wrote it is dead"
        elif about.st_uid != os.geteuid() or about.st_mode & _WRITABLE_BY_OTHERS:
            self.why_none = "it is another user's, or others may write to it"
        elif written.machine != self._machine:
            self.why_none = "it was written on another machine, or before this one was switched on"
        elif (written.device, written.inode) != (about.st_dev, about.st_ino):
            self.why_none = "it is a copy"
        else:
            self._boots = written.boots[-REMEMBERED_BOOTS:]
            self.predecessors = frozenset(self._boots)


def _writer_of(path: Path) -> str:
    """Return who wrote a file that is locked, for people."""
    with contextlib.suppress(OSError):
        written = _parsed(path.read_bytes())
        if isinstance(written, _Written):
            return written.who
    return "another process"


def _parsed(data: bytes) -> _Written | str | None:
    """Return what stands in a file; None = nothing; text = why it cannot be read."""
    if not data.strip():
        return None
    try:
        if len(data) > FILE_BYTES:
            return "it is damaged"
        return _Written.model_validate_json(data)
    except ValidationError:
        return "it is damaged"
