"""What is known of one box: the last value of each quantity, its age, and whether the box is there."""

from __future__ import annotations

import math

from heron_mqtt.field.vendor._mapping.incoming import State, Value
from heron_mqtt.field.vendor.mapping import Decoded, DeviceMapping
from heron_mqtt.messages import Status, Telemetry

_WORST_FIRST: tuple[State, ...] = ("offline", "fault", "online")


class VendorState:
    """The last value of each quantity of one box, with its age, and whether the box is there.

    Times are of any one clock that does not go back, s.
    """

    def __init__(self, mapping: DeviceMapping) -> None:
        self._mapping = mapping
        self._values: dict[str, tuple[Value, float]] = {}
        self._states: dict[str, Status] = {}

    def take(self, topic: str, payload: bytes, now_s: float, *, retained: bool = False) -> Decoded | None:
        """Take one payload in; returns what it said, None if the topic is not of this box.

        Args:
            topic: Where it arrived.
            payload: As it arrived.
            now_s: When.
            retained: The broker had kept it: nobody knows since when, so its values have no age.

        Raises:
            MessageError: The payload does not fit; nothing has changed.
        """
        decoded = self._mapping.decode(topic, payload)
        if decoded is None:
            return None
        for name, value in decoded.fields.items():
            if value is None:
                self._values.pop(name, None)
            elif not retained or name not in self._values:
                self._values[name] = (value, -math.inf if retained else now_s)
        if decoded.status is not None:
            self._states[topic] = decoded.status
        return decoded

    def telemetry(self, now_s: float = 0.0, max_age_s: float = math.inf) -> Telemetry | None:
        """Return all that is known, or None while the power is not, or is older than ``max_age_s``.

        The other quantities have no limit: a state of charge that is a minute old is still one.
        """
        if "p_mw" not in self._values or now_s - self._values["p_mw"][1] > max_age_s:
            return None
        return Telemetry.model_validate({name: value for name, (value, _) in self._values.items()})

    def status(self) -> Status | None:
        """Return the worst that any availability topic last said; None if none has spoken."""
        return min(self._states.values(), key=lambda s: _WORST_FIRST.index(s.state), default=None)

    def ages_s(self, now_s: float) -> dict[str, float]:
        """Return quantity -> age of its last value, s; infinite for values the broker had kept."""
        return {name: now_s - since for name, (_, since) in self._values.items()}

    def missing(self) -> tuple[str, ...]:
        """Return the quantities that the mapping reads and for which there is no value."""
        return tuple(sorted(self._mapping.reads - self._values.keys()))
