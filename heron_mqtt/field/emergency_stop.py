"""Whether an emergency stop is in force, from everything that comes on ``estop``.

Every message that is not a valid release is a stop, because a message that cannot be read may have been a
stop. A valid release is a JSON object with ``active`` exactly ``false``. If it has a type, the type is
``estop``. If it has an environment, it is ours. Its ``who``, ``why`` and numbering have no errors. A release
counts once: the same one again (same boot and seq) was meant for an earlier stop.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

from heron_mqtt.errors import MessageError
from heron_mqtt.messages import MAX_INTEGER, EmergencyStop, parse
from heron_mqtt.messaging.base import Received

ALWAYS = {"always": True}
"""``extra`` of a log record: it is shown even if one like it was shown just before."""
REMEMBERED_RELEASES = 1_000
AT_REST_SHARE = 0.05  # of the nameplate: less power counts as none, while a stop is in force
REACTIVE_AT_REST_SHARE = 0.2  # of the nameplate: what filters and cables have while no power flows
AT_REST_MW = 1e-4  # the same where there is no nameplate
_OF_A_RELEASE = ("active", "who", "why", "sender", "boot", "seq")

StopEffect = Literal["stopped", "repeated", "released", "unchanged"]


class StopRegister:
    """The emergency stop as one participant knows it.

    Args:
        env_id: A release that names another environment is not valid.
    """

    def __init__(self, env_id: str) -> None:
        self.stop: EmergencyStop | None = None
        """The stop in force, if there is one."""
        self.release: EmergencyStop | None = None
        """The newest valid release; None before the first."""
        self.is_told = False
        """Whether the broker has told anything of ``estop`` since the last connection."""
        self.identity: tuple[str | None, int | None] = (None, None)
        """boot and seq of the newest stop or release, for those that have them."""
        self._env_id = env_id
        self._releases: dict[tuple[str, int], None] = {}

    @property
    def is_active(self) -> bool:
        """Whether a stop is in force."""
        return self.stop is not None

    def take(self, message: Received) -> StopEffect:
        """Take one message of the channel ``estop``; return what it changed.

        A stop while one is in force is ``repeated``: it was pressed again, or cannot be told from that. One
        that has come before, as the broker keeps it, changes nothing.
        """
        named = _identity(message)
        release = self._as_release(message)
        if release is None:
            self.is_told = True
            was_active, self.stop = self.is_active, _as_stop(message)
            is_known = named is not None and named == self.identity
            self.identity = named or (None, None)
            if not was_active:
                return "stopped"
            return "unchanged" if is_known else "repeated"
        if named is not None:
            if named in self._releases:
                # Told again after a connection: fine while nothing is stopped. With a stop in force the
                # broker has gone back to what it knew before, so it does not know of the stop.
                self.is_told = not self.is_active
                return "unchanged"
            self._remember(named)
        self.is_told = True
        self.identity = named or (None, None)
        was_active, self.stop = self.is_active, None
        self.release = release
        return "released" if was_active else "unchanged"

    def take_report(self, who: str) -> StopEffect:
        """Take it from another participant that a stop is in force, where the broker says nothing of it.

        The report of a participant may be older than a release. So it counts only if the broker has delivered
        neither a stop nor a release since the last connection.
        """
        if self.is_active or self.is_told:
            return "unchanged"
        self.stop = EmergencyStop(active=True, who=who[:200], why="known there; the broker does not tell it")
        self.identity = (None, None)
        return "stopped"

    def on_reconnect(self) -> None:
        """Forget what the broker has told: it may have been restarted without its retained messages."""
        self.is_told = False

    def _remember(self, named: tuple[str, int]) -> None:
        self._releases[named] = None
        while len(self._releases) > REMEMBERED_RELEASES:
            del self._releases[next(iter(self._releases))]

    def _as_release(self, message: Received) -> EmergencyStop | None:
        """Return a valid release, by these fields alone; None where it is none."""
        if (
            message.malformed is not None
            or message.get("active") is not False
            or message.get("type", "estop") != "estop"
            or message.get("env_id", self._env_id) != self._env_id
        ):
            return None
        try:
            return parse(EmergencyStop, {name: message[name] for name in _OF_A_RELEASE if name in message})
        except MessageError:
            return None


def told_by(said: EmergencyStop | None) -> str:
    """Return who has pressed or released a stop, and why; for people."""
    who, why = (None, "") if said is None else (said.who, said.why)
    return f"by {who or 'unknown'}: {why or 'no reason given'}"


def is_at_rest(p_mw: float, power_range_mw: Sequence[float | None]) -> bool:
    """Whether a power counts as none while a stop is in force.

    Args:
        p_mw: MW.
        power_range_mw: The bounds of the nameplate, MW; None for one that is not known.
    """
    return abs(p_mw) <= (AT_REST_SHARE * _nameplate_mw(power_range_mw) or AT_REST_MW)


def is_reactive_at_rest(q_mvar: float, power_range_mw: Sequence[float | None]) -> bool:
    """Whether a reactive power, Mvar, counts as none while a stop is in force; else as ``is_at_rest``."""
    return abs(q_mvar) <= (REACTIVE_AT_REST_SHARE * _nameplate_mw(power_range_mw) or AT_REST_MW)


def _nameplate_mw(power_range_mw: Sequence[float | None]) -> float:
    return max((abs(bound) for bound in power_range_mw if bound is not None), default=0.0)


def _identity(message: Received) -> tuple[str, int] | None:
    """Return boot and seq of a message in the spelling of the contract; None where it has no such."""
    boot, seq = message.get("boot"), message.get("seq")
    if type(boot) in {int, float}:
        boot = str(boot)
    if type(seq) is float and seq.is_integer():
        seq = int(seq)
    if not isinstance(boot, str) or not 0 < len(boot) <= 200 or type(seq) is not int:
        return None
    return (boot, seq) if 0 <= seq <= MAX_INTEGER else None


def _as_stop(message: Received) -> EmergencyStop:
    """Return any message as the stop that it is taken for."""
    who, why = message.get("who"), message.get("why")
    if message.malformed is not None:
        why = f"a message on estop that cannot be read: {message.malformed}"
    elif message.get("active") is not True:
        why = f"a message on estop that is no valid release: {dict(message)!r}"
    return EmergencyStop(
        active=True,
        who=who[:200] if isinstance(who, str) and who else None,
        why=str(why if why is not None else "")[:500],
        sent_at=_sent_at(message),
    )


def _sent_at(message: Received) -> datetime | None:
    """Return the send time in a message, for people; None if it has none that can be read."""
    text = message.get("sent_at")
    try:
        found = datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None
    return None if found is None or found.tzinfo is None else found
