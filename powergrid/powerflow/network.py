"""A network compiled into plain arrays: what pandapower is needed for once, and can be kept in a file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from powergrid.powerflow.arrays import GridArrays
from powergrid.powerflow.injections import InjectionArrays
from powergrid.powerflow.taps import TapTable

__all__ = ["CompiledNetwork"]


@dataclass(frozen=True, slots=True, eq=False)
class CompiledNetwork:
    """All that a compiled power flow needs of a network; none of its arrays is written to.

    Attributes:
        grid: Admittances, and which bus is which node.
        injections: Loads, generators and the like as given.
        line_index, trafo_index, ext_grid_index: pandapower index values, in the order of the tables.
        read_taps: Returns the admittances at every tap position; may take some milliseconds.
    """

    grid: GridArrays
    injections: InjectionArrays
    line_index: NDArray[np.int64]
    trafo_index: NDArray[np.int64]
    ext_grid_index: NDArray[np.int64]
    read_taps: Callable[[], TapTable]

    @property
    def n_gen(self) -> int:
        """Number of generators that hold voltages, in service or not."""
        return len(self.injections.index["gen"])
