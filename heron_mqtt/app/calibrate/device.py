"""``heron-mqtt calibrate RUN``: a device's twin and emulator fitted to its record, and what that is worth."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from heron_mqtt.app.calibrate.energy import fit_energy
from heron_mqtt.app.calibrate.estimate import Estimate, untold
from heron_mqtt.app.calibrate.power import PowerFit, fit_power
from heron_mqtt.app.calibrate.samples import Array, DeviceSamples, driven_devices, samples_of
from heron_mqtt.app.recorded_world import recorded_scenario
from heron_mqtt.errors import DataError
from heron_mqtt.record.reader import RecordFile
from powergrid.devices import make_device
from powergrid.devices.base import DeviceSpecBase
from powergrid.devices.battery import BatterySpec
from powergrid.scenario import DeviceTable, Scenario

MIN_ANSWERS = 8


@dataclass(frozen=True, slots=True)
class Calibration:
    """What a record says of one device.

    Attributes:
        label: AGENT/DEVICE.
        kind: Of device.
        steps: From which it was fitted.
        estimates: Every quantity that was looked for, told or not.
        before_mw: Root mean square of what the twin of the scenario leaves unexplained, MW; the state of
            charge counts as the power that would explain it.
        after_mw: The same of the calibrated twin.
        table: The device's keys in the recorded scenario.
    """

    label: str
    kind: str
    steps: int
    estimates: tuple[Estimate, ...]
    before_mw: float
    after_mw: float
    table: Mapping[str, Any]

    def of(self, name: str) -> Estimate:
        """Return the estimate of a key."""
        return next(estimate for estimate in self.estimates if estimate.name == name)

    def fragment(self) -> str:
        """Return the device's tables for a scenario, in place of those that it has, with what was told."""
        agent, _, device = self.label.partition("/")
        own = {key: value for key, value in self.table.items() if not isinstance(value, Mapping)}
        inner = {key: dict(value) for key, value in self.table.items() if isinstance(value, Mapping)}
        comments: dict[tuple[str, str], str] = {}
        for e in self.estimates:
            if e.value is None or not math.isfinite(e.value):
                continue
            for place in PLACES[e.table] if e.name != "offset_mw" else ("twin", "emulator"):
                target = own if place == "" else inner.setdefault(place, {})
                target[e.name] = float(f"{e.value:.6g}")
                comments[place, e.name] = f"{e.low:.4g} .. {e.high:.4g}"
        if ("", "efficiency_charge") in comments:  # what an emulator lost besides is in the nameplate now
            inner["emulator"].pop("efficiency_factor", None)
        lines = [f"# {self.label}, fitted to {self.steps} steps; behind a value: its interval of 95 %"]
        head = f"microgrids.{_key(agent)}.devices.{_key(device)}"
        for place, values in (("", own), *sorted(inner.items())):
            if not values:
                continue
            lines.append(f"[{head}.{place}]" if place else f"[{head}]")
            for key, value in values.items():
                comment = f"    # {comments[place, key]}" if (place, key) in comments else ""
                lines.append(f"{_key(key)} = {_toml(value)}{comment}")
            lines.append("")
        return "\n".join(lines)


PLACES = {
    "nameplate": ("",),
    "response": ("twin", "emulator"),
    "meter": ("emulator",),
    "answers": ("emulator",),
}
"""Where what was found belongs: the device's own keys, or tables in it."""


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name)


def _toml(value: Any) -> str:
    match value:
        case bool():
            return str(value).lower()
        case Mapping():
            return "{ " + ", ".join(f"{_key(k)} = {_toml(v)}" for k, v in value.items()) + " }"
        case list() | tuple():
            return "[" + ", ".join(map(_toml, value)) + "]"
        case str():
            return json.dumps(value, ensure_ascii=False)
        case _:
            return repr(value)


def calibrate(record: RecordFile, label: str | None = None) -> list[Calibration]:
    """Fit one device, or every one that answered setpoints.

    Raises:
        DataError: The record has no such device, or too little of it.
    """
    scenario = recorded_scenario(record)
    labels = driven_devices(record) if label is None else [label]
    if not labels:
        raise DataError(
            f"{record.path}: no device answered a setpoint: only devices over a broker can be calibrated"
        )
    found, problems = [], []
    for each in labels:
        try:
            found.append(_calibrated(record, scenario, each))
        except DataError as exc:
            problems.append(str(exc))
    if not found:
        raise DataError("; ".join(problems))
    return found


def _calibrated(record: RecordFile, scenario: Scenario, label: str) -> Calibration:
    agent, _, device = label.partition("/")
    microgrid = scenario.microgrids.get(agent)
    if microgrid is None or device not in microgrid.devices:
        raise DataError(f"{record.path}: no device {label}; there is {', '.join(driven_devices(record))}")
    table = microgrid.devices[device]
    samples = samples_of(record, label, _full_or_empty(table))
    power = fit_power(samples)
    estimates = list(power.estimates)
    spec = table.spec
    if isinstance(spec, BatterySpec):
        energy = fit_energy(samples, spec, power.offset_mw)
        estimates += energy
        spec = spec.model_copy(update={e.name: e.value for e in energy if e.value is not None})
    estimates += _answers(samples)
    return Calibration(
        label,
        spec.kind,
        len(samples),
        tuple(estimates),
        _rms(_unexplained(samples, table.spec, _of_scenario(table))),
        _rms(_unexplained(samples, spec, power)),
        _written(table),
    )


def _written(table: DeviceTable) -> dict[str, Any]:
    """Return a device's keys as they stand in a scenario: what is not the default."""
    given = table.model_dump(exclude_defaults=True, exclude={"spec"})
    return {"kind": table.spec.kind, **table.spec.model_dump(exclude_defaults=True), **given}


def _full_or_empty(table: DeviceTable) -> tuple[float, float] | None:
    """Return the states of charge at which something other than its setpoint limits a device."""
    spec = table.spec
    return (spec.min_soc, spec.max_soc) if isinstance(spec, BatterySpec) else None


def _of_scenario(table: DeviceTable) -> PowerFit:
    twin = table.twin
    return PowerFit((), twin.offset_mw, twin.response_delay_s, twin.lag_s, twin.ramp_mw_per_s, 0.0)


def _unexplained(samples: DeviceSamples, spec: DeviceSpecBase, power: PowerFit) -> Array:
    """Return what a twin leaves unexplained in each step, MW: of power, or of charge, whichever is more."""
    left = (samples.p_mw - power.expected(samples))[samples.follows]
    if not isinstance(spec, BatterySpec):
        return left
    model = make_device(spec)
    of_charge = np.zeros(len(samples))
    for k in np.flatnonzero(np.isfinite(samples.soc_before) & np.isfinite(samples.soc)):
        model.restore(float(samples.p_mw[k]) - power.offset_mw, float(samples.soc_before[k]))
        done = model.step(float(samples.p_mw[k]) - power.offset_mw, 0.0, samples.dt_s)
        if done.soc is not None:
            of_charge[k] = model.missing_mw(done.soc, float(samples.soc[k]), samples.dt_s)
    of_charge = of_charge[samples.follows]
    return np.where(np.abs(of_charge) > np.abs(left), of_charge, left)


def _rms(values: Array) -> float:
    return float(np.sqrt(np.mean(values**2))) if len(values) else 0.0


def _answers(samples: DeviceSamples) -> list[Estimate]:
    """Return how long answers took, the network's part included: it cannot be told apart from one side."""
    times = np.sort(samples.round_trip_s[np.isfinite(samples.round_trip_s)])
    if len(times) < MIN_ANSWERS:
        return [untold("answer_delay_s", "answers", "too few answers were timed")]
    n = len(times)
    width = float(times[-1] - times[0])
    spread = width * (n + 1) / (n - 1)  # of a uniform distribution: the unbiased estimate of its width
    least = float(times[0]) - width / (n - 1)
    jitter_low = width / (0.05 ** (1.0 / (n - 1))) if n > 1 else width
    note = "network and device together: from one side they cannot be separated"
    earliest = max(float(times[0]) - 3.0 * spread / n, 0.0)
    return [
        Estimate("answer_delay_s", "answers", max(least, 0.0), earliest, float(times[0]), note=note),
        Estimate("jitter_s", "answers", spread, width, max(jitter_low, spread), note="taken as uniform"),
    ]
