"""Who gets in: encryption, certificates, clients without a login, and wrong passwords."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import ssl
import time
from dataclasses import replace
from typing import Any

from heron_mqtt.app.doctor.findings import BrokerFinding
from heron_mqtt.errors import BrokerError
from heron_mqtt.messaging.core.stats import MessageStats
from heron_mqtt.messaging.mqtt import MqttBroker
from heron_mqtt.messaging.mqtt.options import MqttOptions, is_loopback, read_options
from heron_mqtt.messaging.mqtt.raw import RawMqtt
from heron_mqtt.messaging.mqtt.socket_stream import connect_socket
from heron_mqtt.messaging.settings import variable_of

ATTEMPT_S = 5.0
SOON_DAYS = 30.0
DAY_S = 86_400.0


async def examine_tls(options: MqttOptions, where: str = "") -> BrokerFinding:
    """Look at the encryption of the connection, and at how long the certificate lasts.

    Args:
        options: Of the connection to one host.
        where: Which of several, to stand behind the name of the check; empty = there is one.
    """
    check = f"TLS{where}"
    if options.tls is None:
        if is_loopback(options.host):
            return BrokerFinding(check, "note", "not used; the broker is on this machine")
        return BrokerFinding(
            check,
            "no-go",
            f"{options.address} is not encrypted: an attacker on the way reads logins and changes setpoints",
            "let the broker listen with TLS and connect with mqtts:// (config/mosquitto/tls.conf)",
        )
    try:
        async with asyncio.timeout(options.connect_timeout_s):
            sock = await connect_socket(options.host, options.port, options.tls, options.server_name)
    except (OSError, TimeoutError) as exc:
        return BrokerFinding(
            check, "no-go", f"no handshake with {options.address}: {exc or 'it does not answer'}"
        )
    with sock:
        assert isinstance(sock, ssl.SSLSocket)
        version, certificate = sock.version() or "?", sock.getpeercert() or {}
    ends: Any = certificate.get("notAfter")
    left = (ssl.cert_time_to_seconds(ends) - time.time()) / DAY_S if isinstance(ends, str) else None
    what = f"{version}, certificate trusted and made for {options.server_name or options.host}"
    figures: dict[str, Any] = {"version": version, "days_left": None if left is None else round(left, 1)}
    if left is None:
        return BrokerFinding(check, "go", what, figures=figures)
    what += f", valid for {left:.0f} more days"
    if left < SOON_DAYS:
        return BrokerFinding(check, "note", what, "renew the broker's certificate", figures)
    return BrokerFinding(check, "go", what, figures=figures)


async def examine_strangers(
    broker: MqttBroker, channel: str, where: str = "", *, has_logins: bool
) -> list[BrokerFinding]:
    """See whether a client without a login, or with a wrong password, gets in.

    Args:
        broker: Connected, of one who may read ``channel``.
        channel: Where the stranger tries to publish.
        where: As of ``examine_tls``.
        has_logins: Whether the site has a login for each user.
    """
    options = broker.options
    findings = [await _anonymous(broker, channel, f"no login{where}", has_logins=has_logins)]
    if options.username and options.password:
        wrong = replace(options, password=secrets.token_urlsafe(12), client_id=_client_id())
        got_in = await _gets_in(wrong)
        if not broker.connected:
            findings.append(_gone(f"wrong password{where}"))
        elif got_in is None:
            findings.append(
                BrokerFinding(
                    f"wrong password{where}",
                    "go",
                    f"user {options.username!r} is refused with another password",
                )
            )
        else:
            findings.append(
                BrokerFinding(
                    f"wrong password{where}",
                    "no-go",
                    f"user {options.username!r} can log in with any password",
                    "give the broker a password file and refuse all other clients (mosquitto: password_file, "
                    "allow_anonymous false)",
                )
            )
    return findings


def _gone(check: str) -> BrokerFinding:
    """No client got in, because the broker was not there: that proves nothing."""
    return BrokerFinding(check, "not tried", "the broker ended our own connection meanwhile")


async def _anonymous(broker: MqttBroker, channel: str, check: str, *, has_logins: bool) -> BrokerFinding:
    options = broker.options
    ca = options.environment.get(variable_of("ca"))
    stranger = read_options(
        f"{options.scheme}://{_host(options)}:{options.port}{options.path}",
        client_id=_client_id(),
        ca=ca,
        server_name=options.server_name,
        protocol=options.protocol,
        topic_prefix=options.topic_prefix,
        use_environment=False,
    )
    heard: list[object] = []
    token = secrets.token_hex(8)
    subscription = broker.subscribe(channel, lambda m: heard.append(m) if m.get("boot") == token else None)
    payload = f'{{"type": "probe", "boot": "{token}"}}'.encode()
    try:
        await subscription
        got_in = await _gets_in(stranger, (broker.topic_map.topic(channel), payload))
        if not broker.connected:
            return _gone(check)
        if got_in is None:
            return BrokerFinding(check, "go", "a client without a login is refused")
        for _ in range(20):
            if heard:
                break
            await asyncio.sleep(0.05)
    finally:
        subscription()
    change = "require a login (mosquitto: allow_anonymous false; config/mosquitto)"
    if not heard:
        return BrokerFinding(
            check, "note", "a client without a login can connect, but may publish nothing", change
        )
    what = "a client without a login can connect and may drive devices"
    if is_loopback(options.host) and not has_logins:
        return BrokerFinding(check, "note", f"{what}; only programs on this machine reach the broker", change)
    return BrokerFinding(check, "no-go", what, change)


async def _gets_in(options: MqttOptions, message: tuple[str, bytes] | None = None) -> bool | None:
    """Return None if the broker does not let a client in; publish a message where it does."""
    client = RawMqtt(options, MessageStats(), ours=True)
    try:
        async with asyncio.timeout(ATTEMPT_S):
            await client.connect()
    except (BrokerError, TimeoutError):
        return None
    try:
        if message is not None:
            with contextlib.suppress(BrokerError, TimeoutError):
                async with asyncio.timeout(1.0):
                    await client.publish_raw(*message, qos=0)
                    await asyncio.sleep(0.05)  # it leaves before we do
    finally:
        await client.close()
    return True


def _host(options: MqttOptions) -> str:
    return f"[{options.host}]" if ":" in options.host else options.host


def _client_id() -> str:
    return f"heron-doctor-{secrets.token_hex(4)}"
