"""What ``heron-mqtt broker`` does: the broker alone, in the foreground."""

from __future__ import annotations

import asyncio
import logging
import sys
from typing import TYPE_CHECKING

from heron_mqtt.end_signals import heeded
from heron_mqtt.messaging.embedded.broker import EmbeddedBroker
from heron_mqtt.messaging.embedded.event_log import LOGGER_NAME
from heron_mqtt.messaging.embedded.process.child import raise_descriptor_limit, run_event_loop
from heron_mqtt.service_manager import THE_SERVICE

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path

    from heron_mqtt.messaging.embedded.options import Limits

DEFAULT_PORT = 1883


async def run_broker(
    host: str = "127.0.0.1",
    port: int = DEFAULT_PORT,
    *,
    tls_cert: str | Path | None = None,
    tls_key: str | Path | None = None,
    client_ca: str | Path | None = None,
    users_file: str | Path | None = None,
    acl_file: str | Path | None = None,
    websocket_port: int | None = None,
    allow_remote_anonymous: bool = False,
    denied: str = "acknowledge",
    topic_prefix: str | None = None,
    limits: Limits | None = None,
) -> None:
    """Serve until SIGINT, SIGTERM or SIGHUP, which end it in good order.

    One line on standard output says ``listening mqtt://host:port``, followed by the WebSocket's URL if
    there is one. The arguments are those of `EmbeddedBroker`.

    Raises:
        ConfigError: An option or a file is wrong.
        AddressInUse: A port is taken.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    numbers = heeded()
    for number in numbers:
        loop.add_signal_handler(number, stop.set)
    try:
        async with EmbeddedBroker(
            host,
            port,
            in_process=True,
            tls_cert=tls_cert,
            tls_key=tls_key,
            client_ca=client_ca,
            users_file=users_file,
            acl_file=acl_file,
            websocket_port=websocket_port,
            allow_remote_anonymous=allow_remote_anonymous,
            denied=denied,
            topic_prefix=topic_prefix,
            limits=limits,
        ) as broker:
            urls = [broker.url, *([broker.websocket_url] if broker.websocket_url else [])]
            sys.stdout.write(f"listening {' '.join(urls)}\n")
            sys.stdout.flush()
            with THE_SERVICE.heartbeat(loop):
                THE_SERVICE.tell_ready(f"listening {' '.join(urls)}")
                await stop.wait()
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


def run_in_foreground(main: Callable[[], Coroutine[None, None, None]]) -> None:
    """Run ``run_broker(...)`` in an event loop of its own, with its log on standard error.

    Args:
        main: Makes the coroutine, for example ``lambda: run_broker(port=1883)``.
    """
    if not logging.getLogger().handlers:
        logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger(LOGGER_NAME).setLevel(logging.INFO)
    raise_descriptor_limit()
    run_event_loop(main)
