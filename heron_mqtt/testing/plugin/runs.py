"""The recorded runs of a session: each is made once, and told to the budget of each test that asks for it."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from pydantic import BaseModel, ConfigDict, create_model

from heron_mqtt.app.run_plan import RunOptions, plan_run
from heron_mqtt.app.runner import new_summary
from heron_mqtt.app.runner import run as run_plan
from heron_mqtt.config import validate
from heron_mqtt.errors import ConfigError
from heron_mqtt.messaging.core.background_loop import run_sync
from heron_mqtt.record.reader import RecordFile
from heron_mqtt.testing.plugin.budgets import Measured
from heron_mqtt.testing.signals import RecordedSignals
from heron_mqtt.testing.suite.case import SilentProgress

RUNS = pytest.StashKey[dict[str, "RecordedRun"]]()


@dataclass(frozen=True, slots=True)
class RecordedRun:
    """A run that is over.

    Attributes:
        path: Its record.
        summary: What ``heron-mqtt run --json`` prints.
        step_ms: How long each step took, ms.
    """

    path: Path
    summary: dict[str, Any]
    step_ms: list[float]

    def signals(self) -> RecordedSignals:
        """Return its signals; use it as a context manager."""
        return RecordedSignals(self.path)

    def record(self) -> RecordFile:
        """Return its record, open; use it as a context manager."""
        return RecordFile(self.path)


class RunMaker:
    """Makes runs for one test.

    Args:
        config: Of the session, which keeps them.
        folders: Where their records go.
        measured: What counts for the test's budget, where it has one.
    """

    def __init__(
        self, config: pytest.Config, folders: pytest.TempPathFactory, measured: Measured | None
    ) -> None:
        self._runs = config.stash.setdefault(RUNS, {})
        self._folders = folders
        self._measured = measured

    def make(self, scenario: str | Path = "three_microgrids", **options: Any) -> RecordedRun:
        """Return a run; see the fixture.

        Args:
            scenario: A file, or the name of a shipped one.
            options: Fields of ``RunOptions``: steps, seed, broker, centralized, devices, network, ...

        Raises:
            HeronError: The scenario or an option is wrong, or the run failed.
        """
        options = checked_options(options)
        key = json.dumps([str(scenario), options], sort_keys=True, default=str)
        if key not in self._runs:
            self._runs[key] = self._run(scenario, options)
        found = self._runs[key]
        if self._measured is not None:
            self._measured.add_run(found.summary, found.step_ms)
        return found

    def _run(self, scenario: str | Path, options: dict[str, Any]) -> RecordedRun:
        path = self._folders.mktemp("run") / "run.heron"
        plan = plan_run(scenario, RunOptions(**{"record": str(path), **options}))
        summary = new_summary(plan)
        run_sync(run_plan(plan, SilentProgress(), summary))
        return RecordedRun(path, summary.as_dict(), list(summary.step_ms))


def checked_options(options: dict[str, Any]) -> dict[str, Any]:
    """Return options of a run, with paths as texts.

    Raises:
        ConfigError: One is not a field of ``RunOptions``, or its value is of another type.
    """
    if "record" in options:
        raise ConfigError("recorded_run: record: the fixture chooses the file; the result's .path names it")
    texts = {name: os.fspath(v) if isinstance(v, os.PathLike) else v for name, v in options.items()}
    validate(_options_model(), texts, "recorded_run")
    return texts


def _options_model() -> type[BaseModel]:
    hints = get_type_hints(RunOptions, localns={"StateFolder": object})
    fields: dict[str, Any] = {name: (kind, None) for name, kind in hints.items() if name != "record"}
    return create_model("RunOptions", __config__=ConfigDict(extra="forbid", strict=True), **fields)
