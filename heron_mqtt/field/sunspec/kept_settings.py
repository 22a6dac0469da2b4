"""The own settings of an inverter that is driven, in a file: the next bridge puts back what a kill left."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from heron_mqtt.field.state_directory import write_whole
from heron_mqtt.field.sunspec.controls import Control, OwnSettings
from heron_mqtt.forced_files import DiskThread, force

log = logging.getLogger("heron_mqtt.sunspec")

MAX_EXPONENT = 10  # of a scale factor: SunSpec Information Model Specification, sunssf


class KeptSettings:
    """Keeps the own settings of one inverter from before the first setpoint until it is handed back.

    An inverter is known by its place and what it says of itself: serial numbers are not always unique. Of one
    without a serial number nothing is kept, as another one may stand there.

    What is kept is there for the next bridge at once. A thread forces it to the disk, for a power cut: no
    setpoint and no stop waits for a disk.

    Args:
        folder: Of the files, one for each inverter; made when needed.
        place: Of the inverter: address and unit.
    """

    def __init__(self, folder: Path, place: str) -> None:
        self._folder, self._place = folder, place
        self.is_unreadable = False
        """Whether, when it was loaded, there was a file of the inverter that does not say its settings."""
        self._is_reported = False
        self._disk = DiskThread(f"disk {place}", self._report_unforced)

    def load(self, identity: Sequence[str], control: Control) -> OwnSettings | None:
        """Return what a bridge has kept of the inverter; None = nothing, or nothing that can be used.

        Args:
            identity: Manufacturer, model and serial number.
            control: How it is controlled.
        """
        self.is_unreadable = False
        file = self._file(identity)
        if file is None or not file.is_file():
            return None
        try:
            held = json.loads(file.read_text())
            if not isinstance(held, dict):
                raise TypeError("expected an object with control, raw and exponents")
            if held["control"] != _named(control):
                raise ValueError(f"they are of {held['control']}, and it is controlled by {_named(control)}")
            raw, exponents = (
                {str(path): int(number) for path, number in held[key].items()} for key in ("raw", "exponents")
            )
            if not all(-(2**31) <= number < 2**32 for number in raw.values()):
                raise ValueError("raw: a number that no register holds")
            if not all(-MAX_EXPONENT <= number <= MAX_EXPONENT for number in exponents.values()):
                raise ValueError("exponents: a number that no scale factor has")
        except (OSError, ValueError, OverflowError, TypeError, KeyError, AttributeError) as exc:
            self.is_unreadable = True
            why = f"{exc} is missing" if isinstance(exc, KeyError) else exc
            log.warning("%s: the settings of an inverter cannot be read, and are not known: %s", file, why)
            return None
        return OwnSettings(raw, exponents)

    def save(self, identity: Sequence[str], control: Control, own: OwnSettings) -> None:
        """Keep what an inverter is set to; a failure is reported once."""
        file = self._file(identity)
        if file is None:
            return
        try:
            written = write_whole(
                file, {"control": _named(control), "raw": dict(own.raw), "exponents": dict(own.exponents)}
            )
        except OSError as exc:
            self._report(f"{file}: the settings of an inverter cannot be kept, a kill loses them: {exc}")
            return
        self._disk.do(partial(_force, written))

    def drop(self, identity: Sequence[str]) -> None:
        """Keep nothing of an inverter any more: it has its settings back."""
        file = self._file(identity)
        if file is None:
            return
        try:
            file.unlink(missing_ok=True)
        except OSError as exc:
            self._report(f"{file}: the settings of an inverter that has them back cannot be deleted: {exc}")
            return
        self._disk.do(partial(_force, [self._folder]))

    def _file(self, identity: Sequence[str]) -> Path | None:
        if not identity[-1]:
            return None
        name = hashlib.sha256(json.dumps([self._place, *identity]).encode()).hexdigest()[:32]
        return self._folder / f"{name}.json"

    def _report_unforced(self, exc: Exception) -> None:
        self._report(
            f"{self._folder}: the settings of an inverter cannot be forced to the disk, a power cut may take "
            f"them: {exc}"
        )

    def _report(self, text: str) -> None:
        if not self._is_reported:
            self._is_reported = True
            log.warning("%s", text)


def _force(paths: list[Path]) -> None:
    with suppress(FileNotFoundError):  # it has been handed back meanwhile
        force(paths)


def _named(control: Control) -> str:
    """Return which control it is, for a file: its model, and the point that switches it on."""
    return f"{control.model} {control.switches[0]}"
