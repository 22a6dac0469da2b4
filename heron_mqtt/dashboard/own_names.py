"""The host names under which the page is served; names of other sites that lead here are refused.

Another site can make its own name resolve to our address (DNS rebinding). A browser then treats both as the
same site and lets that site read our page. But the browser always sends the name of that site. So requests
are accepted by address, by this machine's names, and by the names that were given.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from collections.abc import Iterable
from urllib.parse import urlsplit

from heron_mqtt.errors import ConfigError

LOCAL = {"localhost", "127.0.0.1", "::1"}


class OwnNames:
    """The names of a page.

    Args:
        host: Address that it listens on.
        served_as: Further names, for example of a proxy before it.
        is_secured: It is served by TLS: a browser itself refuses a name that the certificate does not have.

    Raises:
        ConfigError: One of ``served_as`` is no name.
    """

    def __init__(self, host: str, served_as: Iterable[str] = (), *, is_secured: bool = False) -> None:
        self._is_local = host in LOCAL
        self._takes_all = is_secured and not self._is_local
        self._names = {*LOCAL, host.lower(), *map(_given, served_as)}
        if not self._is_local:
            machine = socket.gethostname().lower()
            self._names |= {machine, f"{machine.partition('.')[0]}.local", socket.getfqdn().lower()}

    def include(self, host: str) -> bool:
        """Return whether the ``Host`` of a request names us."""
        try:
            name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
        except ValueError:
            return False
        return self._takes_all or name in self._names or (not self._is_local and _is_address(name))


def _given(name: str) -> str:
    """Return a name that was given, as it is compared; a port behind it says nothing."""
    with contextlib.suppress(ValueError):
        parts = urlsplit(f"//{name.strip()}")
        if parts.hostname and not (parts.path or parts.query or parts.fragment or parts.username):
            return parts.hostname.rstrip(".")
    raise ConfigError(
        f"--served-as {name!r}: expected a name of this page, such as grid.lab, without http://"
    )


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
