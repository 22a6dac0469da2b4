"""The power flow of a network: write set-points, solve, read results.

pandapower is the model of record. :class:`CompiledPowerFlow` takes what pandapower builds for a network
and solves it one hundred times faster; :class:`PandapowerFlow` calls ``pandapower.runpp`` and is what the
first is tested against. Both have the interface :class:`PowerFlow`::

    flow = make_power_flow(net)
    flow.load.p_mw[:] = 1.2            # in pandapower's own sign of that table
    result = flow.solve()
    result.vm_pu                       # in the order of net.bus
"""

from powergrid.powerflow.compiled import CompiledPowerFlow
from powergrid.powerflow.injections import Generators, Injections
from powergrid.powerflow.interface import PowerFlow, make_power_flow
from powergrid.powerflow.pandapower_flow import PandapowerFlow
from powergrid.powerflow.results import BatchPowerFlowResult, Loadings, PowerFlowResult

__all__ = [
    "BatchPowerFlowResult",
    "CompiledPowerFlow",
    "Generators",
    "Injections",
    "Loadings",
    "PandapowerFlow",
    "PowerFlow",
    "PowerFlowResult",
    "make_power_flow",
]
