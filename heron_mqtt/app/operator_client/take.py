"""One device in the hand of a person, for a bounded time."""

from __future__ import annotations

import re

from heron_mqtt.app.operator_client.requests import Person, ask_gateway
from heron_mqtt.errors import ConfigError
from heron_mqtt.messages import MAX_LEASE_S, AuthorityState, Take
from heron_mqtt.units import KW_PER_MW, W_PER_MW

PER_MW = {"W": W_PER_MW, "kW": KW_PER_MW, "MW": 1.0}
_POWER = re.compile(r"([+-]?(\d+(?:\.\d*)?|\.\d+))\s*(W|kW|MW)")
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)")
_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)min|(\d+)m)?(?:(\d+(?:\.\d+)?)s)?")
_LARGEST = 1e6  # kW or MW: a number that is plainly a mistake


async def take_device(
    url: str,
    env_id: str | None,
    device: str,
    person: Person,
    *,
    p_mw: float = 0.0,
    q_mvar: float = 0.0,
    for_s: float = 0.0,
) -> AuthorityState:
    """Begin manual control of ``AGENT/DEVICE``, within all bounds of its level; errors as of ``ask_gateway``.

    Args:
        url: Of the broker.
        env_id: The environment; None = the one that is alive.
        device: AGENT/DEVICE.
        person: Who takes it.
        p_mw: MW, positive = injected.
        q_mvar: Mvar, positive = injected.
        for_s: How long, s; 0 = give it back now.
    """
    request = Take(p_mw=p_mw, q_mvar=q_mvar, for_s=for_s, who=person.who, why=person.why)
    return await ask_gateway(url, env_id, device, "take", request, person)


def parse_power(option: str, text: str) -> float:
    """Return a plain decimal number: no exponent, no unit, nothing that is not finite.

    Raises:
        ConfigError: Names the option and what was expected.
    """
    if _NUMBER.fullmatch(text) is None or abs(float(text)) > _LARGEST:
        raise ConfigError(
            f"{option} {text}: expected a plain number up to {_LARGEST:.0f}, such as 5 or -2.5; the option "
            "names the unit"
        )
    return float(text)


def parse_power_with_unit(option: str, text: str) -> float:
    """Return a power such as 500W, 0.5kW or -1.2MW, MW.

    Raises:
        ConfigError: Names the option and what was expected.
    """
    found = _POWER.fullmatch(text)
    if found is None or abs(float(found[1])) > _LARGEST:
        raise ConfigError(
            f"{option} {text}: expected a power with its unit, such as 500W, 0.5kW or -1.2kW; positive = "
            "injected into the grid"
        )
    return float(found[1]) / PER_MW[found[3]]


def parse_duration(option: str, text: str) -> float:
    """Return a duration such as 90s, 10m, 1h or 1h30m, s.

    Raises:
        ConfigError: Names the option and what was expected.
    """
    found = _DURATION.fullmatch(text)
    if not text or found is None:
        raise ConfigError(f"{option} {text}: expected a time with its unit, such as 90s, 10m, 1h or 1h30m")
    hours, minutes, also_minutes, seconds = found.groups()
    total_s = int(hours or 0) * 3600 + int(minutes or also_minutes or 0) * 60 + float(seconds or 0)
    if not 0.0 < total_s <= MAX_LEASE_S:
        raise ConfigError(f"{option} {text}: expected more than 0 s, and at most {MAX_LEASE_S / 3600:.0f}h")
    return float(total_s)
