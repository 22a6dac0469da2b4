"""A request to the gateway of one device, and its answer on ``authority_state``."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass

from heron_mqtt.app.operator_client.environments import find_environment
from heron_mqtt.app.operator_client.text import printable
from heron_mqtt.errors import BrokerError, ConfigError, HeronError, NotReady
from heron_mqtt.messages import ROUNDING_MW, AuthorityRequest, AuthorityState, Take
from heron_mqtt.messaging import topics
from heron_mqtt.messaging.base import Received
from heron_mqtt.messaging.mqtt import MqttBroker
from heron_mqtt.messaging.ownership import user_name
from heron_mqtt.messaging.stamping import MessageStamper

MAX_WHO, MAX_WHY = 100, 500  # characters; who is part of the sender's name, too
ANSWER_S, WITHDRAWN_S = 5.0, 1.0


class NotAsAsked(HeronError):
    """A request was granted, and the same answer says that something else is in force."""


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

    A take without an answer, or whose answer differs from the request, is withdrawn: it must not act when the
    gateway or the broker continues later. The withdrawal names this take, so that it ends no other person's
    hold.

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
        NotAsAsked: It was granted, and what the gateway says is in force is something else.
        BrokerError: The broker is not there or refuses.
    """
    agent, name = split_device(device)
    env_id = await find_environment(url, env_id)
    stamper = MessageStamper(person.sender, env_id)
    asked, state = topics.device(agent, name, leaf), topics.device(agent, name, "authority_state")
    answered: asyncio.Future[AuthorityState] = asyncio.get_running_loop().create_future()
    seq = stamper.next_seq(asked)

    async with MqttBroker(url, env_id=env_id) as broker:  # the class: errors name address and topic

        def on_state(message: Received) -> None:
            answer = broker.parsed(message, AuthorityState)
            if answer is None:
                return
            is_ours = (answer.request_boot, answer.request_seq) == (stamper.boot, seq)
            is_ours = is_ours and answer.env_id in {None, env_id} and answer.sender in {None, agent}
            if is_ours and not answered.done():
                answered.set_result(answer)

        async def withdraw(why: str) -> None:
            if not isinstance(request, Take) or request.for_s <= 0.0:
                return  # nothing was taken
            withdrawn = Take(
                for_s=0.0,
                who=request.who,
                why=f"withdrawn: {why}",
                request_seq=seq,
                request_boot=stamper.boot,
            )
            with contextlib.suppress(BrokerError, TimeoutError):
                async with asyncio.timeout(WITHDRAWN_S):
                    await broker.publish(asked, stamper.stamp(asked, withdrawn))

        await broker.subscribe(state, on_state)
        await broker.publish(asked, stamper.stamp(asked, request))
        try:
            async with asyncio.timeout(timeout_s):
                answer = await answered
        except TimeoutError:
            await withdraw("no answer")
            raise NotReady(
                f"no gateway answered for {device} in environment {env_id!r} at {broker.options.address} "
                f"within {timeout_s:g} s: is the run active, is the device in its scenario, and may "
                f"this user publish on {broker.topic_of(asked)}?"
            ) from None
        if (difference := _not_as_asked(request, answer)) is not None:
            await withdraw("the answer differs from the request")
            raise NotAsAsked(
                f"{device}: {printable(difference, 600)}; see heron-mqtt status, and who else may publish on "
                f"{broker.topic_of(state)}"
            )
        return answer


def _not_as_asked(request: AuthorityRequest | Take, answer: AuthorityState) -> str | None:
    """Return in what a granted answer says something else than was asked, for people; None = in nothing."""
    if not answer.granted:
        return None
    if isinstance(request, AuthorityRequest):
        if answer.level == request.level:
            return None
        return f"{request.level} was asked for and granted, but the level in force is {answer.level}"
    if request.for_s <= 0.0:
        if answer.manual_by is None:
            return None
        return f"giving it back was granted, but it is under manual control of {answer.manual_by}"
    if answer.manual_by != request.who:
        in_force = (
            "not under manual control"
            if answer.manual_by is None
            else f"under manual control of {answer.manual_by}"
        )
        return f"{request.p_mw:g} MW under manual control of {request.who} was granted, but it is {in_force}"
    if answer.manual_p_mw is None or abs(answer.manual_p_mw - request.p_mw) > ROUNDING_MW:
        held = "no power" if answer.manual_p_mw is None else f"{answer.manual_p_mw:g} MW"
        return f"{request.p_mw:g} MW was asked for and granted, but {held} is in force"
    if answer.manual_s is None or abs(answer.manual_s - request.for_s) > ANSWER_S:
        left = "no time" if answer.manual_s is None else f"{answer.manual_s:g} s"
        return f"{request.for_s:g} s were asked for and granted, but {left} is in force"
    return None
