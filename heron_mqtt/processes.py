"""Child processes that end with their parent: emulated devices beside a run."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Mapping, Sequence

log = logging.getLogger("heron_mqtt.run")

END_S = 0.7  # a device says goodbye to its broker in a few ms; a run must end within 2 s


class Children:
    """Python programs started beside this one.

    Each gets a pipe as its standard input that nobody writes to: when this process ends, however it
    ends, the pipe closes and the child (started with ``--supervised``) ends too. Children are in
    sessions of their own, so that Ctrl-C reaches this process alone and the order of ending is ours.
    """

    def __init__(self) -> None:
        self._children: list[tuple[str, asyncio.subprocess.Process]] = []
        self._watchers: list[asyncio.Task[None]] = []
        self._ending = False

    async def start(
        self, name: str, module: str, arguments: Sequence[str], environment: Mapping[str, str]
    ) -> None:
        """Start ``python -m module arguments``; its output goes to our standard error.

        Args:
            name: For the log.
            module: Has to know ``--supervised``.
            arguments: On its command line, for everyone on the machine to read.
            environment: Added to ours; the place for credentials.
        """
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            module,
            *arguments,
            "--supervised",
            stdin=asyncio.subprocess.PIPE,
            stdout=sys.stderr.fileno() if _has_descriptor(sys.stderr) else asyncio.subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, **environment},
        )
        self._children.append((name, process))
        self._watchers.append(asyncio.create_task(self._watch(name, process), name=f"watch {name}"))

    async def close(self) -> None:
        """End every child: politely, then by force. Idempotent."""
        self._ending = True
        running = [process for _, process in self._children if process.returncode is None]
        for process in running:
            if process.stdin is not None:
                process.stdin.close()
        for end in (None, asyncio.subprocess.Process.kill):
            if end is not None:
                for process in running:
                    if process.returncode is None:
                        end(process)
            if running:
                waits = [asyncio.ensure_future(process.wait()) for process in running]
                _, late = await asyncio.wait(waits, timeout=END_S)
                for wait in late:
                    wait.cancel()
        for watcher in self._watchers:
            watcher.cancel()

    async def _watch(self, name: str, process: asyncio.subprocess.Process) -> None:
        code = await process.wait()
        if not self._ending:
            log.error("device %s ended by itself with exit code %s", name, code)


def _has_descriptor(stream: object) -> bool:
    try:
        return isinstance(stream.fileno(), int)  # type: ignore[attr-defined]
    except (AttributeError, OSError, ValueError):
        return False
