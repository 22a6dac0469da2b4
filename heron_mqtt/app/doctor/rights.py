"""Rights both ways: what each user must be able to publish and read, and what it must not.

What is expected comes from the table of the wire contract alone (``topics.rights``). What holds is seen
by messages: many brokers grant a subscription, or acknowledge a message, that they then do not serve.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

from heron_mqtt.app.doctor.findings import BrokerFinding
from heron_mqtt.app.doctor.logins import Login
from heron_mqtt.cancellation import end_tasks
from heron_mqtt.errors import BrokerError
from heron_mqtt.messaging import topics
from heron_mqtt.messaging.base import Received, Subscription
from heron_mqtt.messaging.mqtt import MqttBroker

ConnectAs = Callable[[Login], MqttBroker]

ANSWER_S = 3.0
SETTLE_S = 0.4
"""After everything that must arrive has arrived: what must not would be there by now."""
REFUSALS_S = 2.5
"""A refused subscription is asked for again twice, see ``mqtt.subscriber``."""
AT_ONCE = 4
ANYWHERE = {"operator": "system_operator", "client": "doctor", "user": "doctor-user"}
SHOWN = 3
CHANGE = "generate the broker's rights again: heron-mqtt acl SCENARIO --format mosquitto (or emqx, nats)"


@dataclass(slots=True)
class _Seen:
    """What one user can do, by channel."""

    may_write: list[str] = field(default_factory=list)
    may_not_write: list[str] = field(default_factory=list)
    may_read: list[str] = field(default_factory=list)
    may_not_read: list[str] = field(default_factory=list)


class _Heard:
    """The channels on which a probe has arrived."""

    def __init__(self) -> None:
        self.channels: set[str] = set()
        self._changed = asyncio.Event()

    def add(self, channel: str) -> None:
        self.channels.add(channel)
        self._changed.set()

    async def wait_for(self, channels: Iterable[str]) -> None:
        """Wait until all of these have come, at most ``ANSWER_S``."""
        wanted = set(channels)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ANSWER_S):
                while not self.channels >= wanted:
                    self._changed.clear()
                    await self._changed.wait()


def channels_around(login: Login, others: Iterable[Login]) -> list[str]:
    """Return channels of every kind that a user meets: its own ones, and the same of others."""
    own_agent, _, own_device = login.name.partition("/")
    named = [o.name for o in others if o.role in {"agent", "device"}]
    agents = list(dict.fromkeys([*(n.partition("/")[0] for n in named), "doctor-agent", "doctor-agent-2"]))
    if login.role not in {"agent", "device"}:
        own_agent = agents[0]
    foreign = next(agent for agent in agents if agent != own_agent)
    own_device = own_device or next(
        (n.partition("/")[2] for n in named if n.startswith(f"{own_agent}/")), "doctor-device"
    )
    fillings = [
        {"agent": own_agent, "device": own_device, "peer": foreign, "user": login.name},
        {"agent": foreign, "device": own_device, "peer": own_agent},
        {"agent": own_agent, "device": "doctor-device-2", "peer": own_agent},
        {"agent": foreign, "device": "doctor-device-2", "peer": "doctor-peer"},
    ]
    found: dict[str, None] = {}
    for rule in topics.RULES:
        for filling in fillings:
            channel = topics.fill(rule.pattern, {**ANYWHERE, **filling})
            found[channel] = None
    return list(found)


def expected(login: Login, env_id: str, channels: Iterable[str]) -> _Seen:
    """Return what a user must and must not be able to do, by the wire contract."""
    granted = topics.rights(login.role, login.name, env_id)
    topic_map = topics.TopicMap(env_id)
    seen = _Seen()
    for channel in channels:
        topic = topic_map.topic(channel)
        rights = {right for topic_filter, right in granted.items() if topics.matches(topic_filter, topic)}
        (seen.may_write if rights & {"write", "readwrite"} else seen.may_not_write).append(channel)
        (seen.may_read if rights & {"read", "readwrite"} else seen.may_not_read).append(channel)
    return seen


async def examine_rights(
    connect: ConnectAs, logins: list[Login], operator: Login, env_id: str
) -> list[BrokerFinding]:
    """Try the rights of every user, several users at a time.

    Args:
        connect: Makes a connection of a user.
        logins: The users.
        operator: Of them the one who reads and publishes everything of the wire contract.
        env_id: The environment of the probes.
    """
    limit = asyncio.Semaphore(AT_ONCE)

    async def one(login: Login) -> BrokerFinding:
        async with limit:
            try:
                return await _examine(connect, login, operator, env_id, logins)
            except BrokerError as exc:
                return BrokerFinding(f"rights of {login.label}", "no-go", str(exc))

    return list(await asyncio.gather(*(one(login) for login in logins)))


async def _examine(
    connect: ConnectAs, login: Login, operator: Login, env_id: str, logins: list[Login]
) -> BrokerFinding:
    must = expected(login, env_id, channels_around(login, logins))
    token = secrets.token_hex(6)
    written = await _written(connect, login, operator, must, token)
    read = await _read(connect, login, operator, must, token)
    lacks = [f"publish on {c}" for c in must.may_write if c not in written]
    lacks += [f"read {c}" for c in must.may_read if c not in read]
    excess = [f"publish on {c}" for c in must.may_not_write if c in written]
    excess += [f"read {c}" for c in must.may_not_read if c in read]
    figures = {"lacks": lacks, "must_not": excess}
    check = f"rights of {login.label}"
    if not lacks and not excess:
        what = (
            f"publishes on {len(must.may_write)} and reads {len(must.may_read)} channels as it must, "
            f"and none of the {len(must.may_not_write)} and {len(must.may_not_read)} others"
        )
        return BrokerFinding(check, "go", what, figures=figures)
    parts = [f"may not {_some(lacks)}, and must"] * bool(lacks)
    parts += [f"may {_some(excess)}, and must not"] * bool(excess)
    change = CHANGE
    if len(lacks) == len(must.may_write) + len(must.may_read):
        change += (
            f"; if they hold for one environment only, give this user the same in {env_id!r} (acl --doctor)"
        )
    return BrokerFinding(check, "no-go", "; ".join(parts), change, figures)


def _some(items: list[str]) -> str:
    more = len(items) - SHOWN
    return ", ".join(items[:SHOWN]) + (f" and {more} more" if more > 0 else "")


# -- publishing ------------------------------------------------------------------------------------------


async def _written(connect: ConnectAs, login: Login, operator: Login, must: _Seen, token: str) -> set[str]:
    """Return the channels on which what the user publishes arrives at the operator."""
    async with connect(operator) as listener, _heard(listener, ["#"], f"w{token}") as heard:
        async with connect(login) as client:
            for channel in must.may_write:
                await _publish(client, channel, f"w{token}")
            await heard.wait_for(must.may_write)
        missing = [channel for channel in must.may_write if channel not in heard.channels]
        for channel in missing:  # one that is denied may have ended the connection of those behind it
            await _publish_all(connect, login, [channel], f"w{token}")
        if missing:
            await asyncio.sleep(SETTLE_S)
        if not await _publish_all(connect, login, must.may_not_write, f"w{token}"):
            for channel in must.may_not_write:  # it ends the connection of one who may not
                await _publish_all(connect, login, [channel], f"w{token}")
        await asyncio.sleep(SETTLE_S)
        return heard.channels


async def _publish_all(connect: ConnectAs, login: Login, channels: list[str], token: str) -> bool:
    """Publish on channels; return whether the connection has outlived it."""
    client = connect(login)
    try:
        await client.connect()
        for channel in channels:
            await _publish(client, channel, token)
        await asyncio.sleep(0.1)
        return client.connected and not client.stats.reconnects
    except BrokerError:
        return False
    finally:
        await client.close()


async def _publish(client: MqttBroker, channel: str, token: str) -> None:
    # at QoS 0, or it would be sent again on every connection that a broker ends because of it
    with contextlib.suppress(BrokerError):
        await client.publish(channel, {"type": "probe", "boot": token}, qos=0)


# -- reading ---------------------------------------------------------------------------------------------


async def _read(connect: ConnectAs, login: Login, operator: Login, must: _Seen, token: str) -> set[str]:
    """Return the channels on which what the operator publishes arrives at the user."""
    async with AsyncExitStack() as stack:
        allowed = await stack.enter_async_context(connect(login))
        heard = await stack.enter_async_context(_heard(allowed, must.may_read, f"r{token}"))
        denied = await stack.enter_async_context(connect(login))
        heard_too = await stack.enter_async_context(_heard(denied, must.may_not_read, f"r{token}"))
        publisher = await stack.enter_async_context(connect(operator))
        for channel in [*must.may_read, *must.may_not_read]:
            await _publish(publisher, channel, f"r{token}")
        await heard.wait_for(must.may_read)
        await asyncio.sleep(SETTLE_S)
        return heard.channels | heard_too.channels


@asynccontextmanager
async def _heard(client: MqttBroker, filters: list[str], token: str) -> AsyncIterator[_Heard]:
    """Yield the channels on which probes of this token come, once the subscriptions are answered."""
    heard = _Heard()

    def on_message(message: Received) -> None:
        if message.get("boot") == token:
            heard.add(message.channel)

    held: list[Subscription] = [client.subscribe(topic_filter, on_message) for topic_filter in filters]

    async def answered(subscription: Subscription) -> None:
        with contextlib.suppress(BrokerError):
            await subscription

    waiting = [asyncio.ensure_future(answered(subscription)) for subscription in held]
    try:
        if waiting:
            await asyncio.wait(waiting, timeout=REFUSALS_S)
        yield heard
    finally:
        await end_tasks(waiting)
        for subscription in held:
            subscription()
