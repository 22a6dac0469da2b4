"""What happens to the n-th message of a channel: drawn from (seed, channel, direction, n) and nothing else.

Every message gets its own uniform numbers from a keyed hash, so no other message, channel or direction has
any influence on them. Each kind of impairment has its own numbers among them. Only the state of the burst
model passes from one message of a stream to the next; it too follows from seed, channel, direction and n.
"""

from __future__ import annotations

import struct
from functools import cache
from hashlib import blake2b

from heron_mqtt.messaging.impairment import RuleTable
from heron_mqtt.messaging.impairment_kinds import IMPAIRMENTS, Impairment, ImpairmentKind, jitter_s

__all__ = ["UNTOUCHED", "Impairment", "ImpairmentSampler", "jitter_s"]

UNTOUCHED = Impairment()

SHIPPED_DRAWS = 6
"""Numbers of one hash that the shipped kinds share, each at its own place (``shared_draws``)."""


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
        self._shared: list[tuple[ImpairmentKind, slice]] = []
        self._apart: list[tuple[ImpairmentKind, bytes]] = []
        for kind in IMPAIRMENTS.values() if self._rule is not None else ():
            settings = kind.settings_of(self._rule)
            if settings is None:
                continue
            if kind.shared_draws is not None:
                self._shared.append((kind(settings), kind.shared_draws))
            else:
                self._apart.append((kind(settings), f"{seed}/{stream}/{kind.name}/".encode()))

    def sample(self) -> Impairment:
        """Return the impairment of the next message."""
        n, self.sampled = self.sampled, self.sampled + 1
        rule = self._rule
        if rule is None:
            return UNTOUCHED
        message = Impairment(delay_s=rule.delay_s)
        if self._shared:
            shared = _uniform(self._key, n, SHIPPED_DRAWS)
            for kind, places in self._shared:
                kind.affect(message, shared[places])
        for kind, key in self._apart:
            kind.affect(message, _uniform(key, n, kind.draws))
        message.delay_s = min(message.delay_s, rule.max_delay_s)
        return message


@cache
def _words(count: int) -> struct.Struct:
    return struct.Struct(f"<{count}Q")


def _uniform(key: bytes, n: int, count: int) -> list[float]:
    """Return the uniform numbers of message ``n``, at most 8, each in (0, 1) and never 0 or 1 themselves."""
    words = _words(count)
    digest = blake2b(key + n.to_bytes(8, "little"), digest_size=words.size).digest()
    return [((bits >> 12) + 0.5) * 2.0**-52 for bits in words.unpack(digest)]
