"""Another level of authority over a device."""

from __future__ import annotations

from heron_mqtt.app.operator_client.requests import Person, ask_gateway
from heron_mqtt.messages import AuthorityRequest, AuthorityState, Level


async def ask_authority(
    url: str, env_id: str | None, device: str, level: Level, person: Person
) -> AuthorityState:
    """Ask for a level of authority over ``AGENT/DEVICE``; arguments and errors as of ``ask_gateway``."""
    request = AuthorityRequest(level=level, who=person.who, why=person.why)
    return await ask_gateway(url, env_id, device, "authority", request, person)
