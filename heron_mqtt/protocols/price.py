"""The vertical price protocol: an operator broadcasts one price a step, agents follow the newest."""

from __future__ import annotations

from heron_mqtt.messages import PriceSignal


class PriceFollower:
    """An agent's view of its operator's price.

    A price for an earlier step than the newest one received is old and ignored. A price without episode and
    step (a person with an MQTT client) counts from its arrival.
    """

    def __init__(self) -> None:
        self.value: float | None = None
        """Newest price, $/MWh; None before the first."""
        self._at: tuple[int, int] | None = None
        self._boot: str | None = None

    def receive(self, signal: PriceSignal) -> bool:
        """Take a price; False if it was stale."""
        said = signal.__dict__  # it takes as long to read as one field of the model
        episode, step = said["episode"], said["step"]
        if episode is not None and step is not None:
            at = (episode, step)
            if self._at is not None and at < self._at:
                return False
            self._at, self._boot = at, said["boot"]
        self.value = said["value"]
        return True

    def is_for(self, episode: int, step: int) -> bool:
        """Whether the newest price was made for this step."""
        return self._at == (episode, step)

    def restart(self, episode: int, run: str | None = None) -> None:
        """Forget which step was priced, if it was of another episode or run; the value stays the best known.

        Args:
            episode: The one that begins.
            run: Boot of the operator that begins it; one that has started again counts from episode 1 again.
        """
        if self._at is not None and (self._at[0] != episode or (run and self._boot not in {None, run})):
            self._at = None
