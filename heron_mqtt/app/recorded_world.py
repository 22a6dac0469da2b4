"""The grid of a recorded run, built again from the record alone, and its steps as plain data."""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heron_mqtt.config import validate_recorded
from heron_mqtt.errors import ConfigError, DataError
from heron_mqtt.messages import Telemetry
from heron_mqtt.protocols.p2p import SettledTrade
from heron_mqtt.record.reader import RecordFile
from powergrid.scenario import LoadedScenario, NetworkTable, ProfilesTable, Scenario
from powergrid.simulation.build import Blueprint, build

FILES = {
    "profiles.file": "profiles.csv",
    "profiles.price_file": "prices.csv",
    "network.source": "network.json",
}
"""By the key that names an input file, the name it gets here; never a name from the record."""


@dataclass(frozen=True, slots=True)
class RecordedStep:
    """One step of the record.

    Attributes:
        step: The row of ``step_row``.
        agents: By agent, the row of ``agent_row``.
        devices: By agent and device, the row of ``device_row``.
        trades: That were settled.
        taken_up: By agent and device, where a model was put before this step ended, since the step before.
    """

    step: dict[str, Any]
    agents: dict[str, dict[str, Any]]
    devices: dict[tuple[str, str], dict[str, Any]]
    trades: tuple[SettledTrade, ...]
    taken_up: dict[tuple[str, str], Telemetry]

    @property
    def at(self) -> tuple[int, int]:
        """Episode and step."""
        return self.step["episode"], self.step["step"]


def recorded_scenario(record: RecordFile, changes: Mapping[str, Any] | None = None) -> Scenario:
    """Return the scenario of a record.

    Args:
        record: The record.
        changes: Other values, by dotted key (``market.import_adder_per_mwh``).

    Raises:
        DataError: It is none.
        ConfigError: A change does not fit.
    """
    data = record.scenario
    for key, value in (changes or {}).items():
        _change(data, key, value)
    if changes:
        return validate_recorded(Scenario, data, "--set")
    try:
        return validate_recorded(Scenario, data, f"{record.path}: its scenario cannot be read")
    except ConfigError as exc:
        raise DataError(*exc.problems) from None


def _change(data: dict[str, Any], key: str, value: Any) -> None:
    *path, leaf = key.split(".")
    table: Any = data
    for part in path:
        table = table.get(part) if isinstance(table, dict) else None
    if isinstance(table, dict) and leaf not in table and isinstance(table.get("spec"), dict):
        table = table["spec"]  # a device's own keys stand beside ours in a scenario file
    if not isinstance(table, dict) or leaf not in table:
        raise ConfigError(f"--set {key}: the recorded scenario has no such key")
    table[leaf] = value


def recorded_loaded(record: RecordFile, scenario: Scenario, folder: Path) -> LoadedScenario:
    """Put the input files of a record into ``folder`` and return the scenario as if loaded from there.

    Raises:
        DataError: An input file is damaged.
    """
    inputs = record.inputs()
    for key, data in inputs.items():
        if key in FILES:
            (folder / FILES[key]).write_bytes(data)
    return LoadedScenario(scenario=_renamed(scenario, set(inputs)), source=str(record.path), directory=folder)


def recorded_blueprint(record: RecordFile, scenario: Scenario | None = None) -> Blueprint:
    """Build the grid and the time series of a record again, from what is in it.

    Raises:
        DataError: Something that the scenario needs is not in the record.
    """
    scenario = scenario or recorded_scenario(record)
    with tempfile.TemporaryDirectory(prefix="heron-record-") as folder:
        try:
            return build(recorded_loaded(record, scenario, Path(folder)))
        except ConfigError as exc:
            raise DataError(f"{record.path}: the run cannot be built again: {exc}") from None


def _renamed(scenario: Scenario, inputs: set[str]) -> Scenario:
    """Return the scenario with the names that its input files have here."""
    profiles: ProfilesTable = scenario.profiles.model_copy(
        update={
            field: FILES[key]
            for field, key in (("file", "profiles.file"), ("price_file", "profiles.price_file"))
            if key in inputs
        }
    )
    network: NetworkTable = scenario.network
    if "network.source" in inputs:
        network = network.model_copy(update={"source": FILES["network.source"]})
    return scenario.model_copy(update={"profiles": profiles, "network": network})


def episode_seed(record: RecordFile, episode: int) -> int:
    """Return the seed of what is random in an episode; the run's, where none is recorded."""
    for row in record.query("SELECT * FROM event_row WHERE kind = 'seed' ORDER BY id"):
        if row["episode"] == episode:
            return int(json.loads(row["data"] or "{}").get("seed", 0))
    return int(record.meta["seed"])


def steps(record: RecordFile) -> Iterator[RecordedStep]:
    """Return the steps of a record in order, those of one episode after those of the one before."""
    agents = _grouped(record, "SELECT * FROM agent_row ORDER BY id")
    devices = _grouped(record, "SELECT * FROM device_row ORDER BY id")
    trades = _grouped(record, "SELECT * FROM trade_row WHERE void_reason IS NULL ORDER BY id")
    taken_up = _grouped(record, "SELECT * FROM event_row WHERE kind = 'taken up' ORDER BY id")
    for row in record.query("SELECT * FROM step_row ORDER BY id"):
        at = row["episode"], row["step"]
        yield RecordedStep(
            dict(row),
            {one["agent"]: one for one in agents.get(at, [])},
            {(one["agent"], one["device"]): one for one in devices.get(at, [])},
            tuple(
                SettledTrade(t["seller"], t["buyer"], t["mwh"], t["price_per_mwh"])
                for t in trades.get(at, [])
            ),
            {_device_of(one): _telemetry_of(record, one) for one in taken_up.get(at, [])},
        )


def _device_of(event: Mapping[str, Any]) -> tuple[str, str]:
    agent, _, device = str(event["subject"]).partition("/")
    return agent, device


def _telemetry_of(record: RecordFile, event: Mapping[str, Any]) -> Telemetry:
    try:
        return Telemetry.model_validate_json(event["data"] or "")
    except ValueError as exc:
        raise DataError(f"{record.path}: event {event['id']}: its data cannot be read: {exc}") from None


def _grouped(record: RecordFile, sql: str) -> dict[tuple[int, int], list[dict[str, Any]]]:
    found: dict[tuple[int, int], list[dict[str, Any]]] = defaultdict(list)
    for row in record.each(sql):
        found[row["episode"], row["step"]].append(dict(row))
    return found


def recorded_telemetry(row: Mapping[str, Any]) -> Telemetry | None:
    """Return what the device measured in a row of ``device_row``; None = nothing was heard."""
    if row["telemetry_p_mw"] is None:
        return None
    running = row["telemetry_running"]
    return Telemetry(
        p_mw=row["telemetry_p_mw"],
        q_mvar=row["telemetry_q_mvar"] or 0.0,
        soc=row["telemetry_soc"],
        running=None if running is None else bool(running),
    )


__all__ = [
    "RecordedStep",
    "episode_seed",
    "recorded_blueprint",
    "recorded_loaded",
    "recorded_scenario",
    "recorded_telemetry",
    "steps",
]
