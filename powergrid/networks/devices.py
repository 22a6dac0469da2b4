"""Devices as pandapower elements, and the one place where the sign of power changes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from heron_mqtt.errors import ConfigError
from powergrid.devices import DEVICES
from powergrid.devices.base import PandapowerTable
from powergrid.networks.sites import resolve_bus

Power = TypeVar("Power", float, NDArray[np.float64])


@dataclass(frozen=True)
class DeviceSite:
    """A device and where it is connected.

    Attributes:
        name: Unique in the network (``"MG1/ess"``); becomes the element's name.
        kind: Of ``powergrid.devices.DEVICES``; decides the pandapower table.
        bus: Index or name.
    """

    name: str
    kind: str
    bus: int | str


def attach_devices(net: Any, devices: Iterable[DeviceSite]) -> dict[str, tuple[PandapowerTable, int]]:
    """Create an element at zero power for each device.

    The table is the kind's ``pandapower_table``: a battery becomes a ``storage``, a generator and PV an
    ``sgen`` (they hold P and Q, not a voltage), what consumes a ``load``.

    Returns:
        Device name -> (pandapower table, index in it).

    Raises:
        ConfigError: Every unknown kind, unknown bus and repeated name; then nothing was created.
    """
    sites = list(devices)
    problems, buses = [], []
    seen: set[str] = set()
    for site in sites:
        where = f"device '{site.name}'"
        if site.name in seen:
            problems.append(f"{where}: the name is used twice; give each device its own")
        seen.add(site.name)
        if site.kind not in DEVICES:
            problems.append(f"{where}: unknown kind '{site.kind}'; expected {', '.join(DEVICES)}")
        try:
            buses.append(resolve_bus(net, site.bus, where))
        except ConfigError as exc:
            problems += exc.problems
    if problems:
        raise ConfigError(*problems)
    return {
        site.name: (table_of(site.kind), _create(net, site, bus))
        for site, bus in zip(sites, buses, strict=True)
    }


def _create(net: Any, site: DeviceSite, bus: int) -> int:
    import pandapower  # a second, and nothing else here needs it

    common = {"bus": bus, "p_mw": 0.0, "q_mvar": 0.0, "name": site.name, "type": site.kind}
    match table_of(site.kind):
        case "storage":
            # The energy content is the device model's business; the power flow sees power alone.
            return int(pandapower.create_storage(net, max_e_mwh=np.nan, **common))
        case "load":
            return int(pandapower.create_load(net, **common))
        case "sgen":
            return int(pandapower.create_sgen(net, **common))


def table_of(kind: str) -> PandapowerTable:
    """Return the pandapower table of a kind of device.

    Raises:
        ConfigError: Unknown kind.
    """
    return DEVICES[kind].spec_type.pandapower_table


def to_pandapower_p(kind: str, p_mw: Power) -> Power:
    """Return active power in the sign convention of the device's pandapower table.

    Args:
        kind: Kind of device.
        p_mw: MW, positive = injected into the grid. A number or an array.

    Returns:
        MW as the table wants it: ``sgen`` counts injection, ``storage`` and ``load`` count consumption.

    Raises:
        ConfigError: Unknown kind.
    """
    return _injection_sign(kind) * p_mw


def to_pandapower_q(kind: str, q_mvar: Power) -> Power:
    """Return reactive power in the sign convention of the device's table; as ``to_pandapower_p``, in Mvar."""
    return _injection_sign(kind) * q_mvar


def _injection_sign(kind: str) -> float:
    return 1.0 if table_of(kind) == "sgen" else -1.0
