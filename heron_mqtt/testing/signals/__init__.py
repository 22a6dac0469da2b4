"""Assertions on signals over time, as test benches for controllers have them.

A ``Signal`` comes from a record (``RecordedSignals``), from a device that is watched (``telemetry_signal``)
or from anything else sample by sample (``SignalSamples``). An assertion returns if it holds; else it raises
``SignalFailed`` with time, value and bound, and a plot. What is not known never passes: NaN, gaps, and a
signal that does not reach over the whole window.
"""

from heron_mqtt.testing.signals.assertions import (
    ramps_no_faster_than,
    reaches_safe_within,
    reacts_within,
    settles_within,
    stays_inside,
)
from heron_mqtt.testing.signals.signal import Signal, SignalFailed, SignalSamples
from heron_mqtt.testing.signals.sources import RecordedSignals, telemetry_signal

__all__ = [
    "RecordedSignals",
    "Signal",
    "SignalFailed",
    "SignalSamples",
    "ramps_no_faster_than",
    "reaches_safe_within",
    "reacts_within",
    "settles_within",
    "stays_inside",
    "telemetry_signal",
]
