"""What a broker's refusal means, and what to do."""

from __future__ import annotations

import os
import ssl

from heron_mqtt.errors import BrokerError, BrokerRefused, BrokerUnavailable
from heron_mqtt.messaging.mqtt.options import PASSWORD_VARIABLE, USERNAME_VARIABLE, MqttOptions


def no_answer(address: str, exc: OSError, what: str = "an MQTT broker") -> BrokerError:
    """Nothing listens at the address, or it has none."""
    # asyncio puts its own text in place of the system's
    why = os.strerror(exc.errno) if exc.errno and exc.errno > 0 else exc.strerror or str(exc)
    return BrokerUnavailable(f"no answer at {address} ({why}): start {what} there or correct the address")


def ended_early(address: str, why: str, protocol: str) -> BrokerError:
    """Something listens, and ended the connection before it answered CONNECT in this protocol."""
    if address.startswith(("mqtt://", "ws://")):
        causes = (
            "it may expect TLS (port 8883 usually does: use mqtts:// or wss://), refuse further connections, "
            "or be no MQTT broker"
        )
    else:
        causes = (
            "it may lack TLS (port 1883 usually does: use mqtt:// or ws://), refuse further "
            "connections, expect a client certificate (cert=, key=), or be no MQTT broker"
        )
    if protocol == "5":
        causes = f"it may know only MQTT 3.1.1 (protocol='3.1.1'), {causes.removeprefix('it may ')}"
    return BrokerUnavailable(f"{address} ended the connection before it was made ({why}): {causes}")


def tls_failed(address: str, exc: ssl.SSLError) -> BrokerError:
    """The TLS handshake failed."""
    if isinstance(exc, ssl.SSLCertVerificationError):
        return BrokerRefused(
            f"the certificate of {address} is not trusted ({exc.verify_message}): pass ca= (or set "
            f"SSL_CERT_FILE) with the CA that signed it, and connect by "
            "the name in the certificate, or give this name: server_name="
        )
    return BrokerUnavailable(
        f"{address} does not complete the TLS handshake ({exc.reason or exc}): it may expect plain mqtt://, "
        f"or a client certificate (cert=, key=)"
    )


def refused(options: MqttOptions, code: int, reason: str, told: str = "") -> BrokerError:
    """The broker answered CONNECT with a failure.

    Args:
        options: What was asked with.
        code: A reason code of MQTT 5, section 3.2.2.2; those of MQTT 3.1.1 are translated to them.
        reason: Its name.
        told: The same, with the broker's own text behind it, if it sent any.
    """
    error = _refused(options, code, reason)
    said = told.removeprefix(reason).lstrip(": ")
    return type(error)(f"{error} (the broker says: {said})") if said else error


def _refused(options: MqttOptions, code: int, reason: str) -> BrokerError:
    address = options.address
    user = f"user {options.username!r}" if options.username else "a client without user name"
    login = f"check username= and password= (or {USERNAME_VARIABLE} and {PASSWORD_VARIABLE})"
    match code:
        case 132:
            other = "3.1.1" if options.protocol == "5" else "5"
            return BrokerRefused(
                f"{address} does not support MQTT {options.protocol}: pass protocol={other!r}"
            )
        case 133:
            return BrokerRefused(
                f"{address} refuses the client id {options.client_id!r}: pass another client_id="
            )
        case 134:
            return BrokerRefused(f"{address} refuses name or password of {user}: {login}")
        case 135:
            return BrokerRefused(f"{address} does not authorize {user}: {login}, and its access rights there")
        case 136 | 137:
            return BrokerUnavailable(
                f"{address} says that it is not available now ({reason}): try again later"
            )
        case _:
            return BrokerRefused(f"{address} refuses the connection: {reason}")
