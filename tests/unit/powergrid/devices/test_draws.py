"""What chance makes of a device is within what the device itself allows."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import pytest

from powergrid.devices import BatterySpec, DeviceSpecBase
from powergrid.devices.draws import DeviceDraw, drawn_device, drawn_soc

NAMEPLATE: dict[str, Any] = {"max_e_mwh": 2.0, "max_p_charge_mw": 1.0, "max_p_discharge_mw": 1.0}


class HeatStoreSpec(DeviceSpecBase):
    """A kind of somebody else's: its state of charge counts, and it names no limits of it."""

    has_soc: ClassVar[bool] = True
    soc_has_band: ClassVar[bool] = True
    kind: Literal["heat_store"] = "heat_store"

    @property
    def power_range_mw(self) -> tuple[float, float]:
        return -1.0, 0.0

    @property
    def rated_s_mva(self) -> float:
        return 1.0


@pytest.mark.parametrize(("drawn", "begins_with"), [(0.05, 0.2), (0.5, 0.5), (0.95, 0.8)])
def test_a_battery_begins_within_its_own_limits_whatever_is_drawn(drawn: float, begins_with: float) -> None:
    spec = BatterySpec(**NAMEPLATE, min_soc=0.2, max_soc=0.8)
    assert drawn_soc(spec, DeviceDraw(soc=drawn)) == begins_with
    assert drawn_device(spec, DeviceDraw(soc=drawn)).state.soc == begins_with


@pytest.mark.parametrize("drawn", [0.0, 0.3, 1.0])
def test_a_kind_without_limits_of_its_own_begins_with_what_is_drawn(drawn: float) -> None:
    assert drawn_soc(HeatStoreSpec(), DeviceDraw(soc=drawn)) == drawn
