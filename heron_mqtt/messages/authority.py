"""Who may set a device, and within which bounds: levels of authority, and manual control."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from heron_mqtt.messages.message import Message
from heron_mqtt.messages.values import MAX_LEASE_S, Identifier, Level

ROUNDING_MW = 1e-9  # 1 mW: what a person asks for in kW was divided by 1000


class AuthorityRequest(Message):
    """Asks for another level of authority over a device."""

    type: Literal["authority_request"] = "authority_request"
    level: Level
    who: Identifier = Field(description="Who asks, for the record.")
    why: str = Field("", max_length=500, description="Why, for the record.")


class AuthorityState(Message):
    """The level in force (retained), and the answer to the last request."""

    type: Literal["authority_state"] = "authority_state"
    level: Level
    requested: Level | None = None
    granted: bool = True
    reason: str = Field("", max_length=500, description="Which gate refused, or who asked and why.")
    request_seq: int | None = Field(None, ge=0, description="seq of the request this answers.")
    request_boot: Identifier | None = Field(None, description="boot of the sender of that request.")
    ceiling: Level | None = Field(
        None, description="The level to which it rises by itself once the gates pass."
    )
    demoted: bool | None = Field(None, description="A request lowered the ceiling.")
    hand_back_s: float | None = Field(
        None,
        ge=0,
        description="After a demotion of a device that was driven: how long it may take to show its "
        "release, by its measurements so far, s.",
    )
    manual_by: Identifier | None = Field(None, description="Who controls the device manually.")
    manual_p_mw: float | None = Field(
        None, description="The power that this person has requested, and that the device can hold, MW."
    )
    manual_s: float | None = Field(None, ge=0, description="For how long from now, s.")


class Take(Message):
    """Manual control of one device by a person for a limited time, within all bounds of its level."""

    type: Literal["take"] = "take"
    p_mw: float = Field(0.0, description="MW, positive = injected.")
    q_mvar: float = Field(0.0, description="Mvar, positive = injected.")
    for_s: float = Field(ge=0, le=MAX_LEASE_S, description="How long, wall-clock s; 0 = give it back now.")
    who: Identifier = Field(description="Who takes it, for the record.")
    why: str = Field("", max_length=500, description="Why, for the record.")
    request_seq: int | None = Field(
        None,
        ge=0,
        description="seq of the take that this one, with for_s = 0, withdraws; no other hold ends.",
    )
    request_boot: Identifier | None = Field(None, description="boot of the sender of that take.")

    @model_validator(mode="after")
    def _check_withdrawal(self) -> Take:
        if (self.request_seq is None) != (self.request_boot is None):
            raise ValueError("request_seq and request_boot go together")
        if self.request_seq is not None and self.for_s > 0.0:
            raise ValueError("for_s: a take that withdraws another one takes nothing; expected 0")
        return self
