"""Whether hardware rests that was told to, by its power, and whether it has to be told again."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from enum import Enum

from heron_mqtt.field.emergency_stop import is_at_rest, is_reactive_at_rest
from heron_mqtt.units import KW_PER_MW

LEAVES_POWER_S = 5.0  # how long hardware may take to 0 after it was told to rest, before this is repeated
FALLS_TO = 0.9  # of the power that it had a moment before: it is on its way to 0
INSIST_S = 60.0  # the longest time between two attempts for hardware that does not go to 0


class GrowingPause:
    """The time between two attempts for hardware that does not follow: longer each time.

    Each write may wear its memory, and the first ones are the most likely to help.
    """

    def __init__(self) -> None:
        self.s = LEAVES_POWER_S
        """The pause that is due, s."""

    def grow(self) -> None:
        """Make the next one longer."""
        self.s = min(INSIST_S, 2.0 * self.s)

    def reset(self) -> None:
        """Begin again: it did."""
        self.s = LEAVES_POWER_S


class PowerSeen(Enum):
    """What is known of the power of hardware since it was told to rest."""

    NOTHING = "nothing was measured since"
    UNKNOWN = "it could not be measured"
    AT_REST = "next to 0"
    POWER = "not 0"


class HardwareRest:
    """Knows of one piece of hardware, in a stop or after a lease, whether it rests.

    Three things are kept apart: whether it took the safe state that it was told of last (``is_taken``), what
    its power shows since (``seen``), and what was reported. One whose power is not 0 some time after it was
    told is told again, at growing intervals. What is wrong is reported once, until it is at rest.

    If hardware was at 0 after the end of a lease and has power much later, something else has set it, for
    example a person. Then it is not changed. During a stop nothing may set it.

    Args:
        power_range_mw: Its nameplate, MW, positive = injected; None for a bound that is not known.
        report: Told in words for people what is wrong.
        monotonic: The clock, s.
        settle_s: How long after it was told its measurements may still be of before.
    """

    def __init__(
        self,
        power_range_mw: Sequence[float | None],
        report: Callable[[str], None],
        monotonic: Callable[[], float],
        *,
        settle_s: float = 0.0,
    ) -> None:
        self.power_range_mw = power_range_mw
        """Its nameplate, MW; set again where it is read again."""
        self.settle_s = settle_s
        self.is_taken = True
        """Whether it took the last safe state that it was told of, or was told of none."""
        self.told_at = -math.inf
        """When it was told last."""
        self.seen = PowerSeen.NOTHING
        """What its power shows since."""
        self.is_set_elsewhere = False
        """Whether something else has set it: it was at 0, and had power long after that."""
        self._p_mw: float | None = None  # measured last since it was told; None = not, or that failed
        self._q_mvar: float | None = None
        self._has_rested = False  # since it was told
        self._had_power = False  # when it was told once more: until it is measured, it has it still
        self._report = report
        self._monotonic = monotonic
        self._pause = GrowingPause()
        self._rests_since = math.inf
        # Each kind of trouble that was: its power was not 0 (True), or not known (False); it refused (None).
        self._reported: set[bool | None] = set()

    # -- what happens ------------------------------------------------------------------------------

    def note_told(self) -> None:
        """Note that the device is told to rest now: earlier measurements no longer count."""
        had_power = self.keeps_power
        self.told_at = self._monotonic()
        self._has_rested = self.is_set_elsewhere = False
        self.see_nothing()
        self._had_power = had_power

    def assume_power(self) -> None:
        """Note that the device had power when it was told to rest: this counts until it is measured."""
        self._had_power = True

    def see(self, p_mw: float, q_mvar: float | None = None) -> None:
        """Take in what was measured since it was told, MW, Mvar; None = its reactive power is not known."""
        self._p_mw, self._q_mvar = p_mw, q_mvar
        if self.is_at_rest(p_mw, q_mvar):
            if self.seen is not PowerSeen.AT_REST:
                self._rests_since = self._monotonic()
            self.seen, self._has_rested, self.is_set_elsewhere = PowerSeen.AT_REST, True, False
            if self._has_rested_long:
                self._reported -= {True, False}  # that it has not accepted a stop is another matter
                self._pause.reset()
        else:
            self.seen = PowerSeen.POWER

    def see_failure(self) -> None:
        """Take note that its power could not be measured."""
        self.seen, self._p_mw, self._q_mvar = PowerSeen.UNKNOWN, None, None

    def see_nothing(self) -> None:
        """Take note that nothing is measured that counts."""
        self.seen, self._p_mw, self._q_mvar = PowerSeen.NOTHING, None, None
        self._had_power = False

    def note_refusal(self, why: str) -> None:
        """Note that the device has not accepted the stop."""
        if None not in self._reported:
            self._reported.add(None)
            self._report(
                f"an emergency stop is in force, and it has not accepted it: {why}: it is sent again"
            )

    def forget(self) -> None:
        """Forget what was wrong: it is at rest, or need not be any more."""
        self._reported.clear()
        self._pause.reset()

    # -- what is known -----------------------------------------------------------------------------

    def is_at_rest(self, p_mw: float, q_mvar: float | None = None) -> bool:
        """Whether a power, MW, is next to 0, and a reactive power, Mvar, too, if known."""
        return is_at_rest(p_mw, self.power_range_mw) and self._is_reactive_at_rest(q_mvar)

    def _is_reactive_at_rest(self, q_mvar: float | None) -> bool:
        return q_mvar is None or is_reactive_at_rest(q_mvar, self.power_range_mw)

    @property
    def is_told(self) -> bool:
        """Whether it was ever told to rest."""
        return self.told_at > -math.inf

    @property
    def _has_rested_long(self) -> bool:
        """Whether it stays at rest: power that hovers round the limit is one trouble, and not many."""
        return self._monotonic() >= self._rests_since + LEAVES_POWER_S

    def falls_from(self, first_mw: float | None) -> bool:
        """Whether it had power when it was measured last, and clearly less than a moment before, MW."""
        if first_mw is None or self._p_mw is None or not self.has_power:
            return False
        return abs(self._p_mw) <= FALLS_TO * abs(first_mw)

    def rises_from(self, lowest_mw: float | None) -> bool:
        """Whether it had power when it was measured last, and clearly more than at its lowest, MW."""
        if lowest_mw is None or self._p_mw is None or not self.has_power:
            return False
        return abs(lowest_mw) <= FALLS_TO * abs(self._p_mw)

    @property
    def has_rested(self) -> bool:
        """Whether its power was next to 0 since it was told."""
        return self._has_rested

    @property
    def p_mw(self) -> float | None:
        """What was measured last since it was told, MW, positive = injected; None = nothing that is known."""
        return self._p_mw

    @property
    def has_power(self) -> bool:
        """Whether it had power when it was measured last."""
        return self.seen is PowerSeen.POWER

    @property
    def keeps_power(self) -> bool:
        """Whether it had power when it was measured last, also before it was told to rest once more."""
        return self.has_power or (self.seen is PowerSeen.NOTHING and self._had_power)

    @property
    def is_doubtful(self) -> bool:
        """Whether the last measurement showed power, or failed."""
        return self.seen in {PowerSeen.POWER, PowerSeen.UNKNOWN}

    @property
    def is_in_trouble(self) -> bool:
        """Whether something was wrong, and it has not been at rest since."""
        return bool(self._reported)

    def must_be_told_again(self, *, in_stop: bool, why_unknown: str = "") -> bool:
        """Look at what is known now; returns whether it is to be told to rest again.

        Args:
            in_stop: An emergency stop is in force; else it holds no setpoint.
            why_unknown: For people, why its power is not known.
        """
        now_s, settled_at = self._monotonic(), self.told_at + self.settle_s
        if self.seen is PowerSeen.AT_REST:
            if self._has_rested_long:
                self.forget()
            return False
        if not in_stop and self._has_rested and now_s > self.told_at + INSIST_S:
            if not self.is_set_elsewhere:
                self.is_set_elsewhere = True
                self._report("it holds no setpoint, and its power is not 0: something else has set it")
            return False
        if now_s < settled_at + LEAVES_POWER_S:
            return False
        if self.has_power not in self._reported:
            self._reported.add(self.has_power)
            self._report(self._trouble(in_stop, why_unknown))
        if not self.has_power or now_s < settled_at + self._pause.s:
            return False
        self._pause.grow()
        return True

    def _trouble(self, in_stop: bool, why_unknown: str) -> str:
        why = "an emergency stop is in force" if in_stop else "it holds no setpoint"
        if self._p_mw is None:
            return f"{why}, and whether it is at 0 is not known: its power: {why_unknown}"
        what = "reactive power" if self.is_at_rest(self._p_mw) else "power"
        return f"{why}, and its {what} is not 0: {'the stop is sent' if in_stop else 'it is told'} again"

    # -- for people, of hardware that nothing watches from now on -----------------------------------

    def left_in_stop(self, *, has_taken_it: bool) -> str | None:
        """Return what is wrong with hardware that a stop is to keep at 0; None = nothing.

        Args:
            has_taken_it: Whether it has accepted the stop.
        """
        if has_taken_it and self.seen is PowerSeen.AT_REST:
            return None
        taken = "" if has_taken_it else " that it has not accepted"
        return f"an emergency stop is in force{taken}, and {self.shown}"

    @property
    def shown(self) -> str:
        """What was measured last."""
        if self._p_mw is None:
            return "its power is not known"
        is_quiet = self._is_reactive_at_rest(self._q_mvar)
        reactive = "" if is_quiet else f" and {KW_PER_MW * (self._q_mvar or 0.0):g} kvar"
        return f"it gave {KW_PER_MW * self._p_mw:g} kW{reactive} when it was measured last"

    @property
    def kept(self) -> str:
        """That hardware at rest is left as the stop has it."""
        text = "an emergency stop is in force: the device stays at 0 and is not handed back"
        return f"{text} ({KW_PER_MW * (self._p_mw or 0.0):g} kW when it was measured last)"
