"""A compiled grid in a file of plain arrays (``.npz``), which holds no Python objects."""

from __future__ import annotations

import io
import json
from dataclasses import asdict, fields
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heron_mqtt.messages import NetworkModel
from powergrid.networks import MicrogridSites, Pcc
from powergrid.powerflow import CompiledNetwork
from powergrid.powerflow.arrays import GridArrays
from powergrid.powerflow.injections import InjectionArrays
from powergrid.powerflow.setpoints import TapPositions
from powergrid.powerflow.taps import TapTable
from powergrid.simulation.placed_grid import CompiledGrid, Placement

__all__ = ["grid_bytes", "grid_from_bytes"]

FORMAT = 1
"""Raised by one with each change after which an older file would be read wrongly."""

_SCALARS = {"base_mva": float, "n_node": int}
_OPTIONAL = "base_voltage"
_INJECTIONS = ("power", "scaling", "in_service", "gen_vm_pu")


def grid_bytes(grid: CompiledGrid) -> bytes:
    """Return a compiled grid as the content of a file.

    Raises:
        Exception: pandapower cannot compute the tap changers; this is done here if no tap was moved before.
    """
    network = grid.network
    taps = network.read_taps()
    given = network.injections
    arrays: dict[str, Any] = {
        "text": _as_array(json.dumps(_as_json(grid.placement)).encode()),
        "drawing": _as_array(b"" if grid.drawing is None else grid.drawing.model_dump_json().encode()),
        "line_index": network.line_index,
        "trafo_index": network.trafo_index,
        "ext_grid_index": network.ext_grid_index,
        "tap_admittance": taps.admittance,
    }
    for part in fields(GridArrays):
        if (value := getattr(network.grid, part.name)) is not None:
            arrays[f"grid_{part.name}"] = value
    arrays |= {f"index_{table}": index for table, index in given.index.items()}
    for name in _INJECTIONS:
        arrays[f"injections_{name}"] = getattr(given, name)
    for part in fields(TapPositions):
        arrays[f"taps_{part.name}"] = getattr(taps.trafo, part.name)
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    return stream.getvalue()


def _as_array(text: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(text, dtype=np.uint8)


def grid_from_bytes(content: bytes) -> CompiledGrid:
    """Return a compiled grid from the content of a file.

    Raises:
        ValueError, KeyError, TypeError, OSError, EOFError, zipfile.BadZipFile, zlib.error: It is damaged
            (the file has a checksum of each array), or has another format.
    """
    with np.load(io.BytesIO(content), allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    network = CompiledNetwork(
        grid=_grid_arrays(arrays),
        injections=_injections(arrays),
        line_index=arrays["line_index"],
        trafo_index=arrays["trafo_index"],
        ext_grid_index=arrays["ext_grid_index"],
        read_taps=partial(
            TapTable,
            TapPositions(*(arrays[f"taps_{part.name}"] for part in fields(TapPositions))),
            arrays["tap_admittance"],
        ),
    )
    placement = _from_json(json.loads(arrays["text"].tobytes()))
    drawing = arrays["drawing"].tobytes()
    return CompiledGrid(placement, network, NetworkModel.model_validate_json(drawing) if drawing else None)


def _injections(arrays: dict[str, NDArray[Any]]) -> InjectionArrays:
    index = {
        name.removeprefix("index_"): values for name, values in arrays.items() if name.startswith("index_")
    }
    return InjectionArrays(index=index, **{name: arrays[f"injections_{name}"] for name in _INJECTIONS})


def _grid_arrays(arrays: dict[str, NDArray[Any]]) -> GridArrays:
    values: dict[str, Any] = {}
    for part in fields(GridArrays):
        if part.name == _OPTIONAL:
            values[part.name] = arrays.get(f"grid_{part.name}")
        else:
            value = arrays[f"grid_{part.name}"]
            values[part.name] = _SCALARS[part.name](value) if part.name in _SCALARS else value
    return GridArrays(**values)


def _as_json(placement: Placement) -> dict[str, Any]:
    sites = [
        {
            "name": found.name,
            "buses": found.buses,
            "lines": found.lines,
            "trafos": found.trafos,
            "loads": found.loads,
            "pccs": [asdict(pcc) for pcc in found.pccs],
            "device_buses": dict(found.device_buses),
        }
        for found in placement.sites.values()
    ]
    return {
        "format": FORMAT,
        "sites": sites,
        "devices": [[*device, *place] for device, place in placement.devices.items()],
        "load_index": placement.load_index,
        "load_customers": placement.load_customers,
        "bus_names": placement.bus_names,
    }


def _from_json(content: dict[str, Any]) -> Placement:
    if content["format"] != FORMAT:
        raise ValueError(f"format {content['format']}, expected {FORMAT}")
    sites = {
        found["name"]: MicrogridSites(
            name=found["name"],
            pccs=tuple(Pcc(**pcc) for pcc in found["pccs"]),
            device_buses=found["device_buses"],
            **{name: tuple(found[name]) for name in ("buses", "lines", "trafos", "loads")},
        )
        for found in content["sites"]
    }
    return Placement(
        sites=sites,
        devices={
            (microgrid, device): (table, index) for microgrid, device, table, index in content["devices"]
        },
        load_index=tuple(content["load_index"]),
        load_customers=tuple(content["load_customers"]),
        bus_names=tuple(content["bus_names"]),
    )
