"""Devices as pandapower elements, and the one place where the sign of power changes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
import pandapower
from numpy.typing import NDArray

from heron_mqtt.errors import ConfigError
from powergrid.networks.sites import resolve_bus

DeviceKind = Literal["battery", "generator", "pv", "load"]
Table = Literal["storage", "sgen", "load"]
Power = TypeVar("Power", float, NDArray[np.float64])

TABLES: Mapping[DeviceKind, Table] = {"battery": "storage", "generator": "sgen", "pv": "sgen", "load": "load"}


@dataclass(frozen=True)
class DeviceSite:
    """A device and where it is connected.

    Attributes:
        name: Unique in the network (``"MG1/ess"``); becomes the element's name.
        kind: Decides the pandapower table.
        bus: Index or name.
    """

    name: str
    kind: DeviceKind
    bus: int | str


def attach_devices(net: Any, devices: Iterable[DeviceSite]) -> dict[str, tuple[Table, int]]:
    """Create an element at zero power for each device.

    A battery becomes a ``storage``, a generator and PV an ``sgen`` (they hold P and Q, not a voltage), a
    load a ``load``.

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
        if site.kind not in TABLES:
            problems.append(f"{where}: unknown kind '{site.kind}'; expected {', '.join(TABLES)}")
        try:
            buses.append(resolve_bus(net, site.bus, where))
        except ConfigError as exc:
            problems += exc.problems
    if problems:
        raise ConfigError(*problems)
    return {
        site.name: (TABLES[site.kind], _create(net, site, bus))
        for site, bus in zip(sites, buses, strict=True)
    }


def _create(net: Any, site: DeviceSite, bus: int) -> int:
    common = {"bus": bus, "p_mw": 0.0, "q_mvar": 0.0, "name": site.name, "type": site.kind}
    if site.kind == "battery":
        # The energy content is the device model's business; the power flow sees power alone.
        return int(pandapower.create_storage(net, max_e_mwh=np.nan, **common))
    if site.kind == "load":
        return int(pandapower.create_load(net, **common))
    return int(pandapower.create_sgen(net, **common))


def to_pandapower_p(kind: DeviceKind, p_mw: Power) -> Power:
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


def to_pandapower_q(kind: DeviceKind, q_mvar: Power) -> Power:
    """Return reactive power in the sign convention of the device's table; as ``to_pandapower_p``, in Mvar."""
    return _injection_sign(kind) * q_mvar


def _injection_sign(kind: DeviceKind) -> float:
    if kind not in TABLES:
        raise ConfigError(f"unknown kind of device '{kind}'; expected {', '.join(TABLES)}")
    return 1.0 if TABLES[kind] == "sgen" else -1.0
