"""What a person does to a running gateway from outside: authority over a device, the emergency stop."""

from __future__ import annotations

import asyncio
import getpass

from heron_mqtt.errors import ConfigError, NotReady
from heron_mqtt.messages import AuthorityRequest, AuthorityState, EmergencyStop, Level
from heron_mqtt.messaging import topics
from heron_mqtt.messaging.base import Received
from heron_mqtt.messaging.schemes import open_broker, without_login
from heron_mqtt.messaging.stamping import MessageStamper


def whoami() -> str:
    """Return who is asking, for the record."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container without a user database
        return "unknown"


async def ask_authority(
    url: str, env_id: str, device: str, level: Level, *, who: str, why: str, timeout_s: float = 5.0
) -> AuthorityState:
    """Ask the gateway for a level of authority over ``AGENT/DEVICE`` and return its answer.

    Raises:
        ConfigError: ``device`` is not AGENT/DEVICE.
        NotReady: No gateway answered in time.
        BrokerError: The broker is not there or refuses.
    """
    agent, _, name = device.rpartition("/")
    if not agent or not name:
        raise ConfigError(f"{device}: expected AGENT/DEVICE, for example MG1/ess")
    stamper = MessageStamper(f"operator-{who}", env_id)
    asked, state = topics.device(agent, name, "authority"), topics.device(agent, name, "authority_state")
    answered: asyncio.Future[AuthorityState] = asyncio.get_running_loop().create_future()
    seq = stamper.next_seq(asked)

    async with open_broker(url, env_id=env_id, at_address=True) as broker:

        def on_state(message: Received) -> None:
            answer = broker.parsed(message, AuthorityState)
            if answer is None:
                return
            is_ours = (answer.request_boot, answer.request_seq) == (stamper.boot, seq)
            if is_ours and not answered.done():
                answered.set_result(answer)

        await broker.subscribe(state, on_state)
        request = AuthorityRequest(level=level, who=who, why=why)
        await broker.publish(asked, stamper.stamp(asked, request))
        try:
            async with asyncio.timeout(timeout_s):
                return await answered
        except TimeoutError:
            raise NotReady(
                f"no gateway answered for {device} in environment {env_id!r} at {without_login(url)} "
                f"within {timeout_s:g} s: is the run going on, and is the device one of its scenario?"
            ) from None


async def set_estop(url: str, env_id: str, *, active: bool, who: str, why: str) -> None:
    """Press or release the emergency stop; retained, so that it holds for those who connect later too.

    Raises:
        BrokerError: The broker is not there or refuses.
    """
    stamper = MessageStamper(f"operator-{who}", env_id)
    async with open_broker(url, env_id=env_id, at_address=True) as broker:
        stop = EmergencyStop(active=active, who=who, why=why)
        await broker.publish(topics.ESTOP, stamper.stamp(topics.ESTOP, stop), retain=True)
