"""An embedded broker for tests that are plain functions, which can be killed and started on the same port."""

from __future__ import annotations

import os
import signal
import time

from heron_mqtt.errors import AddressInUse
from heron_mqtt.messaging.core.background_loop import run_sync
from heron_mqtt.messaging.embedded import EmbeddedBroker

RETRY_S = 5.0


class EmbeddedServer:
    """One embedded broker, a process of its own. ``start`` it, and ``stop`` or ``kill`` it in the end."""

    def __init__(self) -> None:
        self.port = 0
        self._broker: EmbeddedBroker | None = None

    @property
    def url(self) -> str:
        """``mqtt://host:port``, once started."""
        return f"mqtt://127.0.0.1:{self.port}"

    def start(self) -> EmbeddedServer:
        """Start on a free port, or on the port that it had before."""
        end = time.monotonic() + RETRY_S
        while True:
            broker = EmbeddedBroker(port=self.port)
            try:
                run_sync(broker.start())
            except AddressInUse:  # the former one is just leaving
                if time.monotonic() > end:
                    raise
                time.sleep(0.05)
            else:
                self._broker, self.port = broker, broker.port
                return self

    def kill(self) -> None:
        """End it at once, as a power cut would."""
        if self._broker is not None and self._broker.pid is not None:
            os.kill(self._broker.pid, signal.SIGKILL)
        self.stop()

    def stop(self) -> None:
        """End it."""
        broker, self._broker = self._broker, None
        if broker is not None:
            run_sync(broker.close())
