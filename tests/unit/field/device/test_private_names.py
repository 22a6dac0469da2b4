"""A class derived from FieldDevice that uses a private name of its base is refused in one line."""

from __future__ import annotations

import functools
from typing import Any

import pytest

from heron_mqtt.errors import ConfigError
from heron_mqtt.field.device import FieldDevice
from heron_mqtt.field.device.private_names import refuse_taken_names
from heron_mqtt.field.vendor.vendor_device import VendorDevice
from heron_mqtt.messages import Setpoint, Telemetry
from heron_mqtt.messaging.memory import InMemoryBroker


class Pump(FieldDevice):
    """Uses names of its own."""

    _speed = 0.0

    def apply(self, setpoint: Setpoint) -> None:
        self._p_mw = setpoint.p_mw

    def measure(self) -> Telemetry:
        return Telemetry(p_mw=self._p_mw)


class SetsInMethod(Pump):
    def apply(self, setpoint: Setpoint) -> None:
        self._held = setpoint


class SetsInInit(Pump):
    def __init__(self, *args: Any) -> None:
        self._lease = 3.0  # type: ignore[assignment]
        super().__init__(*args)


class SetsInClosure(Pump):
    def apply(self, setpoint: Setpoint) -> None:
        def later() -> None:
            self._rest = setpoint  # type: ignore[assignment]

        later()


class SetsInProperty(Pump):
    @property
    def speed(self) -> float:
        return 0.0

    @speed.setter
    def speed(self, value: float) -> None:
        self._stop = value  # type: ignore[assignment]


class SetsDecorated(Pump):
    @functools.lru_cache  # noqa: B019
    def helper(self) -> None:
        self._run = None


class DefinesMethod(Pump):
    def _say(self, message: Any) -> None:
        pass


class DefinesConstant(Pump):
    _fault = None


class OfMixin:
    def _report(self, what: str) -> None:
        pass


class InheritsFromMixin(OfMixin, Pump):
    pass


class SetsInMixin:
    def connect(self) -> None:
        self._busy = True


class InheritsFromMixinBehind(Pump, SetsInMixin):  # type: ignore[misc]
    pass


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (SetsInMethod, "_held"),
        (SetsInInit, "_lease"),
        (SetsInClosure, "_rest"),
        (SetsInProperty, "_stop"),
        (SetsDecorated, "_run"),
        (DefinesMethod, "_say"),
        (DefinesConstant, "_fault"),
        (InheritsFromMixin, "_report"),
        (InheritsFromMixinBehind, "_busy"),
    ],
)
def test_a_class_that_uses_a_private_name_of_its_base_is_refused_in_one_line(
    kind: type[FieldDevice], name: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        kind("MG1", "pump", InMemoryBroker())
    assert raised.value.problems == (
        f"class {kind.__module__}.{kind.__qualname__}: {name}: a name that FieldDevice uses itself; choose "
        "another one, best without an underscore in front",
    )


def test_private_names_of_the_device_class_that_it_derives_from_count_too() -> None:
    class Mine(VendorDevice):
        _driving = None
        _commander = None  # type: ignore[assignment]

    with pytest.raises(ConfigError, match="Mine: _commander: a name"):
        refuse_taken_names(Mine)


def test_names_of_its_own_are_left_alone() -> None:
    Pump("MG1", "pump", InMemoryBroker())
