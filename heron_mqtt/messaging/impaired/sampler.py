"""What happens to the n-th message of a channel: drawn from (seed, channel, direction, n) and nothing else.

Every message gets uniform numbers of its own from a keyed hash, so that no other message, channel or
direction has any influence on them. Only the state of the burst model passes from one message of a
stream to the next; it too follows from seed, channel, direction and n.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from hashlib import blake2b
from statistics import NormalDist

from heron_mqtt.messaging.impairment import RuleTable

LOGNORMAL_SIGMA, PARETO_ALPHA = 1.0, 3.0  # where the rule names no shape

_STANDARD_NORMAL = NormalDist()
_DRAWS = struct.Struct("<6Q")


@dataclass(frozen=True, slots=True)
class Impairment:
    """What the network does to one message.

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


UNTOUCHED = Impairment()


class ImpairmentSampler:
    """Draws the impairments of one stream of messages, in order.

    Args:
        rule: The rule of its channel; None = nothing happens.
        seed: Of the network.
        stream: Direction and channel.
    """

    def __init__(self, rule: RuleTable | None, seed: int, stream: str) -> None:
        self.sampled = 0
        """Impairments drawn so far; the next message is number ``sampled``."""
        self._rule = None if rule is None or rule.exempt else rule
        self._key = f"{seed}/{stream}/".encode()
        self._bad = False

    def sample(self) -> Impairment:
        """Return the impairment of the next message."""
        n, self.sampled = self.sampled, self.sampled + 1
        rule = self._rule
        if rule is None:
            return UNTOUCHED
        step, burst, loss, copy, hold, jitter = _uniform(self._key, n)
        in_burst = False
        if rule.burst is not None:
            self._bad = step >= rule.burst.leave if self._bad else step < rule.burst.enter
            in_burst = self._bad and burst < rule.burst.loss
        return Impairment(
            lost=in_burst or loss < rule.loss,
            in_burst=in_burst,
            delay_s=min(rule.delay_s + jitter_s(rule, jitter), rule.max_delay_s),
            duplicated=copy < rule.duplicate,
            held_back=hold < rule.reorder,
        )


def jitter_s(rule: RuleTable, u: float) -> float:
    """Return what comes on top of ``delay_s``, s, >= 0: the rule's quantile function at ``u``.

    With the scale c = ``jitter_s``: uniform on [0, c]; normal |N(0, c)|, a normal distribution cut off
    at zero; lognormal c exp(sigma N(0, 1)), median c; pareto c ((1 - u)^(-1/alpha) - 1), the Lomax
    distribution, mean c / (alpha - 1) for alpha > 1.

    Args:
        rule: Names distribution, scale and shape.
        u: In (0, 1).
    """
    scale, shape = rule.jitter_s, rule.jitter_shape
    match rule.jitter:
        case "uniform":
            return scale * u
        case "normal":
            return scale * abs(_STANDARD_NORMAL.inv_cdf(u))
        case "lognormal":
            sigma = LOGNORMAL_SIGMA if shape is None else shape
            return scale * math.exp(sigma * _STANDARD_NORMAL.inv_cdf(u))
        case "pareto":
            alpha = PARETO_ALPHA if shape is None else shape
            return scale * math.expm1(-math.log1p(-u) / alpha)
        case "none":
            return 0.0


def _uniform(key: bytes, n: int) -> list[float]:
    """Return the uniform numbers of message ``n``, each in (0, 1) and never 0 or 1 themselves."""
    digest = blake2b(key + n.to_bytes(8, "little"), digest_size=_DRAWS.size).digest()
    return [((bits >> 12) + 0.5) * 2.0**-52 for bits in _DRAWS.unpack(digest)]
