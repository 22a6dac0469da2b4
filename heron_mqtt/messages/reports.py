"""What a program reports of its own record and its own outbox."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from heron_mqtt.messages.message import Message
from heron_mqtt.messages.values import MAX_INTEGER, Identifier


class RecordHead(Message):
    """The hash of the record of a run that has ended (retained): a later change of the file shows."""

    type: Literal["record"] = "record"
    head: str = Field(pattern="^[0-9a-f]{64}$", description="SHA-256 over the heads of all hash chains, hex.")
    rows: int = Field(ge=0, description="Rows in the record.")
    lost: int = Field(0, ge=0, description="Rows that could not be recorded.")


class OutboxKindReport(BaseModel):
    """What an outbox holds of one kind of channel."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    messages: int = Field(ge=0, le=MAX_INTEGER)
    size_bytes: int = Field(ge=0, le=MAX_INTEGER)
    dropped: int = Field(ge=0, le=MAX_INTEGER)


class OutboxReport(Message):
    """What waits in an outbox. Information only: no part of the contract, no program acts on it."""

    type: Literal["outbox"] = "outbox"
    client: Identifier = Field(description="Client id of the sender at the broker.")
    messages: int = Field(
        ge=0, le=MAX_INTEGER, description="Waiting messages, also those that are being sent."
    )
    size_bytes: int = Field(ge=0, le=MAX_INTEGER, description="Their size.")
    max_bytes: int = Field(ge=1, le=MAX_INTEGER, description="Largest size; beyond it the oldest is dropped.")
    age_s: float | None = Field(None, ge=0, description="For how long the oldest has waited, s.")
    dropped: int = Field(ge=0, le=MAX_INTEGER, description="Dropped since the start of the program.")
    disk_errors: int = Field(ge=0, le=MAX_INTEGER, description="Failures of its disk since then.")
    kinds: Annotated[dict[Identifier, OutboxKindReport], Field(max_length=20)] = Field(
        default_factory=dict, description="The same by kind of channel."
    )
