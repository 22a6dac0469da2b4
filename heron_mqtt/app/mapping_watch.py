"""Mappings that are edited during a run: validated, and put in force between steps.

A changed file is used only if two reads give the same bytes. So a file that is still being written, or that
an editor is replacing, is not used. A wrong mapping changes nothing: the old one stays in force, and the
reason is reported once for each change.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from heron_mqtt.app.toml_lines import with_line
from heron_mqtt.app.vendor_adapters import StillDriven, VendorAdapters, device_mapping, mapping_file
from heron_mqtt.errors import BrokerError, ConfigError, PlaceTaken

if TYPE_CHECKING:
    from heron_mqtt.field.vendor.device_mapping import DeviceMapping
    from powergrid.scenario import LoadedScenario

log = logging.getLogger("heron_mqtt.mapping")

LOOK_EVERY_S = 0.5
AGAIN_EVERY_S = 5.0  # a device that refuses its release is driven in between, by its old mapping
RESCALED = 3.0
"""A number that changed by this factor, or in its sign, is reported: kW for W, charging for discharging."""
Digests = dict[Path, str | None]
"""File -> hash of its contents; None = it cannot be read."""


class TakeEvent(Protocol):
    """Records one thing that happened; see ``RunRecorder.event``."""

    def __call__(self, kind: str, subject: str, what: str, data: Mapping[str, Any] | None = None) -> None:
        """Record it."""


class MappingWatch:
    """Looks at the mapping files of a scenario, and replaces what has changed.

    Args:
        source: The scenario's file.
        adapters: Of the devices; those of other processes are not ours to replace.
        note: Takes a line for the user.
        event: Records what was replaced, and what was refused; None = there is no record.
        every_s: How often to look, s.

    Raises:
        ConfigError: The scenario cannot be read.
    """

    def __init__(
        self,
        source: str,
        adapters: VendorAdapters,
        note: Callable[[str], None],
        event: TakeEvent | None = None,
        *,
        every_s: float = LOOK_EVERY_S,
    ) -> None:
        self.between_steps = asyncio.Lock()
        """Held during a step; a mapping is replaced between steps."""
        self._source = source
        self._adapters = adapters
        self._note = note
        self._event = event
        self._every_s = every_s
        self._begun = self._load()
        self._known = self._begun  # the newest that could be read: it names the files
        self._elsewhere = ""  # what else has changed, as it was told last
        self._refused: set[tuple[str, str]] = set()
        self._waiting: set[tuple[str, str]] = set()  # for the device to take its release
        self._again_at = -math.inf

    def _load(self) -> LoadedScenario:
        from powergrid.scenario import load_scenario

        return load_scenario(self._source)

    def files(self) -> tuple[Path, ...]:
        """Return the files that are looked at: the scenario's, and each profile that a mapping names."""
        named = (mapping_file(self._known, *key) for key in self._adapters.mappings if self._has(key))
        return tuple(dict.fromkeys([Path(self._source), *(path for path in named if path is not None)]))

    def _has(self, key: tuple[str, str]) -> bool:
        return key in self._known.scenario.mapped_devices

    async def run(self) -> None:
        """Look, and replace; until cancelled."""
        in_force = newest = self._digests()
        is_waiting = False
        while True:
            await asyncio.sleep(self._every_s)
            before, newest = newest, self._digests()
            is_due = bool(self._waiting) and asyncio.get_running_loop().time() >= self._again_at
            if (newest == in_force and not is_due) or newest != before:
                continue  # nothing new, or still being written
            if any(self._adapters.is_stopped(key) for key in self._adapters.mappings):
                if not is_waiting:  # an adapter that holds its device at 0 continues until the stop is over
                    self._note("a changed mapping waits for the end of the emergency stop")
                is_waiting = True
                continue
            is_waiting = False
            in_force = newest = await self._take(newest, is_again=newest == in_force)

    def _digests(self) -> Digests:
        return {path: _digest(path) for path in self.files()}

    async def _take(self, digests: Digests, *, is_again: bool) -> Digests:
        """Put in force what is right of a change; returns what the files held before they were read.

        Args:
            digests: Of the files.
            is_again: Nothing is new; only what waits for a device is tried again.
        """
        try:
            loaded = self._load()
        except ConfigError as exc:
            self._refused |= self._adapters.mappings.keys()
            self._refuse("every device", exc)
            return digests
        self._known = loaded  # it may name other files; a change that comes while they are read is seen
        digests = {path: digests.get(path) or _digest(path) for path in self.files()}
        changed = {}
        for key in tuple(self._waiting) if is_again else self._adapters.mappings:
            if key not in loaded.scenario.mapped_devices:
                continue  # told of below
            try:
                mapping = device_mapping(loaded, *key)
            except ConfigError as exc:
                self._refused.add(key)
                self._waiting.discard(key)
                self._refuse("/".join(key), exc)
                continue
            old = self._adapters.mappings[key]
            if (mapping.table, mapping.learned) != (old.table, old.learned):
                changed[key] = mapping
            elif key in self._refused | self._waiting:
                self._refused.discard(key)
                self._waiting.discard(key)
                self._note(f"{'/'.join(key)}: its mapping is again the one that is in force")
        self._tell_elsewhere(loaded)
        for key, mapping in changed.items():
            self._refused.discard(key)
            await self._replace(key, mapping, loaded, digests)
        return digests

    async def _replace(
        self, key: tuple[str, str], mapping: Any, loaded: LoadedScenario, digests: Digests
    ) -> None:
        label, path = "/".join(key), mapping_file(loaded, *key) or Path(self._source)
        power_range_mw = loaded.scenario.microgrids[key[0]].devices[key[1]].spec.power_range_mw
        rescaled = rescaling(self._adapters.mappings[key], mapping, power_range_mw)
        try:
            async with self.between_steps:
                await self._adapters.replace(key, mapping)
        except StillDriven as exc:
            self._wait(key, str(exc))
            return
        except (ConfigError, BrokerError, PlaceTaken) as exc:
            self._refuse(label, exc)
            return
        self._waiting.discard(key)
        what = f"its mapping was reloaded from {path}: handed back, and driven again as after a restart"
        self._note(f"{label}: {what}")
        if rescaled:
            log.warning("%s: %s; is that its unit, its scale, its sign?", label, rescaled)
        if self._event is not None:
            data = {"file": str(path), "sha256": digests.get(path)}
            self._event("mapping", label, what, data | ({"rescaled": rescaled} if rescaled else {}))

    def _wait(self, key: tuple[str, str], why: str) -> None:
        """Try again later; reported once. Only the old adapter can release the device from its setpoint."""
        self._again_at = asyncio.get_running_loop().time() + AGAIN_EVERY_S
        if key in self._waiting:
            return
        self._waiting.add(key)
        label = "/".join(key)
        what = "a changed mapping waits, the old one stays in force until the device has accepted its release"
        log.warning("%s: %s: %s", label, what, why)
        if self._event is not None:
            self._event("mapping", label, what, {"problems": [why]})

    def _refuse(self, label: str, exc: Exception) -> None:
        found = exc.problems if isinstance(exc, ConfigError) else (str(exc),)
        problems = [with_line(problem) for problem in found]
        for problem in problems:
            log.warning("%s: a changed mapping is not used, the old one stays in force: %s", label, problem)
        if self._event is not None:
            what = "a changed mapping is not used, the old one stays in force"
            self._event("mapping", label, what, {"problems": problems})

    def _tell_elsewhere(self, loaded: LoadedScenario) -> None:
        where = _difference(_without_mappings(self._begun), _without_mappings(loaded))
        if where and where != self._elsewhere:
            log.warning(
                "%s: %s has changed, too: only mappings are reloaded during a run; it takes effect at "
                "the next start",
                self._source,
                where,
            )
        self._elsewhere = where


def rescaling(old: DeviceMapping, new: DeviceMapping, power_range_mw: tuple[float, float]) -> str:
    """Return how much a new mapping changes the values that are sent, at the nameplate; empty: hardly.

    Only numbers that both mappings make of the power alone can be compared, by their names.
    """
    found = []
    for p_mw in power_range_mw:
        before, after = old.power_numbers(p_mw), new.power_numbers(p_mw)
        for name in before.keys() & after.keys():
            was, is_now = before[name], after[name]
            if was == is_now or (was != 0.0 and 1.0 / RESCALED < is_now / was < RESCALED):
                continue
            found.append(f"{name} = {is_now:g} where it was {was:g}")
        if found:
            return f"its new mapping sends, for {p_mw:g} MW, {', '.join(sorted(found))}"
    return ""


def _digest(path: Path) -> str | None:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None


def _without_mappings(loaded: LoadedScenario) -> dict[str, Any]:
    plain = loaded.scenario.model_dump(mode="json")
    for microgrid in plain["microgrids"].values():
        for device in microgrid["devices"].values():
            device["mapping"] = device.get("mapping") is not None
    return plain


def _difference(old: Any, new: Any, at: str = "") -> str:
    """Return the key of the first difference; empty where there is none."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            if key not in old or key not in new:
                return f"{at}.{key}".lstrip(".")
            if found := _difference(old[key], new[key], f"{at}.{key}"):
                return found
        return ""
    return "" if old == new else at.lstrip(".")
