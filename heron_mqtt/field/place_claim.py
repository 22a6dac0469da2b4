"""One device, one environment, one name: what drives a place claims it for all programs of this machine.

A name on the wire is exclusive within one environment, and a vendor's device does not use these names. So two
environments, or two names of one environment, could drive the same device in turn. If both programs run on
one machine, the second one is refused. A claim is the name of a socket: it ends with its process, however
that ends, and belongs to no user.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import re
import socket
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from heron_mqtt.errors import PlaceTaken
from heron_mqtt.field.modbus.place import ModbusPlace, SerialLine
from heron_mqtt.forked_processes import close_when_forked
from heron_mqtt.messaging.urls import host_key

_NAMES = Path("/proc/net/unix")
_PREFIX = "heron-mqtt-place"
_SHOWN = 16
"""Characters of an environment and of a device that stand in a claim; a name has room for 107."""
_LEARNED = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
_numbers = itertools.count()


def place_name(host: str, port: int | None = None, *what: object) -> str:
    """Return the name of a place, the same for every spelling of its host.

    Args:
        host: Name or address, or a serial port.
        port: Of TCP; None = ``host`` is a serial port.
        what: Which device there: a unit, a topic.
    """
    where = os.path.realpath(host) if port is None else f"{host_key(host)}:{port}"
    return " ".join([where, *map(str, what)])


def unit_place(place: ModbusPlace, unit: int) -> str:
    """Return what a Modbus unit is called, at a serial line or behind an address."""
    if isinstance(place, SerialLine):
        return place_name(place.port, None, "unit", unit)
    return place_name(place.host, place.port, "unit", unit)


def broker_place(hosts: Iterable[tuple[str, int]]) -> str:
    """Return what a broker is called, in whatever order its URL names its hosts.

    Args:
        hosts: Host and port of each.
    """
    return ",".join(sorted({place_name(host, port) for host, port in hosts}))


class PlaceClaim:
    """Places that one environment drives, and those of them that only one of its devices drives.

    The same one may claim them again, also in another program. A process that is forked, or started, by one
    that has a claim does not have it.

    On systems without abstract socket names (all but Linux) nothing is known, and nothing refused.

    Args:
        places: As of ``place_name``; one with ``{name}`` is several, of which one is claimed: see ``take``.
        env_id: The environment, on the wire.
        broker: Its broker, as of ``broker_place``: environments of one name at two brokers are two.
        device: ``AGENT/DEVICE``, where not even another device of the environment may share the place; else
            empty: what is behind one unit may be several devices.
        own_places: Further ones, which only a device of this name may share: where its power is set.
        own_device: Its ``AGENT/DEVICE``.
    """

    def __init__(
        self,
        places: Iterable[str],
        env_id: str,
        broker: str,
        device: str = "",
        *,
        own_places: Iterable[str] = (),
        own_device: str = "",
    ) -> None:
        self._broker, self._env_id = broker, env_id
        # Those of the environment first: a refusal by another environment is reported as such.
        self._places = (
            *((place, device) for place in places),
            *((place, own_device) for place in own_places),
        )
        self._held: dict[str, socket.socket] = {}
        close_when_forked(self)

    def take(self, learned: Mapping[str, str] | None = None) -> None:
        """Claim the places, unless they are claimed already by this.

        Of two that claim at the same moment both may be refused, never none.

        Args:
            learned: What stands for ``{name}`` in places, by name. A place with one that is not known is not
                claimed; what was claimed with another value is left.

        Raises:
            PlaceTaken: Another environment, or device, has one; none more than before is claimed then.
        """
        filled = ((_filled(place, learned or {}), device) for place, device in self._places)
        wanted = {place: device for place, device in filled if place is not None}
        if wanted.keys() == self._held.keys() or not _NAMES.exists():
            return
        more = [place for place in wanted if place not in self._held]
        try:
            for place in more:
                holder = _digest(f"{self._broker} {self._env_id} {wanted[place]}")
                self._bind(place, holder, wanted[place])
                self._refuse_others(place, holder)
        except BaseException:
            self._leave(more)
            raise
        self._leave([place for place in self._held if place not in wanted])

    def close(self) -> None:
        """Leave the places to others. Idempotent."""
        self._leave(list(self._held))

    def _leave(self, places: Iterable[str]) -> None:
        for place in places:
            if (held := self._held.pop(place, None)) is not None:
                held.close()

    def _bind(self, place: str, holder: str, device: str) -> None:
        who = f"{_shown(self._env_id)} {_shown(device)}"
        name = f"{_PREFIX} {_digest(place)} {holder} {os.getpid()} {next(_numbers)} {who}"
        claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._held[place] = claim
        claim.bind(f"\0{name}")

    def _refuse_others(self, place: str, ours: str) -> None:
        for holder, pid, env_id, device in _claims(place):
            if holder != ours:
                who = f"{device} of environment {env_id!r}" if device else f"environment {env_id!r}"
                raise PlaceTaken(
                    f"{place}: {who} drives it already, by process {pid} on this machine, and only one may; "
                    "end that one first, or only read the device"
                )


def _claims(place: str) -> Iterator[tuple[str, str, str, str]]:
    """Yield holder, process, environment and device of every claim of a place."""
    wanted = _digest(place)
    lines: list[str] = []
    with contextlib.suppress(OSError):
        lines = _NAMES.read_text(encoding="ascii", errors="replace").splitlines()
    for line in lines:
        _, found, name = line.partition(f"@{_PREFIX} ")
        words = name.split(" ")
        if found and len(words) == 6 and words[0] == wanted:
            yield words[1], words[2], words[4], words[5]


def _filled(place: str, learned: Mapping[str, str]) -> str | None:
    """Return a place with what is learned; None = not all of it is known."""
    if not learned.keys() >= set(_LEARNED.findall(place)):
        return None
    return _LEARNED.sub(lambda found: learned[found[1]], place)


def _shown(text: str) -> str:
    return "".join(c for c in text if c.isascii() and c.isprintable() and c != " ")[:_SHOWN]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
