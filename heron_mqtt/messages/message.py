"""What every message has, and the messages with one field a device or peer."""

from __future__ import annotations

import functools
from math import isfinite
from typing import Any, ClassVar, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from heron_mqtt.messages.values import MAX_INTEGER, Identifier, is_finite_number, shortened


class Message(BaseModel):
    """Metadata that every message of ours carries; foreign devices may leave all of it out."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False, strict=True)
    for_records: ClassVar[frozenset[str]] = frozenset({"sent_at"})
    """Fields by which a receiver decides nothing: one that cannot be read counts as left out."""

    sender: Identifier | None = Field(
        None, description="Who published this: an agent, device or operator id."
    )
    env_id: Identifier | None = Field(None, description="The environment it belongs to.")
    episode: int | None = Field(
        None, ge=0, description="Counts resets; a new number means that a new episode begins."
    )
    step: int | None = Field(None, ge=0, description="Step of the episode, from 0.")
    seq: int | None = Field(None, ge=0, le=MAX_INTEGER, description="Rises by one per sender and channel.")
    boot: Identifier | None = Field(None, description="New at each start of the sender.")
    sent_at: AwareDatetime | None = Field(None, strict=False, description="UTC, RFC 3339.")
    held_s: float | None = Field(
        None,
        ge=0,
        description="How long its sender stored it while the broker was away, s; left out: not stored.",
    )


class PerDeviceMessage(Message):
    """A message with one field a device or peer: ``<prefix><name>``.

    The names are only known at run time, so such fields are kept as extras and checked by prefix.
    """

    model_config = ConfigDict(extra="allow")
    number_prefixes: ClassVar[tuple[str, ...]] = ("p_", "q_")
    text_prefixes: ClassVar[tuple[str, ...]] = ()

    @model_validator(mode="after")
    def _extras_have_their_type(self) -> Self:
        extras, texts = self.__pydantic_extra__ or {}, self.text_prefixes
        if len(extras) >= MANY and _are_numbers(extras) and not (texts and _has_any(texts, tuple(extras))):
            return self  # nearly all: finite numbers, and none of them where a text belongs
        for name, value in extras.items():
            if texts and name.startswith(texts):
                if not isinstance(value, str):
                    raise ValueError(f"{name} must be a text, got {value!r}")
            elif type(value) is float and value - value == 0.0:  # nearly all: right, whatever the name
                continue
            elif name.startswith(self.number_prefixes) and not is_finite_number(value):
                raise ValueError(f"{name} must be a finite number, got {shortened(value)}")
        return self

    def values(self, prefix: str) -> dict[str, float]:
        """Return the numbers whose field name begins with ``prefix``, keyed by the rest of the name."""
        n = len(prefix)
        return {k[n:]: float(v) for k, v in (self.__pydantic_extra__ or {}).items() if k.startswith(prefix)}

    def by_prefix(self) -> dict[str, dict[str, Any]]:
        """Return all such fields in one pass, for prefixes of one word: by ``<word>_``, then by name."""
        found: dict[str, dict[str, Any]] = {}
        for key, value in (self.__pydantic_extra__ or {}).items():
            prefix, name = _split_at_word(key)
            is_number = type(value) is int and abs(value) <= MAX_INTEGER  # one that is not ours may be huge
            said = float(value) if is_number else value
            if prefix in found:
                found[prefix][name] = said
            else:
                found[prefix] = {name: said}
        return found


@functools.lru_cache(maxsize=10_000)  # the same few fields, in every step
def _split_at_word(key: str) -> tuple[str, str]:
    """Return the first word of a field's name with its ``_``, and the rest."""
    word, _, name = key.partition("_")
    return f"{word}_", name


MANY = 4  # fields by device: of so many it takes less time to look at all types at once
MAX_NAMES = 256  # messages whose names of fields are remembered; they come from the network
_ALL_FLOAT = frozenset({float})


def _are_numbers(extras: dict[str, Any]) -> bool:
    """Whether all values are floats, and finite (or so large that their sum is not)."""
    values = extras.values()
    return _ALL_FLOAT.issuperset(map(type, values)) and isfinite(sum(values))


@functools.lru_cache(maxsize=MAX_NAMES)
def _has_any(prefixes: tuple[str, ...], keys: tuple[str, ...]) -> bool:
    """Whether any of some names begins with one of the prefixes."""
    return any(key.startswith(prefixes) for key in keys)
