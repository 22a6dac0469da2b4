"""What there is by name: asked of the registries and of the shipped files, never listed a second time."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from heron_mqtt.config import shipped_config
from heron_mqtt.errors import ConfigError

NamedRows = list[tuple[str, str]]


def catalogue(what: str | None = None) -> dict[str, NamedRows]:
    """Return lists of names, each with a short text, by the title of the list.

    Raises:
        ConfigError: There is no such list; says which there are.
    """
    if what is not None and what not in LISTS:
        raise ConfigError(f"list {what}: expected one of {', '.join(LISTS)}")
    return {title: make() for title, make in LISTS.items() if what in {None, title}}


def _files(folder: str) -> NamedRows:
    """Return the TOML files of a shipped folder with the first sentence of their comments."""
    return [(path.stem, _about(path)) for path in sorted((shipped_config() / folder).glob("*.toml"))]


def _about(path: Path) -> str:
    lines = []
    for line in path.read_text("utf-8").splitlines():
        if line.startswith("#:"):
            continue
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("# "))
    return _sentence(" ".join(lines))


def _sentence(text: str) -> str:
    return " ".join(text.split()).partition(". ")[0].rstrip(".").replace("``", "")


def _kinds(things: Iterable[tuple[str, Any]]) -> NamedRows:
    return [(name, _sentence(inspect.getdoc(thing) or "")) for name, thing in things]


def _device_kinds() -> NamedRows:
    from powergrid.devices import DEVICES

    DEVICES.search()
    return _kinds((name, DEVICES[name].spec_type) for name in DEVICES)


def _protocols() -> NamedRows:
    from heron_mqtt.protocols.registry import PROTOCOLS

    PROTOCOLS.search()
    return _kinds((name, PROTOCOLS[name]) for name in PROTOCOLS)


def _impairment_kinds() -> NamedRows:
    from heron_mqtt.messaging.impairment_kinds import IMPAIRMENTS

    IMPAIRMENTS.search()
    return _kinds((name, IMPAIRMENTS[name]) for name in IMPAIRMENTS)


def _reward_terms() -> NamedRows:
    from powergrid.rewards.terms import REWARD_TERMS

    REWARD_TERMS.search()
    return _kinds((name, REWARD_TERMS[name]) for name in REWARD_TERMS)


def _policies() -> NamedRows:
    """Return the names that ``heron-mqtt evaluate`` knows, with what a scenario calls them (``use``)."""
    from powergrid.agents.policy import load_policy
    from powergrid.policies import POLICIES

    return [
        (name, "the agents' own rules; what a scenario without a policy has")
        if place is None
        else (name, f"{_sentence(inspect.getdoc(load_policy(place)) or '')} ({place})")
        for name, place in POLICIES.items()
    ]


def _grids() -> NamedRows:
    from powergrid.networks import NETWORK_SOURCES

    NETWORK_SOURCES.search()
    return [(name, f"from {source.name}") for source in NETWORK_SOURCES.values() for name in source().names()]


def _brokers() -> NamedRows:
    from heron_mqtt.messaging.schemes import BrokerScheme, scheme_names, scheme_of

    def who(scheme: BrokerScheme) -> str:
        if scheme.is_external:
            return "other processes can take part"
        return "agents of one process, no hardware" if scheme.lacks else "inside this process"

    return [(name, who(scheme_of(name))) for name in scheme_names()]


def _profiles() -> NamedRows:
    rows = []
    for path in sorted((shipped_config() / "profiles").glob("*.csv")):
        with path.open(encoding="utf-8") as file:
            columns = file.readline().strip().split(",")[1:]
        rows.append((f"profiles/{path.name}", ", ".join(columns)))
    return rows


LISTS: dict[str, Callable[[], NamedRows]] = {
    "scenarios": lambda: _files("."),
    "networks": _grids,
    "data": _profiles,
    "device-profiles": lambda: _files("device_profiles"),
    "impaired-networks": lambda: _files("networks"),
    "devices": _device_kinds,
    "protocols": _protocols,
    "impairments": _impairment_kinds,
    "reward-terms": _reward_terms,
    "policies": _policies,
    "brokers": _brokers,
}
