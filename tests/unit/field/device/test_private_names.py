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


class SetsByName(Pump):
    def apply(self, setpoint: Setpoint) -> None:
        setattr(self, "_kept", setpoint)  # noqa: B010


class SetsAsObject(Pump):
    def apply(self, setpoint: Setpoint) -> None:
        object.__setattr__(self, "_notice", setpoint)


class SetsByItself(Pump):
    def apply(self, setpoint: Setpoint) -> None:
        self.__setattr__("_first", setpoint)


class Deletes(Pump):
    def apply(self, setpoint: Setpoint) -> None:
        del self._answered


class Adds(Pump):
    def apply(self, setpoint: Setpoint) -> None:
        self._period_s += 1.0


class SetsBesides(Pump):
    def apply(self, setpoint: Setpoint) -> None:
        this = self
        this.speed, this._channel = 1.0, "x"  # type: ignore[attr-defined]


class SetsByType(Pump):
    @functools.singledispatchmethod
    def say(self, what: Any) -> None:
        pass

    @say.register
    def _(self, what: int) -> None:
        self._tasks = what  # type: ignore[assignment]

    @say.register
    def _(self, what: str) -> None:
        pass


class SetsInPart(Pump):
    def put(self, what: Any, value: Any) -> None:
        self._untold = value

    zero = functools.partialmethod(put, "p", value=0)


class SetsInClassMethod(Pump):
    @classmethod
    def prepare(cls) -> None:
        cls._next_telemetry_at = 0.0  # type: ignore[misc]


def logged(method: Any) -> Any:
    @functools.wraps(method)
    def call(self: Any, *args: Any) -> Any:
        self._at = args
        return method(self, *args)

    return call


class SetsInDecorator(Pump):
    @logged
    def apply(self, setpoint: Setpoint) -> None:
        pass


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
        (SetsByName, "_kept"),
        (SetsAsObject, "_notice"),
        (SetsByItself, "_first"),
        (Deletes, "_answered"),
        (Adds, "_period_s"),
        (SetsBesides, "_channel"),
        (SetsByType, "_tasks"),
        (SetsInPart, "_untold"),
        (SetsInClassMethod, "_next_telemetry_at"),
        (SetsInDecorator, "_at"),
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


def test_attributes_of_other_objects_are_their_own() -> None:
    class Helper:
        _held = 0

    class Mine(Pump):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self.helper = Helper()

        def apply(self, setpoint: Setpoint) -> None:
            helper = Helper()
            helper._held = self.helper._held = 1
            helper._held += 1
            setattr(helper, "_lease", self)  # noqa: B010
            setattr(self.helper, "_lease", 1)  # noqa: B010
            speed = getattr(self, "_speed", "_busy")
            for helper._held in (speed, 2):
                pass

        @staticmethod
        def tell(other: Any) -> None:
            other._tasks = None

        def later(self) -> Any:
            return lambda other: setattr(other, "_stop", self)

    Mine("MG1", "pump", InMemoryBroker())
