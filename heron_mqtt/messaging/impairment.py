"""How a network misbehaves: the table ``[impairment]`` of a scenario or of a file in config/networks/.

docs/impaired-networks.md describes every key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, ValidationInfo, field_validator, model_validator
from pydantic.json_schema import SkipJsonSchema

from heron_mqtt.config import Table, read_toml, shipped_config, validate, validate_inside
from heron_mqtt.errors import ConfigError
from heron_mqtt.input_files import is_file
from heron_mqtt.messaging import topics
from heron_mqtt.messaging.impairment_kinds import IMPAIRMENTS, JITTERS
from heron_mqtt.registry import NameIn

Direction = Literal["out", "in"]
"""Published by this process, or received by it."""


class _Where(Table):
    """Which messages are meant: their channels, and which way they go."""

    pattern: str | list[str] = Field("#", description="Channels; filters with + and # are allowed.")
    direction: Literal["out", "in", "both"] = Field(
        "both", description="out = what this process publishes, in = what it receives."
    )

    @field_validator("pattern")
    @classmethod
    def _holds_filters(cls, pattern: str | list[str]) -> str | list[str]:
        if not pattern:
            raise ValueError("at least one channel or filter, for example 'devices/#'")
        for one in [pattern] if isinstance(pattern, str) else pattern:
            topics.check_filter(one)
        return pattern

    def matches(self, direction: Direction, channel: str) -> bool:
        """Whether a message that goes this way on this channel is meant."""
        if self.direction not in {"both", direction}:
            return False
        patterns = [self.pattern] if isinstance(self.pattern, str) else self.pattern
        return any(topics.matches(pattern, channel) for pattern in patterns)


class BurstTable(Table):
    """Burst losses: the Gilbert-Elliott model, one transition for each message.

    The bad state lasts 1 / leave messages on average, and applies to enter / (enter + leave) of all messages.
    """

    enter: float = Field(gt=0.0, le=1.0, description="Probability of good -> bad, per message.")
    leave: float = Field(gt=0.0, le=1.0, description="Probability of bad -> good, per message.")
    loss: float = Field(1.0, gt=0.0, le=1.0, description="Probability of loss in the bad state.")


class RuleTable(_Where):
    """Impairments of the messages that match; the first rule that matches a message applies."""

    exempt: bool = Field(False, description="No impairment of these messages, not even a partition.")
    delay_s: float = Field(0.0, ge=0.0, le=3600.0, description="Constant delay of every message, s.")
    jitter: Annotated[str, NameIn(JITTERS)] = Field(
        "none", description="Distribution of the random delay that is added to delay_s; never negative."
    )
    jitter_s: float = Field(
        0.0, ge=0.0, le=3600.0, description="Scale of the jitter, s: see docs/impaired-networks.md."
    )
    jitter_shape: float | None = Field(
        None, ge=0.1, le=10.0, description="lognormal: sigma (1.0); pareto: alpha (3.0)."
    )
    max_delay_s: float = Field(
        60.0, gt=0.0, le=3600.0, description="Largest delay; a longer one is reduced to it, s."
    )
    loss: float = Field(0.0, ge=0.0, le=1.0, description="Probability of loss outside bursts.")
    burst: BurstTable | None = None
    duplicate: float = Field(0.0, ge=0.0, le=1.0, description="Probability of a duplicate right after it.")
    reorder: float = Field(0.0, ge=0.0, le=1.0, description="Probability of being held back by reorder_s.")
    reorder_s: float = Field(0.0, ge=0.0, le=3600.0, description="Time in which others may overtake it, s.")
    more: SkipJsonSchema[dict[str, Any]] = Field({}, description="Tables of further kinds, by their names.")

    @classmethod
    def models_inside(cls) -> Iterable[type[BaseModel]]:
        """Return the tables of the kinds of impairment that have one."""
        return [kind.table for kind in IMPAIRMENTS.values() if kind.table is not None]

    @model_validator(mode="before")
    @classmethod
    def _tables_of_further_kinds(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        rest = dict(data)
        recorded = rest.pop("more", None)  # a record has them together
        given = dict(recorded) if isinstance(recorded, Mapping) else {}
        for name in data.keys() - cls.model_fields.keys():
            kind = IMPAIRMENTS.get(str(name))
            if kind is not None and kind.table is not None:
                given[name] = rest.pop(name)
        more = {}
        for name, table in given.items():
            kind = IMPAIRMENTS.get(str(name))
            if kind is None or kind.table is None:
                raise ValueError(f"more.{name}: no such kind of impairment here; is its package installed?")
            more[name] = table if isinstance(table, kind.table) else validate_inside(kind.table, name, table)
        return {**rest, "more": more} if more else rest

    @model_validator(mode="after")
    def _fits_together(self, info: ValidationInfo) -> Self:
        ours = (self.given_keys(info) - {"pattern", "direction", "exempt", "more"}) | self.more.keys()
        if self.exempt and ours:
            raise ValueError(f"exempt = true leaves nothing to do for {', '.join(sorted(ours))}; drop one")
        if (self.jitter == "none") != (self.jitter_s == 0.0):
            raise ValueError("jitter (a distribution other than 'none') and jitter_s (above 0) go together")
        if self.jitter_shape is not None and JITTERS[self.jitter].shape is None:
            shaped = " or ".join(repr(each.name) for each in JITTERS.values() if each.shape is not None)
            raise ValueError(f"jitter_shape belongs to jitter = {shaped}")
        if (self.reorder == 0.0) != (self.reorder_s == 0.0):
            raise ValueError("reorder (a probability) and reorder_s (a time) go together, both above 0")
        if self.delay_s > self.max_delay_s:
            raise ValueError(f"delay_s must not exceed max_delay_s, got {self.delay_s} > {self.max_delay_s}")
        return self


class PartitionTable(_Where):
    """A time in which no message passes: in seconds since the start, or in steps; the end is exclusive."""

    begin_s: float | None = Field(None, ge=0.0, description="Seconds since the broker was first used.")
    end_s: float | None = Field(None, ge=0.0)
    begin_step: int | None = Field(None, ge=0, description="Steps of the episode, as messages carry them.")
    end_step: int | None = Field(None, ge=0)
    hold: bool = Field(False, description="Messages are held until end_s instead of being lost.")

    @model_validator(mode="after")
    def _is_one_window(self) -> Self:
        seconds, steps = (self.begin_s, self.end_s), (self.begin_step, self.end_step)
        given = [window for window in (seconds, steps) if window != (None, None)]
        if len(given) != 1 or None in given[0]:
            raise ValueError("either begin_s and end_s, or begin_step and end_step, must be given")
        begin, end = given[0]
        if begin is not None and end is not None and begin >= end:
            raise ValueError(f"a partition must begin before it ends, got {begin} .. {end}")
        if self.hold and self.end_s is None:
            raise ValueError("hold needs begin_s and end_s: when a step will end is not known")
        return self

    def is_open(self, now_s: float, step: int | None) -> bool:
        """Whether the partition is in force.

        Args:
            now_s: Seconds since the start.
            step: The step that the message belongs to; None = unknown, and in no window of steps.
        """
        if self.begin_s is not None and self.end_s is not None:
            return self.begin_s <= now_s < self.end_s
        if step is None or self.begin_step is None or self.end_step is None:
            return False
        return self.begin_step <= step < self.end_step


class ImpairmentTable(Table):
    """Impairments of a network; there are none without rules and partitions."""

    name: str = Field("", max_length=64, description="A name that the summary shows.")
    seed: int | None = Field(None, ge=0, description="None = the run's seed.")
    max_in_flight: int = Field(
        10_000, ge=1, le=1_000_000, description="Most messages in transit; beyond that the oldest is dropped."
    )
    rules: list[RuleTable] = Field([], max_length=1_000)
    partitions: list[PartitionTable] = Field([], max_length=1_000)


class NetworkFile(Table):
    """A file of config/networks/: the table and nothing else."""

    impairment: ImpairmentTable


def impairment_file(name: str, find: Callable[[str], Path]) -> Path | None:
    """Return the file that ``impairment`` of a scenario names: beside it, else a shipped one; None = no file.

    Args:
        name: As the scenario has it.
        find: Finds a file that the scenario names.
    """
    if is_file(beside := find(name)):
        return beside
    try:
        return _find(name)
    except ConfigError:
        return None


def load_impairment(name: str | Path) -> ImpairmentTable:
    """Read a network file, or a shipped one by its name (``lte_poor``).

    Raises:
        ConfigError: One line for each problem: file, key, value and what was expected.
    """
    path = _find(name)
    table = validate(NetworkFile, read_toml(path), str(path)).impairment
    return table if table.name else table.model_copy(update={"name": path.stem})


def shipped_networks() -> list[str]:
    """Return the names of the networks that come with the package."""
    return sorted(path.stem for path in (shipped_config() / "networks").glob("*.toml"))


def _find(name: str | Path) -> Path:
    path = Path(name)
    if is_file(path):
        return path
    wanted = path.parts[1:] if path.parts[:1] == ("config",) else path.parts  # as in a checkout
    wanted = wanted[1:] if wanted[:1] == ("networks",) else wanted
    if len(wanted) == 1 and (stem := wanted[0].removesuffix(".toml")) in shipped_networks():
        return shipped_config() / "networks" / f"{stem}.toml"
    raise ConfigError(f"{name}: no such network file; shipped networks are: {', '.join(shipped_networks())}")
