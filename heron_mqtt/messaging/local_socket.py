"""A Unix socket beside the TCP port of a broker on this machine: its messages cost less than half.

The embedded broker listens on it too, and a client that is given the TCP address prefers it. Both find it by
the address: its name, in Linux's abstract namespace, is made of host and port, and is gone with the broker. A
process that binds that name first could listen to clients of others. So a client stays only if the listening
process runs for the client's own user. Otherwise it uses TCP, also if there is no such socket, or no Linux.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
import struct
import sys

_CREDENTIALS = struct.Struct("3i")  # struct ucred: process, user, group


def listen_locally(host: str, port: int, backlog: int) -> socket.socket | None:
    """Return a bound socket that does not block, or None where there can be none: TCP is there anyway.

    Args:
        host: Address of the TCP socket, which is bound already.
        port: Its port.
        backlog: Connections that may wait.
    """
    name = _name(host, port)
    if name is None:
        return None
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        bound.bind(name)
        bound.listen(backlog)
    except OSError:  # another process has the name
        bound.close()
        return None
    bound.setblocking(False)
    return bound


def connect_locally(host: str, port: int) -> socket.socket | None:
    """Return a connected socket that does not block, or None if TCP has to be used. Waits for nothing."""
    name = _name(host, port)
    if name is None:
        return None
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.setblocking(False)
    with contextlib.suppress(OSError):  # no process listens, or too many wait (EAGAIN: it is not under way)
        sock.connect(name)
        if peer_of(sock)[1] == os.geteuid():
            return sock
    sock.close()
    return None


def peer_of(sock: socket.socket) -> tuple[int, int]:
    """Return process and user id of the other end of a Unix socket, as they were when it began."""
    size = _CREDENTIALS.size
    process, user, _ = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    return process, user


def _name(host: str, port: int) -> str | None:
    """Return the name for a TCP address; None if it is not one of this machine alone, or not by number."""
    if sys.platform != "linux":
        return None
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    return f"\0heron-mqtt/{address}/{port}" if address.is_loopback else None
