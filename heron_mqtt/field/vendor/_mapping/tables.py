"""The tables of a mapping, as scenarios and device profiles write them. See docs/device-mappings.md."""

from __future__ import annotations

import itertools
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from heron_mqtt.config import Table
from heron_mqtt.field.vendor._mapping.units import UnitKeys

Scalar = str | bool | int | float
Payload = str | dict[str, Any] | list[Any]
Topic = Annotated[str, Field(min_length=1, max_length=1000)]
Key = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=64)]
Qos = Literal[0, 1, 2]
MAX_ITEMS = 50  # of anything in one mapping: a box has a handful

SetQuantity = Literal["p_mw", "q_mvar", "lease_s", "seq"]
ReadQuantity = Literal["p_mw", "q_mvar", "soc", "vm_pu", "running", "ack_seq"]


class WordTable(Table):
    """One word, and the lowest number from which on it is sent."""

    word: Scalar
    from_: float | None = Field(None, alias="from", description="None = from minus infinity; the first only.")


class ValueTable(UnitKeys):
    """A number of the setpoint in the vendor's terms: sign * quantity in unit * scale + offset, rounded."""

    quantity: SetQuantity
    sign: Literal[1, -1] = Field(1, description="-1 where the box counts consumption as positive.")
    absolute: bool = Field(False, description="Take the magnitude, before scale and offset.")
    scale: float = Field(1.0, description="Multiplies; not 0.")
    offset: float = 0.0
    min: float | None = Field(None, description="Lower values are sent as this.")
    max: float | None = Field(None, description="Higher values are sent as this.")
    decimals: Annotated[int, Field(ge=0, le=9)] | None = Field(None, description="None = not rounded.")
    rounding: Literal["nearest", "toward_zero"] = "nearest"
    words: Annotated[list[WordTable], Field(min_length=2, max_length=MAX_ITEMS)] | None = Field(
        None, description="Send a word instead of the number, by thresholds that rise."
    )

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if self.scale == 0.0:
            raise ValueError("scale must not be 0")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min must not be above max, got {self.min:g} and {self.max:g}")
        if self.rounding != "nearest" and self.decimals is None:
            raise ValueError("rounding needs decimals")
        if self.words is not None:
            starts = [w.from_ for w in self.words]
            if starts[0] is not None or None in starts[1:]:
                raise ValueError("words: every word but the first needs 'from', and the first has none")
            rising = [s for s in starts if s is not None]
            if any(b <= a for a, b in itertools.pairwise(rising)):
                raise ValueError("words: 'from' must rise from word to word")
        return self


class MessageTable(Table):
    """One message that carries a setpoint, or a part of it."""

    topic: Topic
    payload: Payload = Field(description="A text, or a table or array to be sent as JSON; {value} inside.")
    qos: Qos = 1
    retain: bool = Field(False, description="A retained setpoint outlives its lease: avoid.")
    when: dict[str, Annotated[list[Scalar], Field(min_length=1)]] = Field(
        {}, description="Send it only while these values are at one of these words."
    )


class SetpointTable(Table):
    """How a setpoint is sent: the values, and the messages they stand in, in order."""

    values: dict[Key, ValueTable] = Field(min_length=1, max_length=MAX_ITEMS)
    messages: list[MessageTable] = Field(min_length=1, max_length=MAX_ITEMS)


class FieldTable(UnitKeys):
    """One quantity in a payload: sign * (number * scale + offset), in unit."""

    path: Annotated[str, Field(min_length=1, max_length=500)] | None = Field(
        None, description="JMESPath expression; for format json."
    )
    column: Annotated[int, Field(ge=0, le=1000)] | None = Field(
        None, description="Column, from 0; for format csv."
    )
    sign: Literal[1, -1] = Field(1, description="-1 where the box counts consumption as positive.")
    scale: float = Field(1.0, description="Multiplies what was read; not 0.")
    offset: float = 0.0
    words: dict[str, bool] | None = Field(None, description="For running: what each word means.")
    null: Literal["clear", "keep"] = Field(
        "clear", description="What a missing value means: no longer known, or as it was."
    )

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if self.scale == 0.0:
            raise ValueError("scale must not be 0")
        return self


class TelemetryTable(Table):
    """One topic of the box, and what is read from its payloads."""

    topic: Topic
    format: Literal["json", "text", "csv"] = "json"
    separator: Annotated[str, Field(min_length=1, max_length=8)] = Field(",", description="For format csv.")
    fields: dict[ReadQuantity, FieldTable] = Field(min_length=1)


class AvailabilityTable(Table):
    """A topic that says whether the box is there."""

    topic: Topic
    path: Annotated[str, Field(min_length=1, max_length=500)] | None = Field(
        None, description="JMESPath to the word, where the payload is a JSON object."
    )
    online: list[str] = Field(min_length=1, max_length=MAX_ITEMS)
    offline: list[str] = Field(min_length=1, max_length=MAX_ITEMS)
    fault: list[str] = Field([], max_length=MAX_ITEMS)


class KeepaliveTable(Table):
    """A message to repeat for as long as the box is watched."""

    topic: Topic
    payload: Payload = ""
    first_payload: Payload | None = Field(
        None, description="Of the first one after connecting; None = the same."
    )
    period_s: float = Field(ge=0.1, le=86_400.0)
    qos: Qos = 0


class MappingTable(Table):
    """A whole mapping."""

    name: Annotated[str, Field(min_length=1, max_length=200)] = "device"
    parameters: dict[Key, Scalar] = Field({}, description="What the placeholders stand for.")
    setpoint: SetpointTable | None = Field(None, description="None = the box can only be read.")
    telemetry: list[TelemetryTable] = Field(min_length=1, max_length=MAX_ITEMS)
    availability: list[AvailabilityTable] = Field([], max_length=MAX_ITEMS)
    keepalive: list[KeepaliveTable] = Field([], max_length=MAX_ITEMS)
