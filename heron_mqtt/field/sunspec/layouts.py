"""Where the points of the SunSpec models stand, as far as the bridge uses them.

Source: the SunSpec Alliance's model definitions, github.com/sunspec/models, json/model_<id>.json; a test
compares every offset, type and scale factor with the copy that pysunspec2 carries, where that is
installed. Offsets count registers from the model's id register (so the first point has offset 2).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

PointType = Literal[
    "uint16", "int16", "enum16", "bitfield16", "sunssf", "uint32", "int32", "bitfield32", "string"
]


@dataclass(frozen=True, slots=True)
class Point:
    """One point of a model.

    Attributes:
        offset: Registers from the model's id.
        type: How its registers are read.
        sf: Name of the point that holds its scale factor, a power of ten.
        size: Registers.
    """

    offset: int
    type: PointType
    sf: str | None
    size: int


_SIZES: dict[str, int] = {"uint32": 2, "int32": 2, "bitfield32": 2}


def _points(text: str) -> dict[str, Point]:
    points = {}
    for line in text.strip().splitlines():
        offset, name, type_, *rest = line.split()
        size = int(rest.pop()) if type_ == "string" else _SIZES.get(type_, 1)
        points[name] = Point(int(offset), type_, rest[0] if rest else None, size)  # type: ignore[arg-type]
    return points


_INVERTER = """
    7 PPVphAB uint16 V_SF
    8 PPVphBC uint16 V_SF
    9 PPVphCA uint16 V_SF
    10 PhVphA uint16 V_SF
    11 PhVphB uint16 V_SF
    12 PhVphC uint16 V_SF
    13 V_SF sunssf
    14 W int16 W_SF
    15 W_SF sunssf
    20 VAr int16 VAr_SF
    21 VAr_SF sunssf
    38 St enum16
    40 Evt1 bitfield32
"""

LAYOUTS: dict[int, dict[str, Point]] = {
    1: _points(
        """
        2 Mn string 16
        18 Md string 16
        50 SN string 16
        """
    ),
    101: _points(_INVERTER),  # single phase
    102: _points(_INVERTER),  # split phase
    103: _points(_INVERTER),  # three phases
    120: _points(  # nameplate
        """
        2 DERTyp enum16
        3 WRtg uint16 WRtg_SF
        4 WRtg_SF sunssf
        19 WHRtg uint16 WHRtg_SF
        20 WHRtg_SF sunssf
        23 MaxChaRte uint16 MaxChaRte_SF
        24 MaxChaRte_SF sunssf
        25 MaxDisChaRte uint16 MaxDisChaRte_SF
        26 MaxDisChaRte_SF sunssf
        """
    ),
    121: _points(  # basic settings
        """
        2 WMax uint16 WMax_SF
        22 WMax_SF sunssf
        """
    ),
    123: _points(  # immediate controls
        """
        5 WMaxLimPct uint16 WMaxLimPct_SF
        7 WMaxLimPct_RvrtTms uint16
        9 WMaxLim_Ena enum16
        23 WMaxLimPct_SF sunssf
        """
    ),
    124: _points(  # basic storage control
        """
        2 WChaMax uint16 WChaMax_SF
        5 StorCtl_Mod bitfield16
        8 ChaState uint16 ChaState_SF
        12 OutWRte int16 InOutWRte_SF
        13 InWRte int16 InOutWRte_SF
        15 InOutWRte_RvrtTms uint16
        17 ChaGriSet enum16
        18 WChaMax_SF sunssf
        22 ChaState_SF sunssf
        25 InOutWRte_SF sunssf
        """
    ),
    701: _points(  # DER AC measurement
        """
        4 InvSt enum16
        6 Alrm bitfield32
        10 W int16 W_SF
        12 Var int16 Var_SF
        15 LLV uint16 V_SF
        16 LNV uint16 V_SF
        47 VL1 uint16 V_SF
        114 V_SF sunssf
        116 W_SF sunssf
        119 Var_SF sunssf
        """
    ),
    702: _points(  # DER capacity
        """
        2 WMaxRtg uint16 W_SF
        10 WChaRteMaxRtg uint16 W_SF
        11 WDisChaRteMaxRtg uint16 W_SF
        26 WMax uint16 W_SF
        45 W_SF sunssf
        """
    ),
    704: _points(  # DER AC controls
        """
        14 WMaxLimPctEna enum16
        15 WMaxLimPct uint16 WMaxLimPct_SF
        16 WMaxLimPctRvrt uint16 WMaxLimPct_SF
        17 WMaxLimPctEnaRvrt enum16
        18 WMaxLimPctRvrtTms uint32
        22 WSetEna enum16
        23 WSetMod enum16
        24 WSet int32 WSet_SF
        26 WSetRvrt int32 WSet_SF
        30 WSetEnaRvrt enum16
        31 WSetRvrtTms uint32
        35 VarSetEna enum16
        36 VarSetMod enum16
        38 VarSet int32 VarSet_SF
        40 VarSetRvrt int32 VarSet_SF
        44 VarSetEnaRvrt enum16
        45 VarSetRvrtTms uint32
        54 WMaxLimPct_SF sunssf
        55 WSet_SF sunssf
        57 VarSet_SF sunssf
        """
    ),
    713: _points(  # DER storage capacity
        """
        2 WHRtg uint16 WH_SF
        4 SoC uint16 Pct_SF
        7 WH_SF sunssf
        8 Pct_SF sunssf
        """
    ),
}
"""Model id -> name -> point."""
