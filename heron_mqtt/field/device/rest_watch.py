"""Whether hardware that was told to rest, in an emergency stop or after a lease, is at rest, by its power."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from heron_mqtt.field.emergency_stop import is_at_rest, is_reactive_at_rest

KW_PER_MW = 1e3
LEAVES_POWER_S = 5.0  # how long hardware may take to 0 after it was told to rest, before it is told again
INSIST_S = 60.0  # the longest time between two tellings of hardware that does not go to 0


class GrowingPause:
    """The time between two tellings of hardware that does not do what it is told: longer each time.

    Each write may wear its memory, and the first ones are the most likely to help.
    """

    def __init__(self) -> None:
        self.s = LEAVES_POWER_S
        """The pause that is due, s."""

    def grow(self) -> None:
        """Make the next one longer."""
        self.s = min(INSIST_S, 2.0 * self.s)

    def reset(self) -> None:
        """Begin anew: it did."""
        self.s = LEAVES_POWER_S


class RestWatch:
    """Watches hardware that is told to rest by someone else, which asks here whether to tell it again.

    It is at rest only while its power is known and next to 0. One whose power is not 0 some time after it was
    told is told again, at longer and longer intervals. What is wrong is reported once, until it is at rest.

    Args:
        power_range_mw: Its nameplate, MW, positive = injected; None for a bound that is not known.
        report: Told in words for people what is wrong.
    """

    def __init__(self, power_range_mw: Sequence[float | None], report: Callable[[str], None]) -> None:
        self.power_range_mw = power_range_mw
        """Its nameplate, MW; set anew where it is read again."""
        self._report = report
        self.told_at = -math.inf
        """When the hardware was told last."""
        self._pause = GrowingPause()
        self._reported: set[bool | None] = set()  # each kind of trouble: whether the power was known; refused

    def is_at_rest(self, p_mw: float | None, q_mvar: float | None = None) -> bool | None:
        """Whether a power, MW, is next to 0, and a reactive power, Mvar, too, if known; None = not known."""
        if p_mw is None:
            return None
        return is_at_rest(p_mw, self.power_range_mw) and self._is_reactive_at_rest(q_mvar)

    def _is_reactive_at_rest(self, q_mvar: float | None) -> bool:
        return q_mvar is None or is_reactive_at_rest(q_mvar, self.power_range_mw)

    def note_told(self, now_s: float) -> None:
        """Take note that the hardware was told now."""
        self.told_at = now_s

    def forget(self) -> None:
        """Forget what was wrong: it is at rest, or need not be any more."""
        self._reported.clear()
        self._pause.reset()

    @property
    def is_in_trouble(self) -> bool:
        """Whether something was wrong, and it has not been at rest since."""
        return bool(self._reported)

    def note_refusal(self, why: str) -> None:
        """Take note that the hardware has not accepted the stop that it was told."""
        if None not in self._reported:
            self._reported.add(None)
            self._report(f"an emergency stop is in force, and it has not taken it: {why}: it is sent again")

    def must_be_told_again(
        self,
        p_mw: float | None,
        now_s: float,
        *,
        q_mvar: float | None = None,
        settle_s: float = 0.0,
        why_unknown: str = "",
        why: str = "an emergency stop is in force",
        what: str = "the stop is sent again",
    ) -> bool:
        """Look at the power that is known now; returns whether the hardware is to be told to rest again.

        Args:
            p_mw: MW, positive = injected; None = it is not known.
            now_s: By the clock of ``note_told``.
            q_mvar: Reactive power, Mvar; None = it is not known, and does not count.
            settle_s: How long after it was told its measurements may still be of before.
            why_unknown: For people, why its power is not known.
            why: For people, why it is to rest.
            what: For people, what is done about it.
        """
        rests = self.is_at_rest(p_mw, q_mvar)
        if rests:
            self.forget()
            return False
        settled_at = self.told_at + settle_s
        is_known = rests is not None
        if now_s < settled_at + LEAVES_POWER_S:
            return False
        if is_known not in self._reported:
            self._reported.add(is_known)
            self._report(
                f"{why}, and its {self._what_flows(p_mw)} is not 0: {what}"
                if is_known
                else f"{why}, and whether it is at 0 is not known: its power: {why_unknown}"
            )
        if not is_known or now_s < settled_at + self._pause.s:
            return False
        self._pause.grow()
        return True

    def _what_flows(self, p_mw: float | None) -> str:
        return "reactive power" if self.is_at_rest(p_mw) else "power"

    def left_with(self, p_mw: float | None, *, has_taken_it: bool, q_mvar: float | None = None) -> str | None:
        """Return what is wrong with hardware that nothing watches from now on, for people; None = nothing.

        Args:
            p_mw: Its power when it was measured last, MW; None = not known.
            has_taken_it: Whether it has accepted the stop.
            q_mvar: Its reactive power then, Mvar; None = not known.
        """
        if has_taken_it and self.is_at_rest(p_mw, q_mvar):
            return None
        taken = "" if has_taken_it else " that it has not taken"
        return f"an emergency stop is in force{taken}, and {self.shown(p_mw, q_mvar)}"

    def shown(self, p_mw: float | None, q_mvar: float | None = None) -> str:
        """Return for people what was measured last, MW and Mvar; None = not known."""
        if p_mw is None:
            return "its power is not known"
        reactive = "" if self._is_reactive_at_rest(q_mvar) else f" and {KW_PER_MW * (q_mvar or 0.0):g} kvar"
        return f"it gave {KW_PER_MW * p_mw:g} kW{reactive} when it was measured last"

    def kept(self, p_mw: float | None) -> str:
        """Return for people that hardware at rest, with this power, MW, is left as the stop has it."""
        text = "an emergency stop is in force: the device stays at 0 and is not handed back"
        return f"{text} ({KW_PER_MW * (p_mw or 0.0):g} kW when it was measured last)"
