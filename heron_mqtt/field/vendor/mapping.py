"""Loads a device's mapping from what a scenario says: a profile, parameters, tables of its own."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from heron_mqtt.config import read_toml, shipped_config, validate
from heron_mqtt.errors import ConfigError
from heron_mqtt.field.vendor.device_mapping import DeviceMapping, Keepalive
from heron_mqtt.field.vendor.parameters import check_use, fill, gather, placeholders
from heron_mqtt.field.vendor.problems import Problems
from heron_mqtt.field.vendor.tables import MappingTable
from heron_mqtt.input_files import is_file, why_no_file
from heron_mqtt.messaging import topics

__all__ = ["DeviceMapping", "Keepalive", "load_mapping", "load_named_mapping", "parameter_value"]

_NUMBER = re.compile(r"[+-]?((0|[1-9]\d*)(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def load_mapping(
    given: str | Mapping[str, Any],
    *,
    agent: str,
    device: str,
    source: str,
    find: Callable[[str], Path] | None = None,
    power_range_mw: tuple[float, float] | None = None,
) -> DeviceMapping:
    """Return the mapping that a scenario gives for a device.

    Args:
        given: The name of a profile file, or a table: a mapping, or ``profile`` with ``parameters`` and
            whatever of the profile's tables is to be replaced.
        agent: Fills ``{agent}``, escaped as in our own topics.
        device: Fills ``{device}``, likewise.
        source: File and key of the mapping, for errors.
        find: Finds a profile file; by default among the shipped ones.
        power_range_mw: Nameplate of the device, MW, positive = injected; the mapping must give different
            messages for all of its powers. None = not known here: call ``DeviceMapping.check_range`` before
            the device is driven.

    Raises:
        ConfigError: One line for each mistake: source, key and what was expected.
    """
    own: dict[str, Any] = {"profile": given} if isinstance(given, str) else dict(given)
    profile = own.pop("profile", None)
    base: dict[str, Any] = {}
    if profile is not None:
        path = _profile_path(profile, source, find)
        base = read_toml(path)
        source = f"{source} (profile {path})"
    if "broker" in own or "broker" in base:
        beside = source.split(" (profile")[0].removesuffix(".mapping")
        raise ConfigError(f"{source}: broker: belongs beside the mapping: [{beside.split(': ')[-1]}.broker]")
    modbus = own.get("modbus", base.get("modbus"))
    if isinstance(modbus, Mapping) and (place := modbus.keys() & {"unit", "framing", "connect_delay_s"}):
        beside = source.split(" (profile")[0].removesuffix(".mapping")
        raise ConfigError(
            f"{source}: modbus.{min(place)}: where the device is belongs beside the mapping: "
            f"[{beside.split(': ')[-1]}.modbus]"
        )
    parameters, declared = own.pop("parameters", {}), base.pop("parameters", {})
    if not isinstance(parameters, Mapping) or not isinstance(declared, Mapping):
        raise ConfigError(f"{source}: parameters: expected a table, name = value")
    problems = Problems(source)
    data = {**base, **own}
    built_in = {"agent": topics.escape(agent), "device": topics.escape(device)}
    values, learned = gather(declared, parameters, placeholders(data), problems)
    setpoint = data.get("setpoint")
    names = setpoint.get("values") if isinstance(setpoint, Mapping) else None
    check_use(
        data,
        set(declared),
        set(parameters),
        set(built_in),
        set(names) if isinstance(names, Mapping) else set(),
        set(learned),
        problems,
    )
    problems.raise_if_any()
    filled = {**fill(data, {**values, **built_in}), "parameters": values}
    mapping = DeviceMapping(validate(MappingTable, filled, source), source, learned)
    if power_range_mw is not None:
        mapping.check_range(power_range_mw)
    return mapping


def load_named_mapping(
    named: str,
    parameters: Mapping[str, Any],
    *,
    agent: str,
    device: str,
    source: str,
    power_range_mw: tuple[float, float] | None = None,
) -> DeviceMapping:
    """Return the mapping that a command line names.

    Args:
        named: A file, with a mapping or with ``profile`` and ``parameters``, or the name of a shipped profile
            (``device_profiles/opendtu.toml``); a file comes first.
        parameters: Of the profile, beside those in the file; they win.
        agent: As ``load_mapping`` takes it, like the following.
        device: Likewise.
        source: Likewise.
        power_range_mw: Likewise.

    Raises:
        ConfigError: As ``load_mapping``, or there is no such file and no such profile.
    """
    path = _own_or_shipped(named)
    if not is_file(path):
        raise ConfigError(f"{source}: {_why_no_profile(Path(named))}")
    try:
        given: dict[str, Any] = read_toml(path) if is_file(Path(named)) else {"profile": named}
    except ConfigError as exc:
        raise ConfigError(*(_named_once(source, named, problem) for problem in exc.problems)) from None
    if parameters:
        if "profile" not in given:  # a file that is a profile of one's own
            given = {"profile": named}
        own = given.get("parameters", {})
        given["parameters"] = {**own, **parameters} if isinstance(own, Mapping) else own
    return load_mapping(
        given, agent=agent, device=device, source=source, find=_own_or_shipped, power_range_mw=power_range_mw
    )


def parameter_value(text: str) -> Any:
    """Return a parameter that was given as a text: a number, true, false, or the text.

    Digits after a 0, as in a serial number, are a text.
    """
    if _NUMBER.fullmatch(text) is None:
        return {"true": True, "false": False}.get(text, text)
    try:
        return int(text)
    except ValueError:
        return float(text)


def _own_or_shipped(profile: str) -> Path:
    path = Path(profile)
    return path if is_file(path) else shipped_config() / profile


def _profile_path(profile: Any, source: str, find: Callable[[str], Path] | None) -> Path:
    shipped = shipped_config()
    path = (find or shipped.joinpath)(profile) if isinstance(profile, str) and profile else None
    if path is None or not is_file(path):
        raise ConfigError(f"{source}: profile = {profile!r}: {_why_no_profile(path)}")
    return path


def _why_no_profile(path: Path | None) -> str:
    """Return why there is no mapping at a path, and which ones are shipped."""
    shipped = sorted(shipped_config().glob("device_profiles/*.toml"))
    why = "no such file" if path is None else why_no_file(path)
    return f"{why}; shipped profiles are {', '.join(f'device_profiles/{each.name}' for each in shipped)}"


def _named_once(source: str, named: str, problem: str) -> str:
    """Return what is wrong with a file that ``source`` names, too."""
    return f"{source}: {problem.removeprefix(f'{named}: ')}"
