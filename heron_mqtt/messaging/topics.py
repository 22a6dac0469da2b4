"""Channels and MQTT topics: the only place where either is spelled, and who may publish and read each.

A *channel* is how the code names a conversation (``agents/MG1/action``); a *topic* is how MQTT carries
it (``heron/<env>/agents/MG1/action``). Identifiers are whole levels and are percent-escaped where they
contain ``/ + # %`` or control characters, so that any identifier comes back unchanged.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal
from urllib.parse import unquote

from heron_mqtt.errors import ConfigError

ROOT = "heron"
MAX_ENV_ID = 200  # characters; messages carry it as an identifier
MAX_TOPIC_BYTES = 65_535  # MQTT 3.1.1, section 1.5.3: a UTF-8 string has a two-byte length

NO_USER = "-"  # in the place of a user's name, of a client that has not logged in

RUN_STATE = "run/state"
RUN_RECORD = "run/record"
RUN_NETWORK = "run/network"
RUN_GRID = "run/grid"
ESTOP = "estop"
ALWAYS_DELIVERED = frozenset({ESTOP})
"""Channels on which everything reaches the subscribers: what cannot be decoded (as ``malformed``), and
what looks like a duplicate. A stop that a participant cannot read is still a stop."""
RUN_OWNER = "run/owner"

WhileAway = Literal["stored", "queued", "dropped"]
"""What becomes of a message that is published while the broker is away.

``stored``: it tells what has happened, or stops: it comes later, also after a restart, where there is an
outbox. ``queued``: it waits in memory, as long as this process lives. ``dropped``: it is for now, and would
do harm later: it is not sent at all.
"""


@dataclass(frozen=True, slots=True)
class ChannelRule:
    """One kind of channel: who publishes on it, and who reads it.

    Attributes:
        pattern: ``{name}`` stands for one level.
        writers: Roles. ``agent`` is the one named at ``{agent}``, ``device`` the one named at ``{agent}``
            and ``{device}``, ``user`` the agent or device that logs in under the name at ``{user}``. An
            operator may publish on all of them: its process runs the agents that are not remote, with their
            devices.
        readers: Roles; as writers, ``peer`` being the agent named at ``{peer}``, ``agents`` and ``devices``
            all of them. Operators and observers read everything.
        retained: Whether it is published to be kept for late subscribers.
        vital: Whether safety depends on it: a broker gives up every other retained message first.
        away: What becomes of it while the broker is away. Of a stop and its release, which share a channel,
            ``while_away`` knows more.
    """

    pattern: str
    writers: frozenset[str]
    readers: frozenset[str] = frozenset()
    retained: bool = False
    vital: bool = False
    away: WhileAway = "queued"


def _rule(
    pattern: str, writers: str, readers: str = "", *, kept: str = "", away: WhileAway = "queued"
) -> ChannelRule:
    """Return a row of the table below; ``kept`` is ``retained`` or ``vital`` (retained, and vital)."""
    return ChannelRule(
        pattern, frozenset(writers.split()), frozenset(readers.split()), bool(kept), kept == "vital", away
    )


RULES: Final[tuple[ChannelRule, ...]] = (
    _rule("run/state", "operator", "agents devices", kept="vital"),
    _rule("run/owner", "operator", "agents devices", kept="vital"),
    _rule("run/record", "operator", kept="retained"),
    _rule("run/network", "operator", kept="retained"),
    _rule("run/grid", "operator", kept="retained"),
    _rule("run/probe", "operator"),
    _rule("run/probe_will", "operator"),
    _rule("estop", "operator", "agents devices", kept="vital", away="stored"),
    _rule("estop/confirm/{agent}", "agent", "agents devices"),
    _rule("estop/confirm/{agent}/{device}", "device", "agents devices"),
    _rule("operators/{operator}/price", "operator", "agents", kept="retained"),
    _rule("agents/{agent}/observation", "operator", "agent"),
    _rule("agents/{agent}/command", "operator", "agent"),
    _rule("agents/{agent}/clearance", "operator", "agent"),
    _rule("agents/{agent}/action", "agent", away="stored"),
    _rule("agents/{agent}/plan", "agent"),
    _rule("agents/{agent}/status", "agent", "agent", kept="vital"),
    _rule("agents/{agent}/owner", "agent", "agents devices", kept="vital"),
    _rule("agents/{agent}/probe", "agent", "agents"),
    _rule("agents/{agent}/probe_will", "agent", "agents"),
    _rule("p2p/{agent}/{peer}", "agent", "peer", away="stored"),
    _rule("devices/{agent}/{device}/setpoint", "agent", "device", away="dropped"),
    _rule("devices/{agent}/{device}/telemetry", "device", "agent", away="stored"),
    _rule("devices/{agent}/{device}/status", "device", "agent device", kept="vital"),
    _rule("devices/{agent}/{device}/owner", "device", "agents devices", kept="vital"),
    _rule("devices/{agent}/{device}/lease", "device", "agents devices", kept="vital"),
    _rule("devices/{agent}/{device}/authority", "operator", "agent", away="dropped"),
    _rule("devices/{agent}/{device}/authority_state", "agent", "agent", kept="vital", away="stored"),
    _rule("devices/{agent}/{device}/take", "operator", "agent", away="dropped"),
    _rule("devices/{agent}/{device}/fault", "operator", "device"),
    _rule("session/{user}/{client}/probe", "operator user", "user"),
    _rule("session/{user}/{client}/outbox", "operator user"),
    _rule("bench/hop", "operator"),
)
"""Every channel of the wire contract. Access rights, ACL files, what a broker keeps and what an outbox stores
derive from it."""

ROLES: Final = ("agent", "device", "operator", "observer")

_TO_ESCAPE = re.compile(r"[/+#%\x00-\x1f\x7f-\x9f\ud800-\udfff]")  # surrogates: encoding them raises
_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f-\x9f]")


@functools.lru_cache(maxsize=10_000)  # the same few identifiers, at every publish
def escape(identifier: str) -> str:
    """Return an identifier as one topic level.

    Raises:
        ValueError: It is empty or not valid Unicode.
    """
    if not identifier:
        raise ValueError("an identifier must not be empty")
    return _TO_ESCAPE.sub(lambda m: "".join(f"%{b:02X}" for b in m[0].encode()), identifier)


def unescape(level: str) -> str:
    """Return the identifier that ``escape`` turned into ``level``."""
    return unquote(level) if "%" in level else level


def name_problem(name: str) -> str | None:
    """Return what is wrong with the name of an environment or agent; None = nothing.

    What cannot be seen, or looks like another name although it is none, is refused. Letters of two scripts
    that look alike are two names.
    """
    if not name.strip() or name != name.strip() or not name.isprintable():
        return "expected printable characters, and no space at the ends"
    if unicodedata.normalize("NFC", name) != name:
        return "written with combining characters: it looks like another name; expected Unicode's form NFC"
    return None


def user_problem(name: str) -> str | None:
    """Return what is wrong with the name of a user of a broker; None = nothing."""
    if name == NO_USER:
        return f"{NO_USER!r} stands in topics for clients without a login; expected another name"
    if any(sign in name for sign in ("+", "#", "%u", "%c")) or "" in name.split("/"):
        return "expected no + # %u %c and no empty part between slashes"
    return name_problem(name)


def checked_env_id(env_id: str | None) -> str | None:
    """Return an environment's name as a user gives it, by ``--env-id``; None = none is given.

    Raises:
        ConfigError: It cannot be the name of one.
    """
    if env_id is None:
        return None
    if len(env_id) > MAX_ENV_ID or (problem := name_problem(env_id)) is not None:
        why = "" if len(env_id) > MAX_ENV_ID else f"; {problem}"
        raise ConfigError(
            f"--env-id {env_id[:60]!r}: expected the name of an environment, at most {MAX_ENV_ID} "
            f"characters{why}"
        )
    return env_id


@functools.lru_cache(maxsize=10_000)  # the same few, at every publish
def operator_price(operator_id: str) -> str:
    """Channel of an operator's price."""
    return f"operators/{escape(operator_id)}/price"


@functools.lru_cache(maxsize=10_000)  # the same few, at every publish
def agent(agent_id: str, leaf: str) -> str:
    """Channel of an agent: ``leaf`` is observation, command, plan, clearance, action, status or owner."""
    return f"agents/{escape(agent_id)}/{leaf}"


def any_agent(leaf: str) -> str:
    """Filter for one leaf of every agent."""
    return f"agents/+/{leaf}"


@functools.lru_cache(maxsize=10_000)  # the same few, at every publish
def p2p(sender: str, receiver: str) -> str:
    """Channel from one agent to another."""
    return f"p2p/{escape(sender)}/{escape(receiver)}"


def p2p_to(receiver: str) -> str:
    """Filter for everything that peers send to one agent."""
    return f"p2p/+/{escape(receiver)}"


def device(agent_id: str, device_name: str, leaf: str) -> str:
    """Channel of a device: ``leaf`` is setpoint, telemetry, status, owner, lease, take, authority, ..."""
    return f"devices/{escape(agent_id)}/{escape(device_name)}/{leaf}"


def session(user: str | None, client_id: str, leaf: str) -> str:
    """Channel on which a client reports on its own session; no other user may publish there.

    Args:
        user: As which it has logged in; None = without a login.
        client_id: At the broker.
        leaf: ``probe``, for the mark by which it tells what waited at the broker from what is of now; or
            ``outbox``, for what waits in its outbox.
    """
    return f"session/{escape(user or NO_USER)}/{escape(client_id)}/{leaf}"


def stop_confirm(agent_id: str, device_name: str | None = None) -> str:
    """Channel on which an agent's gateway, or a device, confirms an emergency stop."""
    whose = escape(agent_id) if device_name is None else f"{escape(agent_id)}/{escape(device_name)}"
    return f"estop/confirm/{whose}"


def any_device(leaf: str) -> str:
    """Filter for one leaf of every device."""
    return f"devices/+/+/{leaf}"


def agent_devices(agent_id: str, leaf: str) -> str:
    """Filter for one leaf of every device of an agent."""
    return f"devices/{escape(agent_id)}/+/{leaf}"


def levels(channel: str) -> list[str]:
    """Return the identifiers of a channel, unescaped."""
    return [unescape(level) for level in channel.split("/")] if "%" in channel else channel.split("/")


@functools.lru_cache(maxsize=10_000)  # the same few channels, at every message
def owner_of(channel: str) -> str:
    """Return the agent or operator that a channel is of: its second identifier."""
    return levels(channel)[1]


def is_filter(channel: str) -> bool:
    """Whether a channel holds a wildcard."""
    return "+" in channel or "#" in channel


@functools.lru_cache(maxsize=10_000)  # the same few channels, at every publish
def check_channel(channel: str) -> str:
    """Return ``channel`` if it can be published to.

    Raises:
        ValueError: Says what is wrong with it.
    """
    _check_text(channel)
    if is_filter(channel):
        raise ValueError(f"channel {channel!r} holds a wildcard; publish to one channel, escape identifiers")
    return channel


def check_filter(channel: str) -> str:
    """Return ``channel`` if it can be subscribed to: ``+`` is a whole level, ``#`` the whole last one.

    Raises:
        ValueError: Says what is wrong with it.
    """
    _check_text(channel)
    parts = channel.split("/")
    for i, level in enumerate(parts):
        if "+" in level and level != "+":
            raise ValueError(f"filter {channel!r}: '+' must be a whole level")
        if "#" in level and (level != "#" or i != len(parts) - 1):
            raise ValueError(f"filter {channel!r}: '#' must be the whole last level")
    return channel


def _check_text(channel: str) -> None:
    if not channel:
        raise ValueError("a channel must not be empty")
    if _FORBIDDEN.search(channel):
        raise ValueError(f"channel {channel!r} holds a control character")
    try:
        size = len(channel.encode())
    except UnicodeEncodeError:
        raise ValueError(f"channel {channel!r} is not valid Unicode") from None
    if size > MAX_TOPIC_BYTES - 1000:  # leave room for the prefix
        raise ValueError(f"a channel of {size} bytes is too long")


def matches(pattern: str, channel: str) -> bool:
    """Whether a channel lies under a filter, by the rules of MQTT 3.1.1, section 4.7.

    A leading wildcard does not match a first level that begins with ``$``.
    """
    want, have = pattern.split("/"), channel.split("/")
    if have[0].startswith("$") and want[0] in {"+", "#"}:
        return False
    for i, level in enumerate(want):
        if level == "#":
            return True
        if i >= len(have) or level not in {"+", have[i]}:
            return False
    return len(want) == len(have)


class TopicMap:
    """Maps channels to topics and back, for one environment.

    Args:
        env_id: The environment; one topic level, escaped.
        overrides: Channel -> topic, for channels that live somewhere else.
    """

    def __init__(self, env_id: str = "default", overrides: dict[str, str] | None = None) -> None:
        self.env_id = env_id
        self.prefix = f"{ROOT}/{escape(env_id)}/"
        self._topics = {check_channel(c): check_channel(t) for c, t in (overrides or {}).items()}
        self._channels = {topic: channel for channel, topic in self._topics.items()}
        if len(self._channels) != len(self._topics):
            raise ValueError("two channels are mapped to one topic; give each its own")
        for topic, channel in self._channels.items():
            natural = topic.removeprefix(self.prefix)
            if topic.startswith(self.prefix) and natural not in {channel, *self._topics}:
                raise ValueError(
                    f"channel {channel!r} is mapped to {topic!r}, the topic of channel {natural!r}; "
                    f"give it another, or map {natural!r} too"
                )

    @property
    def overridden(self) -> bool:
        """Whether any channel lives somewhere else."""
        return bool(self._topics)

    def topic(self, channel: str) -> str:
        """Return the topic of a channel."""
        return self._topics.get(channel) or self.prefix + channel

    def filters(self, channel: str) -> tuple[str, ...]:
        """Return the topic filters that together bring everything under a channel or filter.

        More than one where a filter also matches channels that are mapped somewhere else.
        """
        if not is_filter(channel):
            return (self.topic(channel),)
        return (self.prefix + channel, *(t for c, t in self._topics.items() if matches(channel, c)))

    def channel(self, topic: str) -> str | None:
        """Return the channel of a topic, or None if the topic belongs to no channel of this environment."""
        mapped = self._channels.get(topic)
        if mapped is not None:
            return mapped
        return topic[len(self.prefix) :] if topic.startswith(self.prefix) else None


# -- who may do what -----------------------------------------------------------------------------------


def rights(role: str, name: str, env_id: str | None = None, *, before: str = "") -> dict[str, str]:
    """Return the topic filters that a user needs, and whether to ``read``, ``write`` or ``readwrite`` them.

    Args:
        role: One of ``ROLES``.
        name: Of an agent its id (``MG1``), of a device its agent's id and its own name (``MG1/ess``); not
            looked at for the others.
        env_id: The environment; None = any.
        before: What stands before every topic of ours at the broker, with its last ``/``.

    Raises:
        ValueError: Not a role, or not the name of a device.
    """
    if role not in ROLES:
        raise ValueError(f"role {role!r}: expected one of {', '.join(ROLES)}")
    prefix = f"{before}{ROOT}/{'+' if env_id is None else escape(env_id)}/"
    everything = f"{before}{ROOT}/#" if env_id is None else f"{prefix}#"
    if role == "observer":
        return {everything: "read"}
    granted: dict[str, str] = {everything: "read"} if role == "operator" else {}
    for rule in RULES:
        writes, reads = _fillings(rule.writers, role, name), _fillings(rule.readers, role, name)
        if role == "operator":
            writes, reads = [{}], []
        for right, fillings in (("write", writes), ("read", reads)):
            for filling in fillings:
                topic_filter = prefix + fill(rule.pattern, filling)
                before = granted.get(topic_filter, right)
                granted[topic_filter] = right if before == right else "readwrite"
    return granted


def _fillings(roles: frozenset[str], role: str, name: str) -> list[dict[str, str]]:
    """Return, for each way in which a user is meant by a rule, the levels that must hold its name."""
    # a device's own name has no slash: what is before the last one is its agent's
    agent, slash, own_device = name.rpartition("/") if role == "device" else (name, "", "")
    if role == "device" and not slash:
        raise ValueError(f"device {name!r}: expected AGENT/DEVICE, for example MG1/ess")
    if f"{role}s" in roles or (role == "agent" and "devices" in roles):
        return [{}]
    fillings = []
    if role == "agent":  # an agent's process may serve the agent's devices, too
        fillings += [{"agent": agent}] * bool(roles & {"agent", "device"})
        fillings += [{"peer": agent}] * ("peer" in roles)
    elif role in roles:
        fillings += [{"agent": agent, "device": own_device}]
    return fillings + [{"user": name}] * ("user" in roles)


def fill(pattern: str, filling: Mapping[str, str]) -> str:
    """Return the pattern of a rule with its levels filled in; ``+`` where nothing is named."""
    return re.sub(r"\{(\w+)\}", lambda m: escape(filling[m[1]]) if m[1] in filling else "+", pattern)


def rule_of(channel: str) -> ChannelRule | None:
    """Return the rule of a channel, or of a filter with ``+``; None if it has none.

    An identifier is never empty (``escape`` refuses it). So a channel with an empty level has no rule,
    although in MQTT (and in ``matches``) ``+`` matches an empty level too. No two rules have a channel in
    common.
    """
    levels = channel.split("/")
    return next((rule for rule in RULES if _is_of(levels, rule.pattern)), None)


def _is_of(levels: Sequence[str], pattern: str) -> bool:
    """Whether levels fit a rule's pattern.

    Level by level: a regular expression a rule takes as long to compile as half of a device's start.
    """
    told = pattern.split("/")
    return len(told) == len(levels) and all(
        name == level or (name.startswith("{") and level != "")
        for name, level in zip(told, levels, strict=True)
    )


@functools.lru_cache(maxsize=10_000)
def is_vital(topic: str) -> bool:
    """Whether a topic carries what safety depends on: births, stops, owners, authority."""
    levels = topic.split("/", 2)
    if len(levels) != 3 or levels[0] != ROOT:
        return False
    rule = rule_of(levels[2])
    return rule is not None and rule.vital


# -- what waits while the broker is away ----------------------------------------------------------------


def while_away(channel: str, message: Mapping[str, Any]) -> WhileAway:
    """Return what becomes of a message that is published while the broker is away.

    A stop is stored. What releases one is not: a release is asked for while the broker is there. What
    says ``active: false`` and is no valid release counts as a stop where it is heard, but was not meant as
    one: it is not stored either.
    """
    if channel == ESTOP and is_release(message):
        return "dropped"
    return away_of(channel)


def is_release(message: Mapping[str, Any]) -> bool:
    """Whether a message on ``estop`` asks for the end of a stop."""
    return message.get("active") is False


@functools.lru_cache(maxsize=10_000)
def kind_of(channel: str) -> str:
    """Return the rule of a channel as a filter (``devices/+/+/telemetry``); empty where there is none."""
    rule = rule_of(channel)
    return "" if rule is None else fill(rule.pattern, {})


@functools.lru_cache(maxsize=10_000)  # the same few channels, at every publish
def away_of(channel: str) -> WhileAway:
    """Return what the rule of a channel says; channels of no rule are queued."""
    rule = rule_of(channel)
    return "queued" if rule is None else rule.away


def is_storable(topic_filter: str) -> bool:
    """Whether everything under a channel or filter may come later than it was published.

    A stop may, but shares its channel with what releases it.
    """
    rule = None if "#" in topic_filter else rule_of(topic_filter)  # "+" fills a level as an identifier does
    return rule is not None and rule.away == "stored" and rule.pattern != ESTOP
