"""Runs a suite: its cases as processes side by side, each compared with its budget; table, JUnit, report."""

from heron_mqtt.testing.suite.outcome import CaseOutcome, SuiteOutcome
from heron_mqtt.testing.suite.page import suite_page
from heron_mqtt.testing.suite.run import run_suite

__all__ = ["CaseOutcome", "SuiteOutcome", "run_suite", "suite_page"]
