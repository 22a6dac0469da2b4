"""Standard output and error that may be full, closed or without a reader: a run continues without them.

A run drives devices, so a full disk for a log, or a closed pipe, must not end it with a traceback. But it
must not be hidden: lost output is reported at the end, on standard error and by the exit code.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from typing import Any, TextIO, cast

BUFFER = 8192  # characters that wait to be flushed


class GuardedStream:
    """A text stream whose failures are remembered instead of raised.

    Args:
        stream: What is written to; None = the program was started with it closed.
        instead: Where to write what this one does not take.
    """

    def __init__(self, stream: TextIO | None, instead: GuardedStream | None = None) -> None:
        self.failure: OSError | None = None
        """The first thing that went wrong; nothing more is written to the stream after it."""
        self._stream = stream
        self._instead = instead
        self._waiting: list[str] = []
        self._size = 0
        if stream is None:
            self.failure = OSError(errno.EBADF, "it is closed")

    @property
    def lost(self) -> str | None:
        """Why something could not be written; None = all was, or the reader of a pipe has left."""
        failure = self.failure
        if failure is None or isinstance(failure, BrokenPipeError):
            return None
        return failure.strerror or str(failure)

    def write(self, text: str) -> int:
        """Write; returns the number of characters, as if all had gone well."""
        if not isinstance(text, str):
            raise TypeError(f"expected str, got {type(text).__name__}")  # by this a stream of text is known
        self._waiting.append(text)
        self._size += len(text)
        if self._size >= BUFFER or (self._instead is None and "\n" in text):
            self.flush()
        return len(text)

    def flush(self) -> None:
        """Write what waits."""
        text, self._waiting, self._size = "".join(self._waiting), [], 0
        if self._stream is not None and self.failure is None:
            try:
                self._stream.write(self._writable(text))
                self._stream.flush()
            except OSError as exc:
                self.failure = exc
        if self.lost is not None and self._instead is not None:
            self._instead.write(text)

    def _writable(self, text: str) -> str:
        """Return a text in which what the stream's encoding has not stands as an escape."""
        encoding = self.encoding or "utf-8"
        return text.encode(encoding, "backslashreplace").decode(encoding)

    def isatty(self) -> bool:
        """Whether a person reads it."""
        return self._stream is not None and self._stream.isatty()

    @property
    def encoding(self) -> str:
        """Of the characters."""
        return self._stream.encoding if self._stream is not None else "utf-8"

    def __getattr__(self, name: str) -> Any:
        """Everything else is the stream's own."""
        return getattr(self._stream, name)


async def until_reader_leaves(descriptor: int = 1) -> None:
    """Wait until what reads a pipe has left, as ``head -1`` does; for ever where it is another file.

    For commands that have nothing to do but to print.

    Args:
        descriptor: What is written to; 1 = standard output.
    """
    import asyncio

    loop, left = asyncio.get_running_loop(), asyncio.Event()
    if not stat.S_ISFIFO(os.fstat(descriptor).st_mode):
        await left.wait()
    # The end that is written to never has anything to read: it wakes the loop when the other one is closed.
    loop.add_reader(descriptor, left.set)
    try:
        await left.wait()
    finally:
        loop.remove_reader(descriptor)


def guard_streams() -> tuple[GuardedStream, GuardedStream]:
    """Put guarded streams in the place of standard output and error, and return them.

    If the program was started with one of the first three descriptors closed, that one is opened on the
    null device. Otherwise the next file that is opened would get its number, and output of a library would
    go into that file.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != descriptor:
                os.dup2(null, descriptor)
                os.close(null)
    err = GuardedStream(sys.stderr)
    out = GuardedStream(sys.stdout, instead=err)
    sys.stdout, sys.stderr = cast("TextIO", out), cast("TextIO", err)
    return out, err
