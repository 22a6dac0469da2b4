"""The kinds of impairment: what a network can do to a message, each with random numbers of its own.

A new kind is one class with the table of its settings and one registration, ``IMPAIRMENTS.add(Spikes)``.
It is then a table of a rule, ``[impairment.rules.spikes]``. Its numbers come from a stream of its own, so
that it changes nothing of what the other kinds do to which message.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, ClassVar, NamedTuple

from heron_mqtt.config import Table
from heron_mqtt.registry import Registry

__all__ = ["IMPAIRMENTS", "JITTERS", "Impairment", "ImpairmentKind", "JitterDistribution", "jitter_s"]

_STANDARD_NORMAL = NormalDist()


@dataclass(slots=True, unsafe_hash=True)
class Impairment:
    """What the network does to one message; kinds change it one after the other, then it stays.

    Attributes:
        lost: It does not arrive.
        in_burst: It is lost in a burst.
        delay_s: From entering the network to leaving it, unless an earlier message is in the way, s.
        duplicated: A copy follows it.
        held_back: It takes ``reorder_s`` more, and later messages do not wait for it.
    """

    lost: bool = False
    in_burst: bool = False
    delay_s: float = 0.0
    duplicated: bool = False
    held_back: bool = False


class ImpairmentKind(ABC):
    """One thing that a network does to the messages of one stream (a channel and direction), in order.

    Args:
        settings: Its ``table``; for the shipped kinds, whose keys stand in the rule itself, the rule.

    Attributes:
        name: Of the kind, and of its table in a rule.
        table: Model of ``[impairment.rules.<name>]``; None = its keys are fields of ``RuleTable``.
        draws: How many random numbers it takes a message.
        shared_draws: Where these stand in the numbers that shipped kinds share; None = a stream of its own.
        key: Field of ``RuleTable`` that asks for it; its settings are the rule then. None = its table does.
    """

    name: ClassVar[str]
    table: ClassVar[type[Table] | None] = None
    draws: ClassVar[int] = 1
    shared_draws: ClassVar[slice | None] = None
    key: ClassVar[str | None] = None

    def __init__(self, settings: Any) -> None:
        self.settings = settings

    @classmethod
    def settings_of(cls, rule: Any) -> Any:
        """Return its settings in a ``RuleTable``; None = the rule does not ask for it."""
        if cls.key is None:
            return rule.more.get(cls.name)
        return rule if getattr(rule, cls.key) else None

    @abstractmethod
    def affect(self, message: Impairment, draws: Sequence[float]) -> None:
        """Do to the next message what is to be done.

        Args:
            message: To be changed.
            draws: ``draws`` numbers, uniform in (0, 1), this kind's and this message's own.
        """


IMPAIRMENTS: Registry[type[ImpairmentKind]] = Registry(
    "impairment", "heron_mqtt.impairments", lambda kind: kind.name
)
"""Every kind of impairment, in the order in which they act."""


@IMPAIRMENTS.add
class Burst(ImpairmentKind):
    """Losses in bursts: the Gilbert-Elliott model, one transition a message."""

    name = "burst"
    draws = 2
    shared_draws = slice(0, 2)

    def __init__(self, settings: Any) -> None:
        super().__init__(settings)
        self._bad = False

    @classmethod
    def settings_of(cls, rule: Any) -> Any:
        """Return the rule's table ``burst``."""
        return rule.burst

    def affect(self, message: Impairment, draws: Sequence[float]) -> None:
        """Change the state, and lose the message or not."""
        (step, loss), burst = draws, self.settings
        self._bad = step >= burst.leave if self._bad else step < burst.enter
        if self._bad and loss < burst.loss:
            message.lost = message.in_burst = True


@IMPAIRMENTS.add
class Loss(ImpairmentKind):
    """Losses one by one."""

    name = "loss"
    shared_draws = slice(2, 3)
    key = "loss"

    def affect(self, message: Impairment, draws: Sequence[float]) -> None:
        """Lose the message or not."""
        message.lost |= draws[0] < self.settings.loss


@IMPAIRMENTS.add
class Duplicate(ImpairmentKind):
    """Copies right behind a message."""

    name = "duplicate"
    shared_draws = slice(3, 4)
    key = "duplicate"

    def affect(self, message: Impairment, draws: Sequence[float]) -> None:
        """Let a copy follow or not."""
        message.duplicated = draws[0] < self.settings.duplicate


@IMPAIRMENTS.add
class Reorder(ImpairmentKind):
    """Messages held back, so that others overtake them."""

    name = "reorder"
    shared_draws = slice(4, 5)
    key = "reorder"

    def affect(self, message: Impairment, draws: Sequence[float]) -> None:
        """Hold the message back or not."""
        message.held_back = draws[0] < self.settings.reorder


@IMPAIRMENTS.add
class Jitter(ImpairmentKind):
    """A random delay on top of the rule's ``delay_s``."""

    name = "jitter"
    shared_draws = slice(5, 6)
    key = "jitter_s"

    def affect(self, message: Impairment, draws: Sequence[float]) -> None:
        """Delay the message."""
        message.delay_s += jitter_s(self.settings, draws[0])


# -- distributions of the jitter -------------------------------------------------------------------------


class JitterDistribution(NamedTuple):
    """A distribution of the delay on top of ``delay_s``; never negative.

    Attributes:
        name: In rules: ``jitter = "uniform"``.
        quantile: From u in (0, 1), scale and shape to a delay, in the unit of the scale.
        shape: What ``jitter_shape`` is where the rule does not say; None = it has no shape.
    """

    name: str
    quantile: Callable[[float, float, float], float]
    shape: float | None = None


JITTERS: Registry[JitterDistribution] = Registry(
    "distribution of the jitter", "heron_mqtt.jitters", lambda distribution: distribution.name
)
"""Every distribution of the jitter."""

for _shipped in (
    JitterDistribution("none", lambda u, scale, shape: 0.0),
    JitterDistribution("uniform", lambda u, scale, shape: scale * u),
    JitterDistribution("normal", lambda u, scale, shape: scale * abs(_STANDARD_NORMAL.inv_cdf(u))),
    JitterDistribution(
        "lognormal", lambda u, scale, shape: scale * math.exp(shape * _STANDARD_NORMAL.inv_cdf(u)), 1.0
    ),
    JitterDistribution("pareto", lambda u, scale, shape: scale * math.expm1(-math.log1p(-u) / shape), 3.0),
):
    JITTERS.add(_shipped)


def jitter_s(rule: Any, u: float) -> float:
    """Return what comes on top of ``delay_s``, s, >= 0: the rule's quantile function at ``u``.

    With the scale c = ``jitter_s``: uniform on [0, c]; normal |N(0, c)|, a normal distribution cut off
    at zero; lognormal c exp(sigma N(0, 1)), median c; pareto c ((1 - u)^(-1/alpha) - 1), the Lomax
    distribution, mean c / (alpha - 1) for alpha > 1.

    Args:
        rule: A ``RuleTable``: names distribution, scale and shape.
        u: In (0, 1).
    """
    distribution = JITTERS[rule.jitter]
    shape = distribution.shape if rule.jitter_shape is None else rule.jitter_shape
    return distribution.quantile(u, rule.jitter_s, 0.0 if shape is None else shape)
