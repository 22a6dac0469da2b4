"""Exclusive names: of one environment, agent or device there is one that acts, and the others know it.

The holder of a name stands, retained, on its ``owner`` channel. One that starts asks there first:

1. It subscribes, publishes ``asks`` and waits until it reads its own question. Everything that the
   broker kept has arrived by then, and of two that ask at once the broker's order decides.
2. A living holder answers ``holds``; then the name is taken. A retained ``holds`` without an answer
   within ``answer_s`` is what a dead holder has left. A broker that retains nothing leaves no trace of a
   holder: there an answer is waited for in any case.
3. With ``take_over`` the holder is displaced: it stops, says ``free`` and tells its user.
4. A holder that reads ``holds`` of another (after its connection was away) has been displaced as well.
"""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import logging
import os
import socket
from collections.abc import Callable
from datetime import UTC, datetime

from heron_mqtt.errors import BrokerError, Displaced, NameTaken
from heron_mqtt.messages import Owner
from heron_mqtt.messaging.base import MessageBroker, Received, Subscription
from heron_mqtt.messaging.stamping import MessageStamper, utc_text

log = logging.getLogger("heron_mqtt.ownership")

RELEASE_S = 1.0  # how long giving a name back may take
INSIST_EVERY_S = 0.5
QUESTIONS = 3  # one may be lost on a poor network


def user_name() -> str:
    """Return the name of the user who runs this process."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container without a user database
        return "unknown"


def this_process() -> str:
    """Return who we are, for people: user, host and process."""
    return f"{user_name()}@{socket.gethostname()} pid {os.getpid()}"[:200]


class NameOwnership:
    """One name that only one participant may hold.

    Args:
        broker: Carries the messages; callbacks run in the loop that called ``acquire``.
        channel: The name's ``owner`` channel.
        stamper: Stamps what is published; its boot says who we are.
        what: What the name stands for, for messages: ``agent MG1``.
        on_displaced: Called once when another one has taken the name over.
        on_confirmed: Called when it is heard, after a reconnection, that the name is still ours.
        take_over: Displace a living holder.
        answer_s: How long a living holder may take to answer, wall-clock s.
        who: Who we are, for people.
    """

    def __init__(
        self,
        broker: MessageBroker,
        channel: str,
        stamper: MessageStamper,
        *,
        what: str,
        on_displaced: Callable[[Displaced], None],
        on_confirmed: Callable[[], None] = lambda: None,
        take_over: bool = False,
        answer_s: float = 1.0,
        who: str | None = None,
    ) -> None:
        self.is_held = False
        """Whether the name is ours now."""
        self._broker = broker
        self._channel = channel
        self._stamper = stamper
        self._what = what
        self._on_displaced = on_displaced
        self._on_confirmed = on_confirmed
        self._take_over = take_over
        self._answer_s = answer_s
        self._who = who or this_process()
        self._retain = {"retain": True} if broker.features.retain else {}
        self._subscription: Subscription | None = None
        self._is_asking = False
        self._has_read_question = False
        self._kept: Owner | None = None  # a holder that may be dead
        self._rival: Owner | None = None  # one that lives
        self._term = 0  # how many have held the name before, and we
        self._highest_term = 0  # that was heard of
        self._insisted_at = -INSIST_EVERY_S
        self._news = asyncio.Event()
        self._forget_reconnect: Callable[[], None] = lambda: None
        self._is_forgotten = False  # by the broker, as far as is known since the last connection

    @property
    def is_doubted(self) -> bool:
        """Whether another one may have the name: after a reconnection, until it is heard who has it."""
        return self._is_forgotten

    async def acquire(self) -> None:
        """Take the name. Without effect on a broker that no other process can reach.

        Raises:
            NameTaken: Another one holds it; names the holder. Nothing else was published.
        """
        if self.is_held or not self._broker.features.external:
            return
        try:
            await self._ask()
            if self._rival is not None and not self._take_over:
                raise NameTaken(self._refusal(self._rival))
            self._term = 1 + self._highest_term
            self.is_held = True
            self._forget_reconnect = self._broker.on_reconnect(self._on_reconnect)
            await self._say("holds", **self._retain)
        except BaseException:
            with contextlib.suppress(BrokerError):
                await self.release()  # where it was broken off, ``holds`` may have left already
            raise

    async def release(self) -> None:
        """Give the name back, if the broker takes it in time. Idempotent.

        A broker that is away does not delay the end: the next holder asks, and gets no answer.
        """
        held, self.is_held = self.is_held, False
        self._unsubscribe()
        if not held:
            return
        try:
            async with asyncio.timeout(RELEASE_S):
                await self._say("free", **self._retain)
        except TimeoutError:
            log.info("%s: the broker does not answer; the name is not given back", self._what)

    def abandon(self) -> None:
        """Hold the name no more, and publish nothing. Idempotent."""
        self.is_held = False
        self._unsubscribe()

    def _on_reconnect(self) -> None:
        """Look what the broker knows: one that was restarted may have forgotten who holds the name.

        What it kept comes before our own question does. Another one that took over meanwhile answers.
        """
        if self.is_held:
            self._is_forgotten = True
            self._publish("asks")

    async def _ask(self) -> None:
        """Subscribe, and ask until it is clear whether there is a holder that lives."""
        self._kept = self._rival = None
        self._has_read_question = False
        self._is_asking = True
        try:
            self._subscription = self._broker.subscribe(self._channel, self._on_message)
            await self._subscription
            await self._ask_and_wait()
        finally:
            self._is_asking = False

    async def _ask_and_wait(self) -> None:
        for _ in range(QUESTIONS):
            await self._say("asks", take_over=self._take_over)
            if await self._heard(lambda: self._has_read_question, self._answer_s / QUESTIONS):
                break
        await self._heard(self._is_clear, self._answer_s)

    def _is_clear(self) -> bool:
        """Return whether more waiting would teach nothing.

        What the broker kept has come before our own question did: without it there is no holder, and with
        it the holder may be dead. A broker that keeps nothing says nothing: a living holder must be given
        the time to answer.
        """
        if self._rival is not None and not self._take_over:
            return True
        return self._broker.features.retain and self._kept is None

    async def _heard(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Wait until a message has made ``condition`` true; return whether one has."""
        try:
            async with asyncio.timeout(timeout_s):
                while not condition():
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            return False
        return True

    def _on_message(self, message: Received) -> None:
        owner = self._broker.parsed(message, Owner)
        if owner is None or owner.env_id not in {None, self._stamper.env_id}:
            return
        if owner.boot == self._stamper.boot:
            self._has_read_question |= owner.state == "asks"
            if owner.state == "holds":
                was_doubted, self._is_forgotten = self._is_forgotten, False
                if was_doubted and self.is_held:
                    self._on_confirmed()
            elif owner.state == "asks" and self.is_held and self._is_forgotten:
                self._publish("holds", **self._retain)
        elif owner.state == "asks":
            if not message.retained:
                self._on_question(owner)
        elif owner.state == "free":
            self._highest_term = max(self._highest_term, owner.term or 0)
            if self._kept is not None and self._kept.boot == owner.boot:
                self._kept = None
            if self._rival is not None and self._rival.boot == owner.boot:
                self._rival = None
        elif self.is_held:
            self._on_rival(owner)
        else:
            self._highest_term = max(self._highest_term, owner.term or 0)
            self._kept = owner
            if not message.retained:
                self._rival = owner
        self._news.set()

    def _on_question(self, owner: Owner) -> None:
        if self.is_held:
            if owner.take_over:
                self._lose(owner)
                self._publish("free")
            else:
                self._publish("holds", **self._retain)
        elif self._is_asking and not self._has_read_question:
            self._rival = owner  # it asked first

    def _on_rival(self, owner: Owner) -> None:
        """Another one says that it holds the name too: the one that took it later continues."""
        if (owner.term or 0, owner.boot or "") > (self._term, self._stamper.boot):
            self._lose(owner)
        elif (now := asyncio.get_running_loop().time()) - self._insisted_at > INSIST_EVERY_S:
            self._insisted_at = now
            self._publish("holds", **self._retain)  # it was paused when we asked: now it hears

    def _lose(self, owner: Owner) -> None:
        self.is_held = False
        error = Displaced(f"{self._what} was taken over by {_name(owner)}: this one has stopped")
        log.error("%s", error)
        self._on_displaced(error)

    def _refusal(self, owner: Owner) -> str:
        since = f" since {owner.since:%Y-%m-%d %H:%M:%SZ}" if owner.since is not None else ""
        return (
            f"{self._what} is held by {_name(owner)}{since}: end that one, use another name, or displace "
            "it with --take-over"
        )

    async def _say(self, state: str, *, take_over: bool = False, retain: bool = False) -> None:
        await self._broker.publish(
            self._channel, self._stamped(state, take_over), **({"retain": True} if retain else {})
        )

    def _publish(self, state: str, *, retain: bool = False) -> None:
        try:
            self._broker.publish(
                self._channel, self._stamped(state, False), **({"retain": True} if retain else {})
            )
        except BrokerError as exc:
            log.warning("%s: could not answer on %s: %s", self._what, self._channel, exc)

    def _stamped(self, state: str, take_over: bool) -> dict[str, object]:
        fields: dict[str, object] = {"type": "owner", "state": state, "who": self._who}
        if take_over:
            fields["take_over"] = True
        if state != "asks":
            fields["term"] = self._term
        if state == "holds":
            fields["since"] = utc_text(datetime.now(UTC), "seconds")
        return self._stamper.stamp(self._channel, fields)

    def _unsubscribe(self) -> None:
        """Listen no more, to the name or to reconnections. Idempotent."""
        self._forget_reconnect()
        if self._subscription is not None:
            self._subscription()
            self._subscription = None


def _name(owner: Owner) -> str:
    return f"{owner.who or owner.sender or 'an unnamed one'} (boot {owner.boot or 'unknown'})"
