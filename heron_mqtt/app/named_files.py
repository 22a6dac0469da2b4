"""The files that a scenario names, and whether they are still those with which a run began.

A record keeps a hash of each: an edited mapping multiplies what reaches hardware, an edited policy wants
something else, and neither changes a key of the scenario. Files that hold logins or certificates
(``broker``) are left out: a record is passed on, and they may be replaced while a run is interrupted. Modules
that a policy imports by itself are noted once they are loaded: ``loaded_modules``.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import TYPE_CHECKING

from heron_mqtt.input_files import is_file
from heron_mqtt.messaging.impairment import impairment_file
from heron_mqtt.record.facts import digest
from powergrid.scenario import LoadedScenario

if TYPE_CHECKING:
    from heron_mqtt.record.reader import RecordFile

POLICY_OPTION = "--policy"


def named_files(loaded: LoadedScenario, policy: str | None = None) -> dict[str, Path]:
    """Return every file whose content decides what a run does, by the key that names it.

    Args:
        loaded: The scenario.
        policy: ``module:Class`` of the option ``--policy``.
    """
    return {key: path for key, path in _named(loaded, policy) if is_file(path)}


def _named(loaded: LoadedScenario, policy: str | None) -> Iterator[tuple[str, Path]]:
    scenario = loaded.scenario
    yield "profiles.file", loaded.path(scenario.profiles.file)
    yield "profiles.price_file", loaded.path(scenario.profiles.price_file)
    if scenario.network.source.endswith(".json"):
        yield "network.source", loaded.path(scenario.network.source)
    if isinstance(scenario.impairment, str):
        path = impairment_file(scenario.impairment, loaded.path)
        if path is not None:
            yield "impairment", path
    for agent, microgrid in scenario.microgrids.items():
        if microgrid.policy.use is not None:
            path = policy_file(microgrid.policy.use, loaded.directory)
            if path is not None:
                yield f"microgrids.{agent}.policy.use", path
            yield from _in_arguments(
                f"microgrids.{agent}.policy.arguments", microgrid.policy.arguments, loaded
            )
        for name, device in microgrid.devices.items():
            where = f"microgrids.{agent}.devices.{name}"
            if device.mapping is not None:
                from heron_mqtt.app.vendor_adapters import mapping_file  # not for a run without mappings

                path = mapping_file(loaded, agent, name)
                if path is not None:
                    yield f"{where}.mapping", path
            model = getattr(device.spec, "file", None)  # of an FMU, or of a kind of one's own
            if isinstance(model, str):
                yield f"{where}.file", loaded.path(model)
    if policy is not None:
        path = policy_file(policy, Path())
        if path is not None:
            yield POLICY_OPTION, path


def _in_arguments(key: str, value: object, loaded: LoadedScenario) -> Iterator[tuple[str, Path]]:
    """Return the files that arguments of a policy name: beside the scenario, or in the working directory."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _in_arguments(f"{key}.{name}", inner, loaded)
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from _in_arguments(f"{key}.{i}", inner, loaded)
    elif isinstance(value, str) and value:
        beside, here = loaded.directory / value, Path(value)  # which of both it opens is its own affair
        yield key, beside
        if here.absolute() != beside.absolute():
            yield f"{key} (in the working directory)", here


def policy_file(name: str, directory: Path) -> Path | None:
    """Return the source of a policy, ``module:Class`` or ``file.py:Class``; None = it cannot be found."""
    module, _, _ = name.rpartition(":")
    if module.endswith(".py"):
        return directory / module
    found = sys.modules.get(module)
    spec = _found_unimported(module) if found is None else found.__spec__
    return Path(spec.origin) if spec is not None and spec.origin and spec.has_location else None


def _found_unimported(module: str) -> ModuleSpec | None:
    """Return where a module is, and run nothing of it or its packages: its name may come from a record."""
    top, *inner = module.split(".")
    sys.path.insert(0, str(Path.cwd()))  # as for --policy
    try:
        spec = importlib.util.find_spec(top)
        for part in inner:
            if spec is None or spec.submodule_search_locations is None:
                return None
            spec = PathFinder.find_spec(f"{spec.name}.{part}", list(spec.submodule_search_locations))
    except (ImportError, ValueError):  # no name of a module
        return None
    finally:
        sys.path.pop(0)
    return spec


def changed_here(record: RecordFile, loaded: LoadedScenario) -> list[str]:
    """Return the files that replaying a record reads from this machine and that are not those of the run.

    These are the models and policies: everything else that it needs is in the record.

    Args:
        record: The run.
        loaded: Its scenario.
    """
    recorded = record.files() or {}
    here = named_files(loaded, record.options.get("policy"))
    return [
        f"{key}: {path} is not the {recorded[key].name} of the run"
        for key, path in here.items()
        if key.endswith((".policy.use", ".file")) and key.startswith("microgrids.")
        if key in recorded and digest(path) != recorded[key].sha256
    ]
