"""The vertical price protocol: an operator broadcasts one price a step, agents follow the newest."""

from __future__ import annotations

from heron_mqtt.messages import PriceSignal


class PriceFollower:
    """An agent's view of its operator's price.

    A price for an earlier step than the newest one heard is stale and ignored; a price without episode
    and step (a person with an MQTT client) counts from when it arrives.
    """

    def __init__(self) -> None:
        self.value: float | None = None
        """Newest price, $/MWh; None before the first."""
        self._at: tuple[int, int] | None = None

    def receive(self, signal: PriceSignal) -> bool:
        """Take a price; False if it was stale."""
        if signal.episode is not None and signal.step is not None:
            at = (signal.episode, signal.step)
            if self._at is not None and at < self._at:
                return False
            self._at = at
        self.value = signal.value
        return True

    def is_for(self, episode: int, step: int) -> bool:
        """Whether the newest price was made for this step."""
        return self._at == (episode, step)

    def restart(self, episode: int) -> None:
        """Forget which step was priced, if it was of another episode; the value stays the best known."""
        if self._at is not None and self._at[0] != episode:
            self._at = None
