"""Where signals come from: the record of a run, and a device that is watched."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from heron_mqtt.errors import ConfigError
from heron_mqtt.record.reader import RecordFile
from heron_mqtt.testing.device_harness import DeviceHarness
from heron_mqtt.testing.signals.signal import SLACK, Signal

AGENT_UNITS = {
    "reward": "",
    "p_load_mw": "MW",
    "net_mwh": "MWh",
    "vm_min_pu": "pu",
    "vm_max_pu": "pu",
    "loading_max_percent": "%",
    "missed": "",
}
DEVICE_UNITS = {
    "p_mw": "MW",
    "q_mvar": "Mvar",
    "soc": "",
    "wanted_p_mw": "MW",
    "sent_p_mw": "MW",
    "telemetry_p_mw": "MW",
    "residual_mw": "MW",
    "p_available_mw": "MW",
    "round_trip_s": "s",
    "age_s": "s",
}


class RecordedSignals:
    """The signals of one episode of a recorded run, over simulated time: 0 s is its first step.

    Use it as a context manager, or ``close`` it. A step that is not in the record is a gap.

    Args:
        record: The file, or a record that is open; an open one is not closed here.
        episode: Which one; None = the only one.

    Raises:
        DataError: The file is no record.
        ConfigError: There is no such episode, or there are several and none is named.
    """

    def __init__(self, record: str | Path | RecordFile, *, episode: int | None = None) -> None:
        self._is_ours = not isinstance(record, RecordFile)
        self.record = record if isinstance(record, RecordFile) else RecordFile(record)
        found = [row["episode"] for row in self.record.query("SELECT DISTINCT episode FROM steps ORDER BY 1")]
        if episode is None and len(found) == 1:
            episode = found[0]
        if episode not in found:
            self.close()
            raise ConfigError(f"{self.record.path}: episode {episode}: the record has {found or 'no steps'}")
        self.episode = episode
        self._step_s = self.record.step_s

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the record, if it was opened here."""
        if self._is_ours:
            self.record.close()

    def device(self, device: str, quantity: str = "p_mw") -> Signal:
        """Return a device's signal.

        Args:
            device: ``AGENT/DEVICE``.
            quantity: A column of the view ``devices``: p_mw, soc, sent_p_mw, telemetry_p_mw, ...

        Raises:
            ConfigError: There is no such device or quantity; says which there are.
        """
        agent, _, name = device.partition("/")
        known = _known(quantity, DEVICE_UNITS)
        rows = self.record.query(
            f"SELECT step, {known} AS value FROM devices "  # noqa: S608 - one of our own names
            "WHERE episode = ? AND agent = ? AND device = ? ORDER BY step",
            *(self.episode, agent, name),
        )
        if not rows:
            pairs = self.record.query("SELECT DISTINCT agent, device FROM devices ORDER BY 1, 2")
            there = ", ".join(f"{row['agent']}/{row['device']}" for row in pairs)
            raise ConfigError(f"{device}: no such device in {self.record.path}; it has {there}")
        return self._signal(f"{device} {quantity}", DEVICE_UNITS[quantity], rows)

    def agent(self, agent: str, quantity: str) -> Signal:
        """Return a microgrid's signal: vm_min_pu, vm_max_pu, loading_max_percent, reward, ...

        Raises:
            ConfigError: There is no such agent or quantity; says which there are.
        """
        known = _known(quantity, AGENT_UNITS)
        rows = self.record.query(
            f"SELECT step, {known} AS value FROM agents WHERE episode = ? AND agent = ? ORDER BY step",  # noqa: S608
            *(self.episode, agent),
        )
        if not rows:
            there = ", ".join(self.record.agents)
            raise ConfigError(f"{agent}: no such agent in {self.record.path}; it has {there}")
        return self._signal(f"{agent} {quantity}", AGENT_UNITS[quantity], rows)

    def price(self) -> Signal:
        """Return the price, $/MWh."""
        rows = self.record.query(
            "SELECT step, price_per_mwh AS value FROM steps WHERE episode = ? ORDER BY step", self.episode
        )
        return self._signal("price", "$/MWh", rows)

    def _signal(self, name: str, unit: str, rows: Sequence[Any]) -> Signal:
        times = tuple(row["step"] * self._step_s for row in rows)
        values = tuple(math.nan if row["value"] is None else float(row["value"]) for row in rows)
        return Signal(name, unit, times, values, SLACK * self._step_s)


def telemetry_signal(
    harness: DeviceHarness, field: str = "p_mw", *, since: int = 0, longest_gap_s: float | None = None
) -> Signal:
    """Return what a device that is watched has said, over wall-clock time: 0 s is the first message.

    Args:
        harness: Watches it.
        field: Of its telemetry; a message without it, or with no number there, is a value not known.
        since: A mark of the harness (``harness.now``): what came from there on.
        longest_gap_s: As of ``Signal``; None = 1.5 times the usual distance.
    """
    messages = harness.heard("telemetry", since)
    begun_s = messages[0].at_s if messages else 0.0
    times: list[float] = []
    values: list[float] = []
    for message in messages:
        t_s = message.at_s - begun_s
        if times and t_s <= times[-1]:
            t_s = math.nextafter(times[-1], math.inf)
        said = message.json.get(field)
        times.append(t_s)
        values.append(_number(said))
    unit = DEVICE_UNITS.get(field, "")
    return Signal(f"{harness.label} {field}", unit, tuple(times), tuple(values), longest_gap_s)


def _number(said: object) -> float:
    """Return a number of a message; NaN for everything else."""
    if isinstance(said, bool) or not isinstance(said, int | float):
        return math.nan
    try:
        return float(said)
    except OverflowError:
        return math.nan


def _known(quantity: str, units: dict[str, str]) -> str:
    if quantity not in units:
        raise ConfigError(f"{quantity}: no such quantity; expected {', '.join(units)}")
    return quantity
