"""What a shell may complete an argument to: names of what is shipped, and files of the current folder."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path


def scenarios(incomplete: str) -> list[str]:
    """Return scenarios, by name and by file."""
    return _beginning(incomplete, [*_shipped("."), *_files(incomplete)])


def impaired_networks(incomplete: str) -> list[str]:
    """Return impaired networks, by name and by file."""
    return _beginning(incomplete, [*_shipped("networks"), *_files(incomplete)])


def device_programs(incomplete: str) -> list[str]:
    """Return what ``heron-mqtt device`` runs."""
    from powergrid.emulators import scripts

    return _beginning(incomplete, sorted(scripts().values()))


def lists(incomplete: str) -> list[str]:
    """Return what ``heron-mqtt list`` lists."""
    from heron_mqtt.app.catalogue import LISTS

    return _beginning(incomplete, LISTS)


def schemas(incomplete: str) -> list[str]:
    """Return what ``heron-mqtt schema`` prints."""
    from heron_mqtt.app.schemas import SCHEMAS

    return _beginning(incomplete, SCHEMAS)


def _beginning(incomplete: str, names: Iterable[str]) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]


def _shipped(folder: str) -> list[str]:
    from heron_mqtt.config import shipped_config

    return sorted(path.stem for path in (shipped_config() / folder).glob("*.toml"))


def _files(incomplete: str) -> list[str]:
    """Return TOML files, and folders in which there may be some, beside what was written so far."""
    before, slash, _ = incomplete.rpartition("/")
    folder = Path(f"{before}{slash}" or ".")
    try:
        found = sorted(folder.iterdir())
    except OSError:
        return []
    begin = f"{before}{slash}"
    files = [f"{begin}{path.name}" for path in found if path.suffix == ".toml"]
    return [*files, *(f"{begin}{path.name}/" for path in found if path.is_dir())]
