"""A NATS subscriber on a bare socket: no line of code in common with what it watches."""

from __future__ import annotations

import contextlib
import socket
import threading
import time

from heron_mqtt.testing.faults.observer import Observed

__all__ = ["NatsListener"]

AGAIN_S = 0.1


class NatsListener:
    """Hears everything below ``heron.``; connects again when the server is back.

    Args:
        port: Of the server, on loopback.
    """

    def __init__(self, port: int) -> None:
        self.seen: list[Observed] = []
        self._port = port
        self._ended = threading.Event()
        self._ready = threading.Event()
        self._socket: socket.socket | None = None
        self._thread = threading.Thread(target=self._listen, daemon=True)  # as paho's own observer has one
        self._thread.start()
        self._ready.wait(10.0)

    def on(self, topic_end: str) -> list[Observed]:
        """Return the messages of topics with this end, in order."""
        return [m for m in list(self.seen) if m.topic.endswith(topic_end)]

    def close(self) -> None:
        """End it."""
        self._ended.set()
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(5.0)

    def _listen(self) -> None:
        while not self._ended.is_set():
            with contextlib.suppress(OSError, ValueError), socket.socket() as connection:
                connection.connect(("127.0.0.1", self._port))
                self._socket = connection
                self._serve(connection)
            self._ended.wait(AGAIN_S)

    def _serve(self, connection: socket.socket) -> None:
        connection.sendall(b'CONNECT {"verbose":false}\r\nSUB heron.> 1\r\nPING\r\n')
        with connection.makefile("rb") as lines:
            while line := lines.readline():
                word, *rest = line.decode().split()
                if word == "PING":
                    connection.sendall(b"PONG\r\n")
                elif word == "PONG":
                    self._ready.set()
                elif word in {"MSG", "HMSG"}:
                    whole = lines.read(int(rest[-1]) + 2)[:-2]
                    payload = whole[int(rest[-2]) :] if word == "HMSG" else whole
                    topic = rest[0].replace(".", "/")
                    self.seen.append(Observed(time.monotonic(), topic, payload, retained=False))
