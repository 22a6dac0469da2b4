"""Whether what comes in a device's name can be its own: refuse, name what is odd, bound floods."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from heron_mqtt.errors import MessageError
from heron_mqtt.field.gateway.settings import GatewayTable
from heron_mqtt.messages import Status, Telemetry

MAX_SKEW = timedelta(minutes=5)  # NTP keeps a clock within a second; minutes mean that it is not synchronised
LATE = 1  # messages of an earlier boot that are only late: one may have been on its way


class Plausibility:
    """Checks of one device; each oddity is reported once.

    Args:
        name: ``AGENT/DEVICE``.
        settings: How much is too much.
        nameplate_mw: Smallest and largest power; None = not known, not checked.
        s_max_mva: Apparent power; None = not checked.
        tell: Takes what is odd, for the user.
        monotonic: Clock for rates, s.
        now: The time of day, UTC, to which the device's clock is compared.
    """

    __slots__ = (
        "_from_past",
        "_in_second",
        "_max_rate_per_s",
        "_monotonic",
        "_name",
        "_nameplate_mw",
        "_now",
        "_power_mw",
        "_q_limit_mvar",
        "_s_max_mva",
        "_second",
        "_settings",
        "_tell",
        "_told",
    )

    def __init__(
        self,
        name: str,
        settings: GatewayTable,
        *,
        nameplate_mw: tuple[float, float] | None,
        s_max_mva: float | None,
        tell: Callable[[str], None],
        monotonic: Callable[[], float],
        now: Callable[[], datetime],
    ) -> None:
        self._name = name
        self._settings = settings
        self._max_rate_per_s = settings.max_rate_per_s
        self._nameplate_mw = nameplate_mw
        self._s_max_mva = s_max_mva
        self._power_mw: tuple[float, float] | None = None  # that telemetry may say
        if nameplate_mw is not None:
            low, high = nameplate_mw
            slack = settings.tolerance * max(abs(low), abs(high))
            self._power_mw = (low - slack, high + slack)
        self._q_limit_mvar = None if s_max_mva is None else s_max_mva * (1.0 + settings.tolerance)
        self._tell = tell
        self._monotonic = monotonic
        self._now = now
        self._told: set[str] = set()
        self._from_past: list[float] = []  # when messages of an earlier boot came
        self._second: int | None = None
        self._in_second = 0  # messages in it

    def once(self, kind: str, what: str) -> None:
        """Tell something, unless this kind of thing was told before."""
        if kind not in self._told:
            self._told.add(kind)
            self._tell(what)

    def asked(self) -> None:
        """An answer was asked for: it is no flood, however fast the steps go."""
        self._in_second -= 1

    def is_flood(self, now_s: float) -> bool:
        """Count one message; whether it is one too many in this second."""
        second = int(now_s)
        if second == self._second:
            self._in_second += 1
        else:
            self._second, self._in_second = second, 1
        if self._in_second <= self._max_rate_per_s:
            return False
        self.once("flood", f"more than {self._max_rate_per_s:g} telemetry a second; the rest is dropped")
        return True

    def check_telemetry(self, telemetry: Telemetry) -> None:
        """Refuse telemetry that cannot be this device's.

        Raises:
            MessageError: Says what is wrong with it.
        """
        if telemetry.sender != self._name:
            self.check_name(telemetry.sender)
        if self._power_mw is not None and not self._power_mw[0] <= telemetry.p_mw <= self._power_mw[1]:
            assert self._nameplate_mw is not None, "the power is bounded by it"
            low, high = self._nameplate_mw
            raise MessageError(
                f"p_mw = {telemetry.p_mw} is outside the nameplate {low} .. {high} MW by more than "
                f"{self._settings.tolerance:.0%}: wrong unit or sign? expected MW, positive = injected"
            )
        if self._q_limit_mvar is not None and abs(telemetry.q_mvar) > self._q_limit_mvar:
            raise MessageError(
                f"q_mvar = {telemetry.q_mvar} is beyond the apparent power of {self._s_max_mva} MVA by more "
                f"than {self._settings.tolerance:.0%}: wrong unit? expected Mvar, positive = injected"
            )
        if telemetry.sent_at is not None and abs(self._now() - telemetry.sent_at) > MAX_SKEW:
            self.once(
                "skew",
                f"its clock says {telemetry.sent_at:%Y-%m-%d %H:%M:%SZ}; ages are measured by our own clock",
            )

    def check_birth(self, birth: Status) -> None:
        """Refuse a status of another device; name one that promises less power than the scenario.

        Raises:
            MessageError: Another device's.
        """
        self.check_name(birth.sender)
        if self._nameplate_mw is None:
            return
        low, high = self._nameplate_mw
        slack = self._settings.tolerance * max(abs(low), abs(high))
        says_low = low if birth.p_min_mw is None else birth.p_min_mw
        says_high = high if birth.p_max_mw is None else birth.p_max_mw
        if says_low > low + slack or says_high < high - slack:
            self.once(
                "nameplate",
                f"its birth says {says_low} .. {says_high} MW, the scenario {low} .. {high} MW: setpoints "
                "may ask for more than it can do",
            )

    def check_name(self, sender: str | None) -> None:
        """Refuse a message with another sender's name.

        Raises:
            MessageError: Names both.
        """
        if sender is not None and sender != self._name:
            raise MessageError(f"sender {sender!r} publishes on the channel of {self._name}")

    def begin_boot(self) -> None:
        """Note that the device has started, or was heard for the first time."""
        self._from_past.clear()

    def note_past(self) -> None:
        """Note a message of an earlier boot of the device.

        One that restarts never goes back to an earlier boot. So after a late message or so there are two
        devices of this name.
        """
        now = self._monotonic()
        self._from_past = [*(t for t in self._from_past if now - t <= self._settings.stale_after_s), now]
        if self.is_contested:
            self.once(
                "twice", "two devices publish under this name: nothing is sent; end one, or give each its own"
            )

    @property
    def is_contested(self) -> bool:
        """Whether two devices have recently published under this name."""
        if not self._from_past:  # asked dozens of times a step
            return False
        now = self._monotonic()
        recent = [t for t in self._from_past if now - t <= self._settings.stale_after_s]
        return len(recent) > LATE
