"""Networks, the microgrids in them and the devices attached to them.

docs/profiles.md describes the shipped networks. In short::

    grid = load_grid("cigre_mv_lv")
    bus = grid.microgrids["MG1"].device_buses["battery"]
    placed = attach_devices(grid.net, [DeviceSite("MG1/ess", "battery", bus)])
    table, index = placed["MG1/ess"]
    grid.net[table].loc[index, "p_mw"] = to_pandapower_p("battery", 0.05)  # discharge 50 kW
"""

from powergrid.networks.devices import (
    DeviceSite,
    attach_devices,
    to_pandapower_p,
    to_pandapower_q,
)
from powergrid.networks.loader import find_source, load_grid, load_network, network_names
from powergrid.networks.membership import attach_microgrid
from powergrid.networks.sites import GRID_ZONE, GridModel, MicrogridSites, Pcc, resolve_bus
from powergrid.networks.sources import NETWORK_SOURCES, NetworkSource

__all__ = [
    "GRID_ZONE",
    "NETWORK_SOURCES",
    "DeviceSite",
    "GridModel",
    "MicrogridSites",
    "NetworkSource",
    "Pcc",
    "attach_devices",
    "attach_microgrid",
    "find_source",
    "load_grid",
    "load_network",
    "network_names",
    "resolve_bus",
    "to_pandapower_p",
    "to_pandapower_q",
]
