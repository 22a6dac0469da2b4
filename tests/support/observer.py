"""The observer of the tests: the one of the fault trials."""

from heron_mqtt.testing.faults.observer import Observed, PlainClient, PlainDevice
from heron_mqtt.testing.faults.observer import SiteObserver as Observer

__all__ = ["Observed", "Observer", "PlainClient", "PlainDevice"]
