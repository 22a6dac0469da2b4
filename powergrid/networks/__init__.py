"""Networks, the microgrids in them and the devices attached to them.

docs/profiles.md describes the shipped networks. In short::

    grid = load_grid("cigre_mv_lv")
    bus = grid.microgrids["MG1"].device_buses["battery"]
    placed = attach_devices(grid.net, [DeviceSite("MG1/ess", "battery", bus)])
    table, index = placed["MG1/ess"]
    grid.net[table].loc[index, "p_mw"] = to_pandapower_p("battery", 0.05)  # discharge 50 kW
"""

from powergrid.networks.builders import GRID_ZONE
from powergrid.networks.devices import (
    DeviceKind,
    DeviceSite,
    Table,
    attach_devices,
    to_pandapower_p,
    to_pandapower_q,
)
from powergrid.networks.loader import load_grid, load_network, network_names
from powergrid.networks.membership import attach_microgrid
from powergrid.networks.sites import GridModel, MicrogridSites, Pcc, resolve_bus

__all__ = [
    "GRID_ZONE",
    "DeviceKind",
    "DeviceSite",
    "GridModel",
    "MicrogridSites",
    "Pcc",
    "Table",
    "attach_devices",
    "attach_microgrid",
    "load_grid",
    "load_network",
    "network_names",
    "resolve_bus",
    "to_pandapower_p",
    "to_pandapower_q",
]
