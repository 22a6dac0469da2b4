"""Whether what comes in a device's name can be its own: refuse, name what is odd, bound floods."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from heron_mqtt.errors import MessageError
from heron_mqtt.field.gateway.settings import GatewayTable
from heron_mqtt.messages import Status, Telemetry

MAX_SKEW = timedelta(minutes=5)  # NTP keeps a box within a second; minutes mean that nothing keeps it
REMEMBERED_BOOTS = 10


class Plausibility:
    """Checks of one device; each oddity is told once.

    Args:
        name: ``AGENT/DEVICE``.
        settings: How much is too much.
        nameplate_mw: Smallest and largest power; None = not known, not checked.
        s_max_mva: Apparent power; None = not checked.
        tell: Takes what is odd, for the user.
        monotonic: Clock for rates, s.
        now: The time of day, UTC, to which the device's clock is compared.
    """

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
        self._nameplate_mw = nameplate_mw
        self._s_max_mva = s_max_mva
        self._tell = tell
        self._monotonic = monotonic
        self._now = now
        self._told: set[str] = set()
        self._boots: list[str] = []
        self._second = (-1, 0)

    def once(self, kind: str, what: str) -> None:
        """Tell something, unless this kind of thing was told before."""
        if kind not in self._told:
            self._told.add(kind)
            self._tell(what)

    def asked(self) -> None:
        """An answer was asked for: it is no flood, however fast the steps go."""
        second, count = self._second
        self._second = (second, count - 1)

    def is_flood(self) -> bool:
        """Count one message; whether it is one too many in this second."""
        second = int(self._monotonic())
        count = self._second[1] + 1 if self._second[0] == second else 1
        self._second = (second, count)
        if count <= self._settings.max_rate_per_s:
            return False
        self.once(
            "flood", f"more than {self._settings.max_rate_per_s:g} telemetry a second; the rest is dropped"
        )
        return True

    def check_telemetry(self, telemetry: Telemetry) -> None:
        """Refuse telemetry that cannot be this device's.

        Raises:
            MessageError: Says what is wrong with it.
        """
        self.check_name(telemetry.sender)
        self._watch_boot(telemetry.boot)
        tolerance = self._settings.tolerance
        if self._nameplate_mw is not None:
            low, high = self._nameplate_mw
            slack = tolerance * max(abs(low), abs(high))
            if not low - slack <= telemetry.p_mw <= high + slack:
                raise MessageError(
                    f"p_mw = {telemetry.p_mw} is outside the nameplate {low} .. {high} MW by more than "
                    f"{tolerance:.0%}: wrong unit or sign? expected MW, positive = injected"
                )
        if self._s_max_mva is not None and abs(telemetry.q_mvar) > self._s_max_mva * (1.0 + tolerance):
            raise MessageError(
                f"q_mvar = {telemetry.q_mvar} is beyond the apparent power of {self._s_max_mva} MVA by more "
                f"than {tolerance:.0%}: wrong unit? expected Mvar, positive = injected"
            )
        if telemetry.sent_at is not None and abs(self._now() - telemetry.sent_at) > MAX_SKEW:
            self.once(
                "skew", f"its clock says {telemetry.sent_at:%Y-%m-%d %H:%M:%SZ}; ages go by our own clock"
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
        """Refuse who says to be somebody else.

        Raises:
            MessageError: Names both.
        """
        if sender is not None and sender != self._name:
            raise MessageError(f"sender {sender!r} speaks on the channel of {self._name}")

    def _watch_boot(self, boot: str | None) -> None:
        """Two devices of one name take turns with two boots; one that restarts never goes back to its old."""
        if boot is None or self._boots[-1:] == [boot]:
            return
        if boot in self._boots:
            self.once("twice", "two devices speak under this name; give each its own")
            return
        self._boots = [*self._boots[1 - REMEMBERED_BOOTS :], boot]
