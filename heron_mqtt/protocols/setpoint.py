"""The vertical setpoint protocol: upstream sends a command for a step, the agent follows it.

A command holds for exactly the step it names; one without episode and step (a person with an MQTT
client) holds for the next step that begins. Devices that a command does not name keep the agent's own
policy. What is wanted is not what is sent: every setpoint is bounded by the device's limits first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Generic, NamedTuple, TypeVar

from heron_mqtt.messages import Command

MAX_AHEAD = 16  # commands kept for steps that have not begun; they come from the network


class StepCommand(NamedTuple):
    """Setpoints for one step; the plain form of a ``Command`` message, for numbers known to be finite.

    Attributes:
        episode: For which it holds, as ``step``.
        step: None = the next step that begins.
        p_mw: By device, MW, positive = injected.
        q_mvar: By device, Mvar, positive = injected.
    """

    episode: int | None
    step: int | None
    p_mw: Mapping[str, float]
    q_mvar: Mapping[str, float]
    boot: None = None  # the environment's own: of no other run

    def values(self, prefix: str) -> Mapping[str, float]:
        """Return the numbers by device as the message does: what begins with ``p_`` or ``q_``."""
        if prefix == "p_":
            return self.p_mw
        return self.q_mvar if prefix == "q_" else {}

    def powers(self) -> tuple[Mapping[str, float], Mapping[str, float]]:
        """Return both by device, MW and Mvar, as the message does."""
        return self.p_mw, self.q_mvar

    def to_fields(self) -> dict[str, Any]:
        """Return the fields of that message."""
        return {"type": "command", "episode": self.episode, "step": self.step, **self.setpoints()}

    def setpoints(self) -> dict[str, float]:
        """Return the setpoints as the message names them, device by device."""
        named = {}
        for device in dict.fromkeys((*self.p_mw, *self.q_mvar)):
            if device in self.p_mw:
                named[f"p_{device}"] = self.p_mw[device]
            if device in self.q_mvar:
                named[f"q_{device}"] = self.q_mvar[device]
        return named


AnyCommand = TypeVar("AnyCommand", Command, StepCommand)


class CommandFollower(Generic[AnyCommand]):
    """The commands an agent has received and not yet used; the first one of a step counts."""

    def __init__(self) -> None:
        self._commands: dict[tuple[int, int], AnyCommand] = {}
        self._next: AnyCommand | None = None
        self._taken: tuple[int, int] | None = None  # the newest step that has begun

    def receive(self, command: AnyCommand) -> bool:
        """Take a command; False if it is too late, too early, or there is one for that step already."""
        if command.episode is None or command.step is None:
            self._next = command
            return True
        at = (command.episode, command.step)
        if at in self._commands or (self._taken is not None and at <= self._taken):
            return False
        self._commands[at] = command
        if len(self._commands) > MAX_AHEAD:
            del self._commands[max(self._commands)]  # the furthest ahead: the next step's must not suffer
        return at in self._commands

    def has(self, episode: int, step: int) -> bool:
        """Whether a command for this step has arrived."""
        return (episode, step) in self._commands

    def take(self, episode: int, step: int) -> AnyCommand | None:
        """Return the command for this step, and forget it and all earlier ones."""
        command = self._commands.get((episode, step), self._next)
        self._next = None
        self._taken = (episode, step)
        if self._commands:
            self._commands = {at: c for at, c in self._commands.items() if at > (episode, step)}
        return command

    def restart(self, episode: int, run: str | None = None) -> None:
        """Forget the steps and commands of other episodes, and of other runs.

        Args:
            episode: The one that begins.
            run: Boot of the operator that begins it; one that has started again counts from episode 1 again.
        """
        self._taken = None
        self._commands = {
            at: c
            for at, c in self._commands.items()
            if at[0] == episode and (run is None or c.boot in {None, run})
        }
