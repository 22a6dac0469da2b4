"""CsvRecorder: results for those who want no database: one row an agent and step, in a CSV file."""

from __future__ import annotations

import csv
import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from heron_mqtt.locked_file import is_in_place
from heron_mqtt.record.base import Recorder
from heron_mqtt.record.facts import StepFacts
from heron_mqtt.record.result_file import CSV_ROWS, refuse_other_files

log = logging.getLogger("heron_mqtt.record")

PLAIN = ("episode", "step", "clock", "agent", "price_per_mwh", "reward", "p_load_mw", "net_mwh")
GRID = ("vm_min_pu", "vm_max_pu", "loading_max_percent", "sold_mwh", "bought_mwh", "missed", "fallbacks")


class CsvRecorder(Recorder):
    """Writes each step as it ends; what is not known is an empty field.

    Columns: those of ``PLAIN``, the terms of the reward as ``reward_<term>``, those of ``GRID``, and for
    each device name ``p_<name>_mw``, ``q_<name>_mvar`` and, of storage, ``soc_<name>``.

    Args:
        path: An earlier file of such rows is overwritten.
        devices: Names of all devices, of any agent.
        report: Told once if it cannot be written any more; the run continues.

    Raises:
        ConfigError: There is a file with something else.
        OSError: It cannot be written.
    """

    def __init__(
        self,
        path: Path,
        devices: Sequence[str],
        report: Callable[[str], None] = lambda text: log.warning("%s", text),
    ) -> None:
        self.path = path
        self.lost = 0
        """Rows that could not be written, or whose file was removed."""
        self._rows = 0
        self._devices = tuple(dict.fromkeys(devices))
        self._report = report
        refuse_other_files(path, CSV_ROWS)
        self._file = open(path, "w", newline="", encoding="utf-8", opener=_open)  # noqa: SIM115
        self._writer: csv.DictWriter[str] | None = None

    def step(self, facts: StepFacts) -> None:
        """Write the rows of a step."""
        rows = [self._row(facts, agent, info) for agent, info in facts.infos.items()]
        try:
            if self._writer is None:
                self._writer = csv.DictWriter(self._file, list(rows[0]))
                self._writer.writeheader()
            self._writer.writerows(rows)
            self._file.flush()
            self._rows += len(rows)
        except OSError as exc:
            if not self.lost:
                self._report(f"csv {self.path}: {exc.strerror}; the run continues")
            self.lost += len(rows)

    def close(self) -> None:
        """Close the file. Idempotent."""
        if self._file.closed:
            return
        if not is_in_place(self.path, self._file.fileno()):
            self._report(f"csv {self.path}: was removed or replaced during the run: its rows are lost")
            self.lost += self._rows
        try:
            self._file.close()
        except OSError as exc:
            self._report(f"csv {self.path}: {exc.strerror}")
            self.lost = self.lost or 1  # at least

    def _row(self, facts: StepFacts, agent: str, info: Mapping[str, Any]) -> dict[str, Any]:
        terms, trades = info["reward_terms"], info["trades"]
        first = (facts.episode, facts.step, facts.clock, agent, facts.price, facts.rewards[agent])
        grid = (
            info["vm_pu"]["min"],
            info["vm_pu"]["max"],
            info["loading_max_percent"],
            sum(trade.mwh for trade in trades if trade.seller == agent),
            sum(trade.mwh for trade in trades if trade.buyer == agent),
            info["missed"],
            len(info["fallbacks"]),
        )
        row: dict[str, Any] = dict(zip(PLAIN, (*first, info["p_load_mw"], info["net_mwh"]), strict=True))
        row.update({f"reward_{term}": value for term, value in terms.items()})
        row.update(zip(GRID, grid, strict=True))
        for name in self._devices:
            row[f"p_{name}_mw"] = info["p_mw"].get(name)
            row[f"q_{name}_mvar"] = info["q_mvar"].get(name)
            row[f"soc_{name}"] = info["soc"].get(name)
        return {key: None if _is_nan(value) else value for key, value in row.items()}


def _open(path: str, flags: int) -> int:
    """Open a file; a pipe that no process reads is an error at once, where it would wait for ever."""
    descriptor = os.open(path, flags | os.O_NONBLOCK, 0o666)
    os.set_blocking(descriptor, True)
    return descriptor


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)
