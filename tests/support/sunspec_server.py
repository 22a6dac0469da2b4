"""A SunSpec inverter behind a Modbus TCP server on a free loopback port, with reversion timers of its own.

Its power follows what its controls (models 123, 124, 704) hold; without one it is what a test has put there.

Its registers are built from the SunSpec Alliance's definitions, which pysunspec2 carries, by a few lines of
its own and not by those of the bridge. Its clock is a number that a test moves.
"""

from __future__ import annotations

import asyncio
import json
import math
import struct
from collections.abc import Iterator
from functools import cache
from importlib import resources
from typing import Any

from pymodbus.constants import ExcCodes
from pymodbus.framer import FramerType
from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

NOT_IMPLEMENTED = {
    "int16": 0x8000,
    "sunssf": 0x8000,
    "int32": 0x80000000,
    "string": 0,
    "acc32": 0,
    "pad": 0x8000,
    "float32": 0x7FC0_0000,
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


FLOAT: dict[int, dict[str, Any]] = {
    1: {"Mn": "Heron Works", "Md": "PV-F", "SN": "113"},
    113: {"W": 4321.5, "VAr": -20.25, "PhVphA": 231.0, "PhVphB": 230.0, "PhVphC": 229.0, "St": 4, "Evt1": 0},
    120: {"DERTyp": 4, "WRtg": 5000, "WRtg_SF": 0},
    123: {"WMaxLimPct": 100, "WMaxLimPct_SF": 0, "WMaxLimPct_RvrtTms": 0, "WMaxLim_Ena": 0},
}


def defined_points(model: int, counts: dict[str, int]) -> Iterator[tuple[str, str, int]]:
    """Yield name, type and size of the points of a model, in order; of groups as "Crv[1].Pt[2].V".

    Args:
        model: Its id.
        counts: How often groups stand there whose number is a point's: NPt, NCrv, NPrt.
    """

    def walk(group: dict[str, Any], prefix: str) -> Iterator[tuple[str, str, int]]:
        for point in group["points"]:
            yield prefix + point["name"], point["type"], point["size"]
        for inner in group.get("groups", ()):
            count = inner.get("count", 1)
            for i in range(counts.get(count, 0) if isinstance(count, str) else count):
                yield from walk(inner, f"{prefix}{inner['name']}[{i + 1}].")

    yield from walk(_definition(model), "")


@cache
def _definition(model: int) -> dict[str, Any]:
    file = resources.files("sunspec2") / "models" / "json" / f"model_{model}.json"
    group: dict[str, Any] = json.loads(file.read_text())["group"]
    return group


class EmulatedInverter:
    """One inverter; give it the points that it implements.

    Args:
        models: Model id -> point -> number as it stands in the registers (a float for a float, or a text).
        base: Address of the marker.
        lengths: Models that say to be shorter than they are defined, as of older revisions.
        has_end: The list of models ends as it should.
        framing: "tcp", or "rtu" for RTU frames over TCP.
        unit: Its unit id; 0 = it answers to any.
    """

    def __init__(
        self,
        models: dict[int, dict[str, Any]],
        *,
        base: int = 40_000,
        lengths: dict[int, int] | None = None,
        has_end: bool = True,
        framing: str = "tcp",
        unit: int = 1,
    ) -> None:
        self.now_s = 0.0
        self.base = base
        self.silent = False
        self.swallows = 0  # so many requests get no answer
        self.busy = 0  # so many requests are answered by exception 6
        self.accepted = 0
        self.beside: list[EmulatedInverter] = []  # further units behind the same address
        self._framing, self._unit = framing, unit
        self._kinds: dict[tuple[int, str], str] = {}
        self.refuse: ExcCodes | None = None
        self.refuse_reads: ExcCodes | None = None
        self.refuse_writes: ExcCodes | None = None
        self.answers_reads = asyncio.Event()  # cleared: reading gets no answer, writing does
        self.answers_reads.set()
        self.writes_left: int | None = None  # so many writes are taken, further ones are refused
        self.forgets = False  # it acknowledges what is written, and does nothing
        self.follows = True  # False: its registers are written, and its power stays what it is
        self._own_w: float | None = None  # its power without a control, while one holds it
        self.requests: list[tuple[int, int, list[int]]] = []  # function, address, words written
        self._armed: dict[str, float] = {}
        self._places: dict[tuple[int, str], tuple[int, int]] = {}
        self.image = [0x5375, 0x6E53]
        for model, points in models.items():
            start = len(self.image)
            counts = {name: value for name, value in points.items() if isinstance(value, int)}
            for name, kind, size in defined_points(model, counts):
                self._places[model, name] = (len(self.image), size)
                self._kinds[model, name] = kind
                value = points.get(name, NOT_IMPLEMENTED.get(kind, 0xFFFF_FFFF_FFFF_FFFF))
                self.image += _words(value, size)
            self.image[start] = model
            self.image[start + 1] = (lengths or {}).get(model, len(self.image) - start - 2)
            self.image = self.image[: start + 2 + self.image[start + 1]]
        if has_end:
            self.image += [0xFFFF, 0]
        self._server: ModbusTcpServer | None = None
        self.port = 0

    async def start(self) -> EmulatedInverter:
        """Listen on a free port, or on the one it had before."""
        devices = [each._device() for each in (self, *self.beside)]
        framer = FramerType.RTU if self._framing == "rtu" else FramerType.SOCKET
        self._server = ModbusTcpServer(
            devices, framer=framer, address=("127.0.0.1", self.port), trace_connect=self._on_connect
        )
        await self._server.serve_forever(background=True)
        self.port = self._server.transport.sockets[0].getsockname()[1]
        return self

    def _device(self) -> SimDevice:
        data = SimData(self.base, values=list(self.image), datatype=DataType.REGISTERS)
        return SimDevice(self._unit, simdata=[data], action=self._action)

    def _on_connect(self, connected: bool) -> None:
        self.accepted += connected

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
        kind = self._kinds[place]
        signed = kind in {"int16", "int32", "sunssf"} and bits >= 1 << (16 * size - 1)
        return bits - (1 << 16 * size) if signed else bits

    def __contains__(self, place: tuple[int, str]) -> bool:
        return place in self._places

    def __setitem__(self, place: tuple[int, str], value: int) -> None:
        self._put(*place, value)

    def _put(self, model: int, name: str, value: float) -> None:
        start, size = self._places[model, name]
        self.image[start : start + size] = _words(value, size)

    def places(self) -> dict[tuple[int, str], tuple[int, int]]:
        """Return where each point begins in ``image``, and how many registers it has."""
        return self._places

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
        if self.silent or self.swallows > 0:
            self.swallows -= 1
            await asyncio.Event().wait()
        if self.busy > 0:
            self.busy -= 1
            return ExcCodes.DEVICE_BUSY
        if not values:
            await self.answers_reads.wait()
        if values and self.writes_left is not None:
            if self.writes_left == 0:
                return ExcCodes.DEVICE_FAILURE
            self.writes_left -= 1
        refused = self.refuse or (self.refuse_writes if values else self.refuse_reads)
        if refused is not None:
            return refused
        self.run_timers()
        if values and not self.forgets:
            at = address - self.base
            self.image[at : at + count] = [int(v) for v in values]
            self._arm(at, count)
        self.follow()
        registers[: len(self.image)] = self.image
        return None

    def run_timers(self) -> None:
        """Let every timer whose time has come revert its function."""
        for function, deadline in list(self._armed.items()):
            if self.now_s >= deadline:
                del self._armed[function]
                self._revert(function)

    def follow(self) -> None:
        """Let the power be what the controls hold, at once; without any, what it was before them."""
        if not self.follows or self._measuring() is None:
            return
        own_w = self.p_w if self._own_w is None else self._own_w
        held_w = self._held_w(own_w)
        if held_w is not None:
            self.p_w, self._own_w = held_w, own_w
        elif self._own_w is not None:
            self.p_w, self._own_w = own_w, None

    def _held_w(self, own_w: float) -> float | None:
        """Return the power that the controls leave, W; None = none of them is enabled."""
        held_w = None
        if (123, "WMaxLim_Ena") in self and self[123, "WMaxLim_Ena"] == 1:
            held_w = min(own_w, self._scaled(123, "WMaxLimPct") / 100.0 * self._w_max())
        if (124, "StorCtl_Mod") in self and self[124, "StorCtl_Mod"] == 3:
            charge_w = self._scaled(124, "WChaMax", "WChaMax_SF")
            rates = [self._scaled(124, name, "InOutWRte_SF") / 100.0 for name in ("InWRte", "OutWRte")]
            held_w = min(max(own_w, -rates[0] * charge_w), rates[1] * charge_w)
        if (704, "WSetEna") not in self:
            return held_w
        if self[704, "WSetEna"] == 1 and self[704, "WSetMod"] == 1:
            held_w = self._scaled(704, "WSet")
        elif self[704, "WSetEna"] == 1:
            held_w = self._scaled(704, "WSetPct") / 100.0 * self._w_max()
        if self[704, "WMaxLimPctEna"] == 1:
            own_w = own_w if held_w is None else held_w
            held_w = min(own_w, self._scaled(704, "WMaxLimPct") / 100.0 * self._w_max())
        return held_w

    @property
    def p_w(self) -> float:
        """What it measures, W, positive = injected."""
        model = self._measuring()
        assert model is not None
        return self._scaled(model, "W")

    @p_w.setter
    def p_w(self, p_w: float) -> None:
        model = self._measuring()
        assert model is not None
        if self._kinds[model, "W"] == "float32":
            self._put(model, "W", float(p_w))
        else:
            self[model, "W"] = round(p_w / 10 ** self[model, "W_SF"])

    def _measuring(self) -> int | None:
        return next((model for model in (701, 103, 113) if (model, "W") in self), None)

    def _w_max(self) -> float:
        places = ((702, "WMax", "W_SF"), (121, "WMax", "WMax_SF"), (120, "WRtg", "WRtg_SF"))
        return next((self._scaled(*place) for place in places if place[:2] in self), math.inf)

    def _scaled(self, model: int, name: str, scale: str = "") -> float:
        if self._kinds[model, name] == "float32":
            start, size = self._places[model, name]
            value: float = struct.unpack(">f", struct.pack(">2H", *self.image[start : start + size]))[0]
            return value
        place = (model, scale or f"{name}_SF")
        exponent = self[place] if place in self._places else 0
        return self[model, name] * 10.0**exponent

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
    "limit": (123, "WMaxLimPct_RvrtTms", ("WMaxLimPct", "WMaxLimPct_RvrtTms", "WMaxLim_Ena")),
    "storage": (124, "InOutWRte_RvrtTms", ("OutWRte", "InWRte", "InOutWRte_RvrtTms", "StorCtl_Mod")),
    "WMaxLimPct": (704, "WMaxLimPctRvrtTms", ("WMaxLimPct", "WMaxLimPctRvrtTms", "WMaxLimPctEna")),
    "WSet": (704, "WSetRvrtTms", ("WSet", "WSetRvrtTms", "WSetEna")),
    "VarSet": (704, "VarSetRvrtTms", ("VarSet", "VarSetEna")),
}


def _words(value: float | str, size: int) -> list[int]:
    if isinstance(value, float):
        value = int.from_bytes(struct.pack(">f", value), "big")
    if isinstance(value, str):
        data = value.encode().ljust(2 * size, b"\0")
        return [int.from_bytes(data[2 * i : 2 * i + 2], "big") for i in range(size)]
    bits = value % (1 << 16 * size)
    return [bits >> 16 * i & 0xFFFF for i in reversed(range(size))]
