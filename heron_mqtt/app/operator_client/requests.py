"""A request to the gateway of one device, and its answer on ``authority_state``."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass

from heron_mqtt.app.operator_client.environments import find_environment
from heron_mqtt.errors import BrokerError, ConfigError, NotReady
from heron_mqtt.messages import AuthorityRequest, AuthorityState, Take
from heron_mqtt.messaging import topics
from heron_mqtt.messaging.base import Received
from heron_mqtt.messaging.mqtt import MqttBroker
from heron_mqtt.messaging.ownership import user_name
from heron_mqtt.messaging.stamping import MessageStamper

MAX_WHO, MAX_WHY = 100, 500  # characters; who is part of the sender's name, too
ANSWER_S, WITHDRAWN_S = 5.0, 1.0


@dataclass(frozen=True, slots=True)
class Person:
    """Who acts and why, for the record.

    Raises:
        ConfigError: One of them cannot be recorded.
    """

    who: str
    why: str

    @classmethod
    def checked(cls, who: str | None, why: str) -> Person:
        """Return who acts; None = the user of this process."""
        who = user_name() if who is None else who
        problems = []
        if not who.strip() or not who.isprintable():
            problems.append(f"--who {who!r}: expected a name, of printable characters")
        elif len(who) > MAX_WHO:
            problems.append(f"--who has {len(who)} characters: expected at most {MAX_WHO}")
        if len(why) > MAX_WHY:
            problems.append(f"--why has {len(why)} characters: expected at most {MAX_WHY}")
        if problems:
            raise ConfigError(*problems)
        return cls(who, why)

    @property
    def sender(self) -> str:
        """Who publishes what this person asks for."""
        return f"operator-{self.who}"


def split_device(device: str) -> tuple[str, str]:
    """Return agent and name of ``AGENT/DEVICE``.

    Raises:
        ConfigError: It is not that.
    """
    agent, _, name = device.rpartition("/")
    if not agent or not name:
        raise ConfigError(f"{device}: expected AGENT/DEVICE, for example MG1/ess")
    return agent, name


async def ask_gateway(
    url: str,
    env_id: str | None,
    device: str,
    leaf: str,
    request: AuthorityRequest | Take,
    person: Person,
    *,
    timeout_s: float = ANSWER_S,
) -> AuthorityState:
    """Publish a request for ``AGENT/DEVICE`` and return what its gateway answers.

    A take without an answer is withdrawn: it must not act once the gateway or the broker goes on. The
    withdrawal names it, so that it ends no other person's hold.

    Args:
        url: Of the broker.
        env_id: The environment; None = the one that is alive.
        device: AGENT/DEVICE.
        leaf: Of the channel: authority or take.
        request: What is asked.
        person: Who asks.
        timeout_s: How long to wait for the answer, s.

    Raises:
        ConfigError: ``device`` is not AGENT/DEVICE.
        NotReady: No gateway answered in time, or it is not clear which environment is meant.
        BrokerError: The broker is not there or refuses.
    """
    agent, name = split_device(device)
    env_id = await find_environment(url, env_id)
    stamper = MessageStamper(person.sender, env_id)
    asked, state = topics.device(agent, name, leaf), topics.device(agent, name, "authority_state")
    answered: asyncio.Future[AuthorityState] = asyncio.get_running_loop().create_future()
    seq = stamper.next_seq(asked)

    async with MqttBroker(url, env_id=env_id) as broker:

        def on_state(message: Received) -> None:
            answer = broker.parsed(message, AuthorityState)
            if answer is None:
                return
            is_ours = (answer.request_boot, answer.request_seq) == (stamper.boot, seq)
            if is_ours and not answered.done():
                answered.set_result(answer)

        await broker.subscribe(state, on_state)
        await broker.publish(asked, stamper.stamp(asked, request))
        try:
            async with asyncio.timeout(timeout_s):
                return await answered
        except TimeoutError:
            if isinstance(request, Take) and request.for_s > 0.0:  # it may be late: it must not act then
                withdrawn = Take(
                    for_s=0.0,
                    who=request.who,
                    why="withdrawn: no answer",
                    request_seq=seq,
                    request_boot=stamper.boot,
                )
                with contextlib.suppress(BrokerError, TimeoutError):
                    async with asyncio.timeout(WITHDRAWN_S):
                        await broker.publish(asked, stamper.stamp(asked, withdrawn))
            raise NotReady(
                f"no gateway answered for {device} in environment {env_id!r} at {broker.options.address} "
                f"within {timeout_s:g} s: is the run going on, is the device one of its scenario, and may "
                f"this user publish on {broker.topic_of(asked)}?"
            ) from None
