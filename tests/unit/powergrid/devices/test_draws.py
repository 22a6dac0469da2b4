"""What chance makes of a device is within what the device itself allows."""

from __future__ import annotations

import random
from typing import Any, ClassVar, Literal

import pytest

from powergrid.devices import BatterySpec, DeviceSpecBase, EvChargerSpec
from powergrid.devices.draws import DeviceDraw, draw_delays, draw_device, drawn_device, drawn_soc

NAMEPLATE: dict[str, Any] = {"max_e_mwh": 2.0, "max_p_charge_mw": 1.0, "max_p_discharge_mw": 1.0}


class HeatStoreSpec(DeviceSpecBase):
    """A kind of another package: its state of charge counts, and it names no limits of it."""

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


class Ranges:
    """What a scenario says of chance."""

    initial_soc: tuple[float, float] | None = (0.2, 0.6)
    efficiency_factor = (0.5, 0.75)
    response_delay_s = (1.0, 5.0)
    answer_delay_s = (0.25, 0.5)


def test_what_is_drawn_lies_in_its_range_as_far_as_chance_says_and_repeats() -> None:
    rng = random.Random("7/MG1/ess")
    soc, factor = rng.random(), rng.random()
    drawn = draw_device(Ranges(), 7, "MG1", "ess")
    assert drawn == (pytest.approx(0.2 + 0.4 * soc), pytest.approx(0.5 + 0.25 * factor))
    without = Ranges()
    without.initial_soc = None
    assert draw_device(without, 7, "MG1", "ess") == (None, drawn.efficiency_factor)
    assert draw_device(Ranges(), None, "MG1", "ess") == (None, 1.0) == DeviceDraw()
    assert (
        len({draw_device(Ranges(), *at) for at in ((7, "MG1", "a"), (8, "MG1", "a"), (7, "MG2", "a"))}) == 3
    )
    rng = random.Random("7/MG1/ess/delays")
    response, answer = rng.random(), rng.random()
    delays = draw_delays(Ranges(), 7, "MG1", "ess")
    assert delays == (pytest.approx(1.0 + 4.0 * response), pytest.approx(0.25 + 0.25 * answer))


def test_what_is_drawn_makes_the_device_that_an_episode_begins_with() -> None:
    spec = BatterySpec(**NAMEPLATE, efficiency_charge=0.8, initial_soc=0.3)
    plain = drawn_device(spec, DeviceDraw())
    assert plain.spec is spec
    assert plain.state == (0.0, 0.3)
    worse = drawn_device(spec, DeviceDraw(soc=0.7, efficiency_factor=0.5))
    assert worse.spec.efficiency_charge == 0.4  # type: ignore[attr-defined]
    assert worse.state == (0.0, 0.7)
    assert drawn_soc(spec, DeviceDraw()) == 0.3
    car = EvChargerSpec(max_p_mw=0.011, max_e_mwh=0.05, arrival_soc=0.4)
    assert drawn_soc(car, DeviceDraw(soc=0.7)) == 0.4, "its state of charge has no band"
    assert drawn_device(car, DeviceDraw(soc=0.7)).state.soc == 0.4


@pytest.mark.parametrize(("drawn", "soc"), [(-0.2, 0.0), (1.2, 1.0)])
def test_a_store_without_limits_of_its_own_is_empty_or_full_at_most(drawn: float, soc: float) -> None:
    assert drawn_soc(HeatStoreSpec(), DeviceDraw(soc=drawn)) == soc
