"""The power flow of a network: write set-points, solve, read results.

pandapower is the model of record. :class:`CompiledPowerFlow` takes what pandapower builds for a network
and solves it one hundred times faster; :class:`PandapowerFlow` calls ``pandapower.runpp`` and is what the
first is tested against. Both have the interface :class:`PowerFlow`::

    flow = make_power_flow(net)
    flow.load.p_mw[:] = 1.2            # in pandapower's own sign of that table
    result = flow.solve()
    result.vm_pu                       # in the order of net.bus
"""

from typing import TYPE_CHECKING

import powergrid.powerflow.numpy_parts  # noqa: F401 - before the first import of scipy
from heron_mqtt.names_on_demand import on_demand
from powergrid.powerflow.compiled import CompiledPowerFlow
from powergrid.powerflow.injections import Generators, Injections
from powergrid.powerflow.interface import PowerFlow, make_power_flow
from powergrid.powerflow.network import CompiledNetwork
from powergrid.powerflow.results import BatchPowerFlowResult, Loadings, PowerFlowResult

if TYPE_CHECKING:
    from powergrid.powerflow.adapter import compile_network
    from powergrid.powerflow.pandapower_flow import PandapowerFlow

__all__ = [
    "BatchPowerFlowResult",
    "CompiledNetwork",
    "CompiledPowerFlow",
    "Generators",
    "Injections",
    "Loadings",
    "PandapowerFlow",
    "PowerFlow",
    "PowerFlowResult",
    "compile_network",
    "make_power_flow",
]

# What needs pandapower is imported when it is asked for: pandapower takes a second.
__getattr__, __dir__ = on_demand(
    __name__,
    {
        "PandapowerFlow": "powergrid.powerflow.pandapower_flow",
        "compile_network": "powergrid.powerflow.adapter",
    },
)
