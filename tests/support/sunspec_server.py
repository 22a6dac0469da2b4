"""A SunSpec inverter behind a Modbus TCP server on a free loopback port, with reversion timers of its own.

Its registers are built from the SunSpec Alliance's definitions (sunspec_models.json), not from those of
the bridge. Its clock is a number that a test moves.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from pymodbus.constants import ExcCodes
from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

MODELS: dict[str, list[list[Any]]] = json.loads((Path(__file__).parent / "sunspec_models.json").read_text())[
    "models"
]
NOT_IMPLEMENTED = {
    "int16": 0x8000,
    "sunssf": 0x8000,
    "int32": 0x80000000,
    "string": 0,
    "acc32": 0,
    "pad": 0x8000,
}

PV: dict[int, dict[str, Any]] = {
    1: {"Mn": "Heron Works", "Md": "PV-50", "SN": "0815"},
    103: {"W": 4000, "W_SF": 1, "VAr": -200, "VAr_SF": 1, "PhVphA": 2310, "PhVphB": 2300, "PhVphC": 2290}
    | {"V_SF": -1, "St": 4, "Evt1": 0},
    120: {"DERTyp": 4, "WRtg": 5000, "WRtg_SF": 1},
    121: {"WMax": 500, "WMax_SF": 2},
    123: {"WMaxLimPct": 10000, "WMaxLimPct_SF": -2, "WMaxLimPct_RvrtTms": 0, "WMaxLim_Ena": 0},
}
BATTERY: dict[int, dict[str, Any]] = {
    1: {"Mn": "Heron Works", "Md": "ESS-10", "SN": "4711"},
    103: {"W": 0, "W_SF": 0, "VAr": 0, "VAr_SF": 0, "V_SF": -1, "PhVphA": 2300, "St": 4, "Evt1": 0},
    120: {"DERTyp": 82, "WRtg": 1000, "WRtg_SF": 1, "WHRtg": 2000, "WHRtg_SF": 1}
    | {"MaxChaRte": 800, "MaxChaRte_SF": 1, "MaxDisChaRte": 900, "MaxDisChaRte_SF": 1},
    124: {"WChaMax": 8000, "WChaMax_SF": 0, "StorCtl_Mod": 0, "ChaState": 6400, "ChaState_SF": -2}
    | {"OutWRte": 10000, "InWRte": 10000, "InOutWRte_SF": -2, "InOutWRte_RvrtTms": 0, "ChaGriSet": 1},
}
DER: dict[int, dict[str, Any]] = {
    1: {"Mn": "Heron Works", "Md": "DER-1", "SN": "1547"},
    701: {"InvSt": 3, "Alrm": 0, "W": -1500, "W_SF": 0, "Var": 300, "Var_SF": 0, "LNV": 2323, "V_SF": -1},
    702: {"WMaxRtg": 1000, "WMax": 1000, "WChaRteMaxRtg": 700, "WDisChaRteMaxRtg": 600, "W_SF": 1},
    704: {"WMaxLimPctEna": 0, "WMaxLimPct": 100, "WMaxLimPctRvrt": 100, "WMaxLimPctEnaRvrt": 0}
    | {"WMaxLimPctRvrtTms": 0, "WMaxLimPct_SF": 0, "WSetEna": 0, "WSetMod": 0, "WSet": 0, "WSetRvrt": 0}
    | {"WSetEnaRvrt": 0, "WSetRvrtTms": 0, "WSet_SF": 0, "VarSetEna": 0, "VarSetMod": 0, "VarSet": 0}
    | {"VarSetRvrt": 0, "VarSetEnaRvrt": 0, "VarSetRvrtTms": 0, "VarSet_SF": 0},
    713: {"WHRtg": 100, "WH_SF": 2, "SoC": 805, "Pct_SF": -1},
}


class EmulatedInverter:
    """One inverter; give it the points that it implements.

    Args:
        models: Model id -> point -> number as it stands in the registers (or a text).
        base: Address of the marker.
        lengths: Models that say to be shorter than they are defined, as of older revisions.
    """

    def __init__(
        self, models: dict[int, dict[str, Any]], *, base: int = 40_000, lengths: dict[int, int] | None = None
    ) -> None:
        self.now_s = 0.0
        self.base = base
        self.silent = False
        self.refuse: ExcCodes | None = None
        self.requests: list[tuple[int, int, list[int]]] = []  # function, address, words written
        self._armed: dict[str, float] = {}
        self._places: dict[tuple[int, str], tuple[int, int]] = {}
        self.image = [0x5375, 0x6E53]
        for model, points in models.items():
            start = len(self.image)
            for name, kind, size, _ in MODELS[str(model)]:
                self._places[model, name] = (len(self.image), size)
                value = points.get(name, NOT_IMPLEMENTED.get(kind, 0xFFFF_FFFF_FFFF_FFFF))
                self.image += _words(value, size)
            self.image[start] = model
            self.image[start + 1] = (lengths or {}).get(model, len(self.image) - start - 2)
            self.image = self.image[: start + 2 + self.image[start + 1]]
        self.image += [0xFFFF, 0]
        self._server: ModbusTcpServer | None = None
        self.port = 0

    async def start(self) -> EmulatedInverter:
        """Listen on a free port, or on the one it had before."""
        data = SimData(self.base, values=list(self.image), datatype=DataType.REGISTERS)
        device = SimDevice(1, simdata=[data], action=self._action)
        self._server = ModbusTcpServer(device, address=("127.0.0.1", self.port))
        await self._server.serve_forever(background=True)
        self.port = self._server.transport.sockets[0].getsockname()[1]
        return self

    async def stop(self) -> None:
        """Stop listening and drop the connections."""
        if self._server is not None:
            await self._server.shutdown()
            self._server = None

    def __getitem__(self, place: tuple[int, str]) -> int:
        """Return a point's number as it stands in the registers, with its sign."""
        start, size = self._places[place]
        bits = 0
        for word in self.image[start : start + size]:
            bits = bits << 16 | word
        kind = next(k for n, k, *_ in MODELS[str(place[0])] if n == place[1])
        signed = kind in {"int16", "int32", "sunssf"} and bits >= 1 << (16 * size - 1)
        return bits - (1 << 16 * size) if signed else bits

    def __setitem__(self, place: tuple[int, str], value: int) -> None:
        start, size = self._places[place]
        self.image[start : start + size] = _words(value, size)

    def writes(self) -> list[tuple[int, list[int]]]:
        """Return address and words of every write so far."""
        return [(address, words) for function, address, words in self.requests if function in {6, 16}]

    # -- behaviour ---------------------------------------------------------------------------------

    async def _action(
        self,
        function: int,
        start: int,
        address: int,
        count: int,
        registers: list[int],
        values: list[int] | list[bool] | None,
    ) -> ExcCodes | None:
        self.requests.append((function, address, [int(v) for v in values or []]))
        if self.silent:
            await asyncio.Event().wait()
        if self.refuse is not None:
            return self.refuse
        self.run_timers()
        if values:
            at = address - self.base
            self.image[at : at + count] = [int(v) for v in values]
            self._arm(at, count)
        registers[: len(self.image)] = self.image
        return None

    def run_timers(self) -> None:
        """Let every timer whose time has come revert its function."""
        for function, deadline in list(self._armed.items()):
            if self.now_s >= deadline:
                del self._armed[function]
                self._revert(function)

    def _arm(self, at: int, count: int) -> None:
        """A write to a function's points starts its timer anew, if it has one and is enabled."""
        for function, (model, timer, points) in _FUNCTIONS.items():
            touched = any(
                (model, p) in self._places and at <= self._places[model, p][0] < at + count for p in points
            )
            if touched:
                self._armed.pop(function, None)
                if (model, timer) in self._places and 0 < self[model, timer] < 0xFFFF_FFFF:
                    self._armed[function] = self.now_s + self[model, timer]

    def _revert(self, function: str) -> None:
        if function == "limit":
            self[123, "WMaxLim_Ena"] = 0
        elif function == "storage":
            self[124, "StorCtl_Mod"] = 0
        elif self[704, f"{function}EnaRvrt"] == 1:
            self[704, function] = self[704, f"{function}Rvrt"]
        else:
            self[704, f"{function}Ena"] = 0


_FUNCTIONS = {
    "limit": (123, "WMaxLimPct_RvrtTms", ("WMaxLimPct", "WMaxLim_Ena")),
    "storage": (124, "InOutWRte_RvrtTms", ("OutWRte", "InWRte", "StorCtl_Mod")),
    "WMaxLimPct": (704, "WMaxLimPctRvrtTms", ("WMaxLimPct", "WMaxLimPctEna")),
    "WSet": (704, "WSetRvrtTms", ("WSet", "WSetEna")),
    "VarSet": (704, "VarSetRvrtTms", ("VarSet", "VarSetEna")),
}


def _words(value: int | str, size: int) -> list[int]:
    if isinstance(value, str):
        data = value.encode().ljust(2 * size, b"\0")
        return [int.from_bytes(data[2 * i : 2 * i + 2], "big") for i in range(size)]
    bits = value % (1 << 16 * size)
    return [bits >> 16 * i & 0xFFFF for i in reversed(range(size))]
