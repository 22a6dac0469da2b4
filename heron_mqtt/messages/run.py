"""Where a run stands, and who holds a name of which there must be one only."""

from __future__ import annotations

from typing import Literal

from pydantic import AwareDatetime, Field

from heron_mqtt.messages.message import Message
from heron_mqtt.messages.values import MAX_INTEGER

NO_RUN = "none"
"""``run`` of a device that follows episodes and has not heard of one yet."""


class RunState(Message):
    """Where the run stands (retained); ``lost`` is the environment's will."""

    type: Literal["run_state"] = "run_state"
    state: Literal["reset", "running", "finished", "lost"]
    scenario: str = ""
    seed: int | None = Field(None, description="Seed of the episode.")
    clock: AwareDatetime | None = Field(None, strict=False, description="Simulated time, UTC.")


class Owner(Message):
    """Who holds a name: an environment, an agent or a device of which there must be one only (retained).

    ``asks`` (not retained) is the question of one that starts; the holder answers with ``holds``.
    """

    type: Literal["owner"] = "owner"
    state: Literal["asks", "holds", "free"]
    take_over: bool = Field(False, description="The one that asks will displace the holder.")
    who: str | None = Field(None, max_length=200, description="user@host and process, for people.")
    since: AwareDatetime | None = Field(None, strict=False, description="Held since, UTC.")
    term: int | None = Field(
        None,
        ge=0,
        le=MAX_INTEGER,
        description="Number of holders of the name so far; the later of two has the higher one.",
    )
