"""Another level of authority over a device."""

from __future__ import annotations

import asyncio

from heron_mqtt.app.operator_client.environments import DeviceSeen, Environments
from heron_mqtt.app.operator_client.observer import Observer
from heron_mqtt.app.operator_client.requests import Person, ask_gateway, split_device
from heron_mqtt.app.operator_client.text import printable
from heron_mqtt.field.gateway.authority import RULES
from heron_mqtt.field.gateway.hand_back import HAND_BACK_S
from heron_mqtt.messages import AuthorityRequest, AuthorityState, Level
from heron_mqtt.messaging import topics
from heron_mqtt.units import KW_PER_MW

LOOK_EVERY_S = 0.05
LONGEST_WAIT_S = 60.0  # a longer wait is not useful if a device reports measurements that are hours old


async def ask_authority(
    url: str, env_id: str | None, device: str, level: Level, person: Person
) -> AuthorityState:
    """Ask for a level of authority over ``AGENT/DEVICE``; arguments and errors as of ``ask_gateway``."""
    request = AuthorityRequest(level=level, who=person.who, why=person.why)
    return await ask_gateway(url, env_id, device, "authority", request, person)


async def why_not_handed_back(
    url: str, env_id: str | None, device: str, answer: AuthorityState
) -> str | None:
    """Return what is wrong with a device whose level sends it nothing any more; None = nothing is known.

    A device that was driven says on ``lease`` when its hardware has taken the release. The gateway's answer
    contains the time for this, by the device's measuring interval.

    Args:
        url: Of the broker.
        env_id: The environment; None = the one that the answer names.
        device: AGENT/DEVICE.
        answer: Of its gateway.

    Raises:
        BrokerError: The broker is not there, or refuses.
    """
    env_id = env_id or answer.env_id
    wait_s = min(answer.hand_back_s or HAND_BACK_S, LONGEST_WAIT_S)
    if not answer.granted or RULES[answer.level].sends or env_id is None:
        return None
    agent, name = split_device(device)
    found = Environments()
    leaves = ("lease", "status", "telemetry")
    channels = tuple(topics.device(agent, name, leaf) for leaf in leaves)
    async with Observer(url, env_id, channels, found.take, needs_all=False) as observer:
        await observer.settle()
        ends = asyncio.get_running_loop().time() + wait_s
        while True:
            view = found.get(env_id)
            seen = None if view is None else view.devices.get(f"{agent}/{name}")
            if seen is None or not _is_ours(seen, agent, name):
                return None
            if asyncio.get_running_loop().time() >= ends:
                return _told(seen, wait_s)
            await asyncio.sleep(LOOK_EVERY_S)


def _is_ours(seen: DeviceSeen, agent: str, name: str) -> bool:
    """Whether a device may still do what its gateway has sent."""
    if seen.lease is not None:
        return seen.is_held and seen.lease.holder in {agent, f"{agent}/{name}"}
    is_unsafe = seen.telemetry is not None and seen.telemetry.get("safe") is False
    return is_unsafe and seen.status is not None and seen.status.state == "fault"


def _told(seen: DeviceSeen, wait_s: float) -> str:
    status, telemetry = seen.status, seen.telemetry
    state = "silent" if status is None else status.state
    reason = f" ({printable(status.reason, 300)})" if status is not None and status.reason else ""
    power = "" if telemetry is None else f"; it measures {KW_PER_MW * telemetry['p_mw']:.6g} kW"
    return f"it has not accepted its release within {wait_s:g} s: it is {state}{reason}{power}"
