"""Fault trials: what a site and its messages do while brokers, programs, links and disks fail."""

from heron_mqtt.testing.faults.registry import FAULT_TRIALS
from heron_mqtt.testing.faults.run import FaultResult, FaultsOutcome, chosen_trials, run_trials
from heron_mqtt.testing.faults.table import HEADINGS, SUM_HEADINGS, cells, markdown, sums
from heron_mqtt.testing.faults.trial_broker import KINDS, why_no_broker

__all__ = [
    "FAULT_TRIALS",
    "HEADINGS",
    "KINDS",
    "SUM_HEADINGS",
    "FaultResult",
    "FaultsOutcome",
    "cells",
    "chosen_trials",
    "markdown",
    "run_trials",
    "sums",
    "why_no_broker",
]
