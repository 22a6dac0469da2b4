"""The injections of a network as plain arrays, and the set-points that a caller writes before a solve.

Column order of the flat vectors: load, sgen, storage (those a caller may set), then gen and ward.
One vector for all tables keeps the work of a step to a handful of numpy calls.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from powergrid.powerflow.results import Array

__all__ = ["TABLES", "FlatInjections", "Generators", "InjectionArrays", "Injections", "read_injections"]

TABLES = ("load", "sgen", "storage")
_FLAT_TABLES = (*TABLES, "gen", "ward")
_PRODUCES = {"load": -1.0, "sgen": 1.0, "storage": -1.0, "gen": 1.0, "ward": -1.0}


@dataclass(frozen=True, slots=True, eq=False)
class Injections:
    """Set-points of one element table (load, sgen or storage), in table order.

    Write into the arrays (``load.p_mw[:] = ...``); the attributes themselves cannot be replaced.
    Powers carry pandapower's own sign of that table: load and storage positive = consumed, sgen
    positive = produced.

    Attributes:
        index: (n,) pandapower index values.
        p_mw: (n,) MW, before scaling.
        q_mvar: (n,) Mvar, before scaling.
        scaling: (n,) factor on both powers.
        in_service: (n,) bool.
    """

    index: NDArray[np.int64]
    p_mw: Array
    q_mvar: Array
    scaling: Array
    in_service: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Generators:
    """Set-points of the voltage-controlling generators (table gen), in table order.

    Attributes:
        index: (n,) pandapower index values.
        p_mw: (n,) MW, positive = produced, before scaling.
        vm_pu: (n,) voltage magnitude to hold, pu.
        scaling: (n,) factor on p_mw.
        in_service: (n,) bool; a generator out of service holds no voltage.
    """

    index: NDArray[np.int64]
    p_mw: Array
    vm_pu: Array
    scaling: Array
    in_service: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class InjectionArrays:
    """All injections of a network as they stand in its tables.

    Attributes:
        index: Table name -> (n,) pandapower index values, in the order of the columns.
        power: (2, m) MW and Mvar in each table's own sign.
        scaling: (m,).
        in_service: (m,) bool.
        gen_vm_pu: (n_gen,) voltage magnitudes that generators hold, pu.
    """

    index: dict[str, NDArray[np.int64]]
    power: Array
    scaling: Array
    in_service: NDArray[np.bool_]
    gen_vm_pu: Array


def read_injections(net: Any) -> InjectionArrays:
    """Return the injections of a pandapower network."""
    columns = columns_of({name: len(net[name]) for name in _FLAT_TABLES})
    m = columns[_FLAT_TABLES[-1]].stop
    power, scaling, in_service = np.zeros((2, m)), np.ones(m), np.zeros(m, dtype=bool)
    for name, part in columns.items():
        table = net[name]
        p_column, q_column = ("ps_mw", "qs_mvar") if name == "ward" else ("p_mw", "q_mvar")
        power[0, part] = table[p_column].to_numpy(float)
        if name != "gen":
            power[1, part] = table[q_column].to_numpy(float)
        if name != "ward":
            scaling[part] = table["scaling"].to_numpy(float)
        in_service[part] = table["in_service"].to_numpy(bool)
    index = {name: index_of(net[name]) for name in _FLAT_TABLES}
    return InjectionArrays(index, power, scaling, in_service, net.gen["vm_pu"].to_numpy(float, copy=True))


def columns_of(lengths: Mapping[str, int]) -> dict[str, slice]:
    """Return which of the flat columns are whose, by table."""
    columns, end = {}, 0
    for name in _FLAT_TABLES:
        begin, end = end, end + lengths[name]
        columns[name] = slice(begin, end)
    return columns


class FlatInjections:
    """All injections of a network in flat vectors, and the views that callers write into.

    Args:
        given: The injections as they stand in the network; copied.

    Attributes:
        power: (2, m) MW and Mvar in each table's own sign.
        scaling, in_service: (m,).
        sign: (m,) +1 where positive power is produced, -1 where it is consumed.
        columns: Table name -> slice of the m columns.
        n_settable: Columns of load, sgen and storage, which come first.
        set_points: (2, n_settable) of these, a view of ``power``.
        set_point_columns: Table name -> slice of them.
    """

    def __init__(self, given: InjectionArrays) -> None:
        self._index = given.index
        self.columns = columns_of({name: len(index) for name, index in given.index.items()})
        self.n_settable: int = self.columns[TABLES[-1]].stop
        self.power, self.scaling = given.power.copy(), given.scaling.copy()
        self.in_service = given.in_service.copy()
        self.set_points: Array = self.power[:, : self.n_settable]
        self.set_point_columns = {name: self.columns[name] for name in TABLES}
        self.sign = np.empty(len(self.scaling))
        for name, part in self.columns.items():
            self.sign[part] = _PRODUCES[name]
        self.load, self.sgen, self.storage = (self._view(name) for name in TABLES)
        part = self.columns["gen"]
        self.gen = Generators(
            index=self._index["gen"],
            p_mw=self.power[0, part],
            vm_pu=given.gen_vm_pu.copy(),
            scaling=self.scaling[part],
            in_service=self.in_service[part],
        )

    def _view(self, name: str) -> Injections:
        part = self.columns[name]
        return Injections(
            index=self._index[name],
            p_mw=self.power[0, part],
            q_mvar=self.power[1, part],
            scaling=self.scaling[part],
            in_service=self.in_service[part],
        )

    def first_not_finite(self) -> str | None:
        """Name the first set-point that is NaN or infinite (``"load 3: p_mw is nan"``)."""
        for name, part in self.columns.items():
            quantities = {
                "p_mw": self.power[0, part],
                "q_mvar": self.power[1, part],
                "scaling": self.scaling[part],
            }
            if name == "gen":
                quantities["vm_pu"] = self.gen.vm_pu
            for quantity, values in quantities.items():
                bad = np.flatnonzero(~np.isfinite(values))
                if len(bad):
                    return f"{name} {self._index[name][bad[0]]}: {quantity} is {values[bad[0]]}"
        return None


def index_of(table: Any) -> NDArray[np.int64]:
    """Return a copy of the index values of a pandapower table."""
    values: NDArray[np.int64] = table.index.to_numpy(np.int64, copy=True)
    return values
