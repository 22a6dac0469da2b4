"""The keys that say how what was read becomes a number, a text or true/false; of payloads and registers."""

from __future__ import annotations

import itertools
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from heron_mqtt.config import Table

Scalar = str | bool | int | float
Path = Annotated[str, Field(min_length=1, max_length=500)]
MAX_ITEMS = 50  # of anything in one mapping: a device has a handful


class RateTable(Table):
    """A counter: what counts is how fast it rises."""

    per: Literal["s", "min", "h"] = Field(description="Of a counter of kWh per h: kW.")
    over_s: float = Field(
        gt=0.0, le=3_600.0, description="Over how long, s: at least two readings; a few steps of the counter."
    )


class CleaningKeys(Table):
    """How a raw value is cleaned: sign * (number * scale + offset), within what it can be."""

    pattern: Path | None = Field(None, description="Regular expression; its group is what counts.")
    time: Path | None = Field(
        None, description="unix_s, unix_ms, iso8601 or a format of strptime; makes it a time."
    )
    timezone: str = Field("UTC", description="Of a time that names none: UTC, local or Europe/Berlin.")
    absent: list[Scalar] = Field([], max_length=MAX_ITEMS, description="Values that mean: not available.")
    words: dict[str, Scalar] | None = Field(None, description="What each word means.")
    other: Scalar | None = Field(None, description="Meaning of a word that is not listed; None = refused.")
    sign: Literal[1, -1] = Field(1, description="-1 where the device counts consumption as positive.")
    scale: float = Field(1.0, description="Multiplies what was read; not 0.")
    offset: float = 0.0
    table: Annotated[list[tuple[float, float]], Field(min_length=2, max_length=100)] | None = Field(
        None, description="Points [read, meant]; between them a straight line, beyond them the last one."
    )
    clamp: tuple[float, float] | None = Field(
        None, description="Lowest and highest value; a little beyond is taken as the limit."
    )
    clamp_tolerance: float | None = Field(
        None, ge=0.0, description="How much beyond the limits; None = 5 % of the range."
    )
    rate: RateTable | None = Field(
        None, description="It is a counter that only rises: take how fast, not where it stands."
    )
    null: Literal["clear", "keep"] | float = Field(
        "clear", description="What a missing value means: no longer known, as it was, or a number."
    )

    @field_validator("table", "clamp", mode="before")
    @classmethod
    def _arrays_are_tuples(cls, value: Any) -> Any:
        if isinstance(value, list):
            return [tuple(v) if isinstance(v, list) else v for v in value] if _nested(value) else tuple(value)
        return value

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if self.scale == 0.0:
            raise ValueError("scale must not be 0")
        if self.clamp is not None and self.clamp[0] >= self.clamp[1]:
            raise ValueError(f"clamp: the first must be below the second, got {list(self.clamp)}")
        if self.clamp_tolerance is not None and self.clamp is None:
            raise ValueError("clamp_tolerance needs clamp")
        if self.rate is not None and self.clamp is not None:
            raise ValueError("clamp: not with rate; give the quantity of it a clamp")
        if self.rate is not None and isinstance(self.null, float):
            raise ValueError("null: a counter has no number in place of what is missing; clear or keep")
        if self.other is not None and self.words is None:
            raise ValueError("other needs words")
        if self.table is not None and any(b[0] <= a[0] for a, b in itertools.pairwise(self.table)):
            raise ValueError("table: what is read must rise from point to point")
        return self


def _nested(value: list[Any]) -> bool:
    return any(isinstance(v, list) for v in value)
