"""Network namespaces joined by virtual cables that can be pulled: partitions as a network makes them."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import threading
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

import pytest

T = TypeVar("T")
CLONE_NEWNET = 0x40000000
MISSING = "network namespaces cannot be made here"
"""The reason of a skip: it takes the program ``ip`` and the rights of root."""


class Network:
    """A namespace in the middle, and others joined to it; use it as a context manager.

    Addresses are of 10.213.0.0/16 and leave the machine by no route.
    """

    def __init__(self, *names: str) -> None:
        if shutil.which("ip", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") is None:
            pytest.skip(f"{MISSING}: there is no program ip (Debian: iproute2)")
        self._mark = uuid.uuid4().hex[:6]
        self._made: list[str] = []
        self.names = ("", *names)  # the first one is the test's own

    def __enter__(self) -> Self:
        try:
            self._make("hub")
        except subprocess.CalledProcessError as exc:
            pytest.skip(f"{MISSING}: {exc.stderr.strip()}")
        try:
            for n, name in enumerate(self.names):
                self._join(n, name)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for name in self._made:
            subprocess.run([_ip(), "netns", "del", self._id(name)], check=False, capture_output=True)

    def hub_address(self, name: str = "") -> str:
        """Return where a namespace reaches the one in the middle."""
        return f"10.213.{self.names.index(name)}.1"

    def command(self, name: str, command: Sequence[str]) -> list[str]:
        """Return a command that runs inside a namespace."""
        return [_ip(), "netns", "exec", self._id(name), *command]

    def inside(self, name: str, function: Callable[[], T]) -> T:
        """Call a function in a thread that is in a namespace, as are the threads that it starts."""
        results: list[Any] = []

        def call() -> None:
            with Path(f"/run/netns/{self._id(name)}").open() as handle:
                libc = ctypes.CDLL(None, use_errno=True)
                assert libc.setns(handle.fileno(), CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
            results.append(function())

        thread = threading.Thread(target=call)
        thread.start()
        thread.join()
        (result,) = results
        return result  # type: ignore[no-any-return]

    def cut(self, name: str) -> None:
        """Pull the cable: nothing passes, and no side is told."""
        _run("netns", "exec", self._id("hub"), _ip(), "link", "set", self._cable(name, "h"), "down")

    def mend(self, name: str) -> None:
        """Put the cable back."""
        _run("netns", "exec", self._id("hub"), _ip(), "link", "set", self._cable(name, "h"), "up")

    def _make(self, name: str) -> None:
        _run("netns", "add", self._id(name))
        self._made.append(name)
        _run("-n", self._id(name), "link", "set", "lo", "up")

    def _join(self, n: int, name: str) -> None:
        hub, here, there = self._id("hub"), self._cable(name, "h"), self._cable(name, "e")
        _run("-n", hub, "link", "add", here, "type", "veth", "peer", "name", there)
        if name:
            self._make(name)
            _run("-n", hub, "link", "set", there, "netns", self._id(name))
            end: list[str] = ["-n", self._id(name)]
        else:
            _run("-n", hub, "link", "set", there, "netns", str(os.getpid()))
            end = []
        _run("-n", hub, "addr", "add", f"10.213.{n}.1/24", "dev", here)
        _run(*end, "addr", "add", f"10.213.{n}.2/24", "dev", there)
        _run("-n", hub, "link", "set", here, "up")
        _run(*end, "link", "set", there, "up")

    def _id(self, name: str) -> str:
        return f"heron-{self._mark}-{name}"

    def _cable(self, name: str, end: str) -> str:
        return f"hr{self._mark}{self.names.index(name)}{end}"


def _ip() -> str:
    return shutil.which("ip") or shutil.which("ip", path="/usr/sbin:/sbin") or "ip"


def _run(*arguments: str) -> None:
    subprocess.run([_ip(), *arguments], check=True, capture_output=True, text=True)
