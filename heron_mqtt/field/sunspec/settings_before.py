"""The settings that an inverter had of its own before the first setpoint: a release puts them back."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from heron_mqtt.field.sunspec.controls import Control, Left, OwnSettings
from heron_mqtt.field.sunspec.kept_settings import KeptSettings

log = logging.getLogger("heron_mqtt.sunspec")


class SettingsBefore:
    """Knows the own settings of one inverter, also of before an earlier bridge that was killed.

    Args:
        address: Of the inverter, for people.
        kept: Keeps them for the next bridge, if this one is killed; None = they are lost then.
    """

    def __init__(self, address: str, kept: KeptSettings | None) -> None:
        self.is_back = False
        """Whether it was released, shows its own settings, and was told nothing since."""
        self.is_lost = False
        """Whether an earlier controller did not hand it back, and what was set before that is not known."""
        self.has_timer = False
        """Whether its setpoints end by themselves; set again where that is found out."""
        self._address = address
        self._kept = kept
        self._lasting: tuple[type[Control], OwnSettings] | None = None  # of the control that read it
        self._from_before: OwnSettings | None = None  # kept by a bridge that has not handed it back
        self._is_saved = False

    @property
    def may_be_owed(self) -> bool:
        """Whether an earlier bridge kept them, and may not have put them back."""
        return self._from_before is not None

    def load(self, identity: Sequence[str], control: Control) -> None:
        """Read what an earlier bridge has kept of an inverter, by its name."""
        if self._kept is not None:
            self._from_before = self._kept.load(identity, control)

    def left(self, control: Control) -> Left | None:
        """Return what was left in force, by the control's model as it was read last and by what was kept."""
        left, own = control.found(), control.own
        # A file that cannot be read was written when it was driven: a timer may have ended that since.
        is_unreadable = self._kept is not None and self._kept.is_unreadable
        self.is_lost = (left is not None or is_unreadable) and self._from_before is None
        if left is not None or self._from_before is None or own is None:
            return left
        if self._before(control, own) is own or own.at(control.layout) == self._from_before.at(
            control.layout
        ):
            return None
        return "settings" if self.has_timer else "setpoint"

    def _before(self, control: Control, own: OwnSettings) -> OwnSettings:
        """Return its own settings from before the first setpoint, of an earlier bridge too.

        Args:
            control: As it was read last.
            own: Its own settings by that.
        """
        if self._from_before is None:
            return own
        # A bridge whose setpoints have a timer leaves nothing that is switched on without: it is set again.
        is_newer = self.has_timer and control.found() is None and control.is_on(own)
        return own if is_newer else self._from_before

    def of(self, control: Control) -> OwnSettings | None:
        """Return the inverter's own settings, from before the first of ours; None = not known."""
        if self._lasting is None:
            own = control.own
            if self._from_before is None or own is None:
                return None
            return self._before(control, own)
        return self._lasting[1] if self._lasting[0] is type(control) else None

    async def remember(self, control: Control, *, fresh: bool) -> None:
        """Remember them before the first setpoint of ours; later the inverter only has ours."""
        self.is_back = False
        if self._lasting is None:
            own = self._before(control, await control.lasting(fresh=fresh))
            self._lasting = (type(control), own)
            self.is_lost = self.is_lost and not control.is_on(own)
            log.info("%s: its own settings: %s", self._address, own.raw)

    def save(self, identity: Sequence[str], now: Control | None) -> None:
        """Keep them for the next bridge, from the first setpoint until they are put back.

        Args:
            identity: The name of the inverter.
            now: How it is controlled now.
        """
        if self._kept is None or self._is_saved or self._lasting is None or now is None:
            return
        control, own = self._lasting
        if control is type(now):
            self._kept.save(identity, now, own)
            self._is_saved = True

    def note_handed_back(self, identity: Sequence[str], control: Control) -> None:
        """Note that the inverter has its settings back, as far as its registers show.

        They are read again before the next setpoint: the installation may set them otherwise meanwhile. Where
        they stand there otherwise than they were written, they may be something else: they are remembered.
        """
        if self._kept is not None and (self._is_saved or self._from_before is not None):
            self._kept.drop(identity)
        self._is_saved = False
        ours, now = self.of(control), control.own
        self._from_before = None
        if ours is not None and now is not None and now.at(control.layout) == ours.at(control.layout):
            self._lasting = None
            self.is_back = True
