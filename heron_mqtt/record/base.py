"""Recorder: gets every step of an environment."""

from __future__ import annotations

import abc
from collections.abc import Iterable, Sequence
from typing import Protocol

from heron_mqtt.field.observer import GatewayObserver
from heron_mqtt.messaging.base import MessageBroker
from heron_mqtt.record.facts import StepFacts


class Observable(Protocol):
    """What has a place for an observer: a proxy."""

    observer: GatewayObserver


class Recorder(abc.ABC):
    """Takes steps; may listen to the broker and to gateways as well. Its methods must not raise."""

    def attach(self, broker: MessageBroker | None, proxies: Iterable[Observable] = ()) -> None:  # noqa: B027
        """Listen to a broker and to the gateways of proxies; those who need only steps have nothing to do."""

    @abc.abstractmethod
    def step(self, facts: StepFacts) -> None:
        """Take a step of the environment, when it is done."""


class RecorderGroup(Recorder):
    """Several recorders as one."""

    def __init__(self, recorders: Sequence[Recorder]) -> None:
        self._recorders = tuple(recorders)

    def attach(self, broker: MessageBroker | None, proxies: Iterable[Observable] = ()) -> None:
        """Have each of them listen."""
        proxies = tuple(proxies)
        for recorder in self._recorders:
            recorder.attach(broker, proxies)

    def step(self, facts: StepFacts) -> None:
        """Tell each of them."""
        for recorder in self._recorders:
            recorder.step(facts)
