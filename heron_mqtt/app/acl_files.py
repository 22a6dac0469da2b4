"""Access rights of a scenario's users as a file for a site's broker.

The rights on topics of this project have one source, ``topics.RULES``. The rights on the topics of vendors'
devices are what their mappings read and publish. Those for Home Assistant are what a run announces.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from heron_mqtt.app.home_assistant.discovery import discovery_filter
from heron_mqtt.app.vendor_adapters import mappings_at_broker
from heron_mqtt.errors import ConfigError
from heron_mqtt.messaging import topics
from heron_mqtt.messaging.embedded.auth.credentials import acl_section, check_foreign
from heron_mqtt.messaging.nats_subjects import subjects_of
from heron_mqtt.messaging.settings import topics_begin

if TYPE_CHECKING:
    from powergrid.scenario import LoadedScenario, Scenario

PROBES = "-doctor"
"""Behind the environment's name: where ``heron-mqtt doctor`` tries rights, with no device on its topics."""


@dataclass(frozen=True, slots=True)
class SiteUser:
    """One user of the broker.

    Attributes:
        name: Its name there.
        role: In the wire contract.
        foreign: Its rights (read, write, readwrite) on topics that are not ours, by filter.
    """

    name: str
    role: str
    foreign: Mapping[str, str] = field(default_factory=dict)


def users_of(scenario: Scenario, foreign: Mapping[str, Mapping[str, str]] | None = None) -> list[SiteUser]:
    """Return who takes part: an operator, an observer, every agent and every device."""
    found = [("operator", "operator"), ("observer", "observer")]
    for agent, microgrid in scenario.microgrids.items():
        found.append((agent, "agent"))
        found += [(f"{agent}/{device}", "device") for device in microgrid.devices]
    return [SiteUser(name, role, (foreign or {}).get(name, {})) for name, role in found]


def foreign_rights(loaded: LoadedScenario) -> dict[str, dict[str, str]]:
    """Return the rights on topics that are not ours, at the site's broker: user -> filter -> right.

    What serves a vendor's device is the run (the operator's login) or a proxy (its agent's); the device
    itself logs in under its name in the scenario, ``MG1/ess``. A run announces to Home Assistant.

    Raises:
        ConfigError: A mapping is wrong.
    """
    found: dict[str, dict[str, str]] = {}
    for (agent, name), mapping in mappings_at_broker(loaded).items():
        device = f"{agent}/{name}"
        for topic in mapping.topic_filters():
            _grant(found, topic, readers=("operator", agent), writers=(device,))
        for topic in mapping.written_filters():
            _grant(found, topic, readers=(device,), writers=("operator", agent))
    home_assistant = loaded.scenario.integrations.home_assistant
    if home_assistant is not None:
        below = discovery_filter(loaded.scenario, home_assistant.prefix)
        _grant(found, below, readers=("operator",), writers=("operator",))
    return found


def _grant(
    found: dict[str, dict[str, str]], topic: str, *, readers: tuple[str, ...], writers: tuple[str, ...]
) -> None:
    for users, right in ((readers, "read"), (writers, "write")):
        for user in users:
            granted = found.setdefault(user, {})
            granted[topic] = right if granted.get(topic, right) == right else "readwrite"


def acl_file(loaded: LoadedScenario, kind: str, *, doctor: bool = False) -> str:
    """Return the rights of every user as a file for a broker.

    Args:
        loaded: Names environment, agents, devices and their mappings, and (the environment may, too)
            ``topic_prefix``.
        kind: ``mosquitto``, ``emqx`` or ``nats``.
        doctor: Also in the environment in which ``heron-mqtt doctor`` tries them.

    Raises:
        ConfigError: There is no such kind, or a mapping is wrong.
    """
    write = FORMATS.get(kind)
    if write is None:
        raise ConfigError(f"--format {kind}: expected {', '.join(FORMATS)}")
    scenario = loaded.scenario
    env_id = scenario.topic_env_id
    before = topics_begin(scenario.broker.topic_prefix)
    environments = [env_id, f"{env_id}{PROBES}"] if doctor else [env_id]
    users = users_of(scenario, foreign_rights(loaded))
    _check_names(loaded.source, users)
    return "\n".join(write(users, environments, before)) + "\n"


def _check_names(source: str, users: list[SiteUser]) -> None:
    """See that each user has a name of its own, and one that can be a user's.

    Raises:
        ConfigError: One has not.
    """
    problems: list[str] = []
    roles: dict[str, str] = {}
    for user in users:
        if (problem := topics.user_problem(user.name)) is not None:
            problems.append(f"{source}: {user.role} {user.name!r}: {problem}; it cannot be a user's name")
        elif user.name in roles:
            problems.append(
                f"{source}: {roles[user.name]} and {user.role} are both called {user.name!r}: one login "
                "would have the rights of both; give one another name"
            )
        roles[user.name] = user.role
    if problems:
        raise ConfigError(*problems)


def _rights(user: SiteUser, environments: list[str], before: str) -> list[tuple[str, str]]:
    """Return topic filter and right (read, write, readwrite) of a user."""
    check_foreign(user.name, user.foreign, before)
    ours = [
        pair
        for env_id in environments
        for pair in topics.rights(user.role, user.name, env_id, before=before).items()
    ]
    return [*ours, *user.foreign.items()]


def _mosquitto(users: list[SiteUser], environments: list[str], before: str) -> Iterator[str]:
    yield "# acl_file of mosquitto; no other client may do anything (allow_anonymous false)"
    for user in users:
        sections = [
            acl_section(user.name, user.role, env_id, before=before, foreign=user.foreign)
            for env_id in environments
        ]
        yield from sections[0]
        for more in sections[1:]:
            yield from (line for line in more if line.startswith("topic ") and line not in sections[0])


def _emqx(users: list[SiteUser], environments: list[str], before: str) -> Iterator[str]:
    yield "%% acl.conf of EMQX: {allow, Who, What, Topics}; what is not allowed is denied by the last line"
    for user in users:
        rights = _rights(user, environments, before)
        for action, wanted in (("publish", "write"), ("subscribe", "read")):
            filters = [json.dumps(topic) for topic, right in rights if right in {wanted, "readwrite"}]
            if filters:
                yield f"{{allow, {{user, {json.dumps(user.name)}}}, {action}, [{', '.join(filters)}]}}."
    yield "{deny, all}."


def _nats(users: list[SiteUser], environments: list[str], before: str) -> Iterator[str]:
    yield "# authorization of a NATS server; MQTT topics become subjects. Put a password into each $variable."
    yield "authorization {"
    yield "  users = ["
    for user in users:
        rights = _rights(user, environments, before)
        allowed = {
            action: [
                json.dumps(subject)
                for topic, right in rights
                if right in {wanted, "readwrite"}
                for subject in subjects_of(topic)
            ]
            for action, wanted in (("publish", "write"), ("subscribe", "read"))
        }
        variable = "".join(c if c.isalnum() else "_" for c in user.name).upper()
        yield f"    {{ user: {json.dumps(user.name)}, password: ${variable}_PASSWORD, permissions: {{"
        for action, subjects in allowed.items():
            yield f"        {action}: {{ allow: [{', '.join([*subjects, *_INNER[action]])}] }}"
        yield "    } }"
    yield "  ]"
    yield "}"


_INNER = {
    "publish": ('"$MQTT.>"', '"$JS.>"', '"_INBOX.>"'),
    "subscribe": ('"$MQTT.>"', '"_INBOX.>"'),
}
"""Subjects of NATS' own, by which its MQTT server keeps sessions and retained messages."""


FORMATS: dict[str, Callable[[list[SiteUser], list[str], str], Iterator[str]]] = {
    "mosquitto": _mosquitto,
    "emqx": _emqx,
    "nats": _nats,
}
