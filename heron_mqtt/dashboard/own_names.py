"""By which names people may reach the page: a name of somebody else's that leads here is none of ours.

A page of somebody else's can have its own name resolve to our address (DNS rebinding): the browser then takes
both for the same site and lets it read. It cannot make a browser send another name than its own, and an
address is no name: so addresses are taken, and of names those that we have or were given.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable
from urllib.parse import urlsplit

LOCAL = {"localhost", "127.0.0.1", "::1"}


class OwnNames:
    """The names of a page.

    Args:
        host: Address that it listens on.
        served_as: Further names, for example of a proxy before it.
        is_secured: It is served by TLS: a browser itself refuses a name that the certificate does not have.
    """

    def __init__(self, host: str, served_as: Iterable[str] = (), *, is_secured: bool = False) -> None:
        self._is_local = host in LOCAL
        self._takes_all = is_secured and not self._is_local
        self._names = {*LOCAL, host.lower(), *(name.lower().rstrip(".") for name in served_as)}
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


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
