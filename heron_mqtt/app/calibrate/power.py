"""How a device's power follows its setpoint: offset, dead time, lag, ramp, limits, noise, quantum."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy

from heron_mqtt.app.calibrate.estimate import CONFIDENCE, Estimate, untold
from heron_mqtt.app.calibrate.samples import Array, DeviceSamples
from powergrid.devices.response import mean_and_end

STRONG = 6.0  # difference of the criterion that counts as strong evidence (Kass and Raftery, 1995)
SETTLED = 5.0  # time constants after which a lag is over
MOVES = 3  # setpoint changes that are needed to tell anything of the response
TOGETHER = (
    "dead time and lag together: with steps of {dt_s:g} s they look alike; "
    "steps not longer than about the lag would tell them apart"
)


@dataclass(frozen=True, slots=True)
class PowerFit:
    """How power follows its target.

    Attributes:
        estimates: What was found.
        offset_mw: Of the meter.
        response_delay_s: Dead time.
        lag_s: Lag.
        ramp_mw_per_s: None = none was seen.
        noise_mw: Standard deviation of what is left.
    """

    estimates: tuple[Estimate, ...]
    offset_mw: float
    response_delay_s: float
    lag_s: float
    ramp_mw_per_s: float | None
    noise_mw: float

    def expected(self, samples: DeviceSamples) -> Array:
        """Return what the meter should show of each step, MW (n,)."""
        return _predicted(
            samples, self.offset_mw, self.response_delay_s, self.lag_s, self.ramp_mw_per_s or math.inf
        )


def fit_power(samples: DeviceSamples) -> PowerFit:
    """Fit the response: of several models the simplest that explains the record.

    The offset is always fitted. Lag, ramp, both, and dead time beside the lag are fitted only if there is
    strong evidence for them. With long steps, lag stands for dead time and lag together. Least squares, with
    intervals from the curvature at the best fit (Seber and Wild, Nonlinear Regression, 1989, section 5.1).
    """
    moves = _moves(samples)
    quantum_mw = _quantum(samples.p_mw)
    scale = max(float(np.ptp(samples.target_mw)), 1e-6)
    best = _Fit(samples, ("offset",), (0.0,), scale)
    told, lagging = moves >= MOVES, best
    if told:
        lag_s, ramp = 0.02 * samples.dt_s, _seen_ramp(samples)
        lagging = _Fit(samples, ("offset", "lag"), (0.0, lag_s), scale)
        ramping = _Fit(samples, ("offset", "ramp"), (0.0, ramp), scale)
        both = [
            _Fit(samples, ("offset", "lag", "ramp"), (0.0, *start), scale)
            for start in ((lagging["lag"], ramp), (lag_s, ramping["ramp"]))
        ]
        best = _simplest([best, lagging, ramping, *both])
        if "lag" in best.names and best["lag"] * SETTLED > samples.dt_s:
            more = (*best.names, "delay")
            best = _simplest([best, _Fit(samples, more, (*best.values, 0.1 * best["lag"]), scale)])
    noise_mw = math.sqrt(max(best.variance - quantum_mw**2 / 12.0, 0.0))
    return PowerFit(
        tuple(_estimates(samples, best, lagging, noise_mw, quantum_mw, told=told)),
        best["offset"],
        best["delay"],
        best["lag"],
        best["ramp"] if "ramp" in best.names else None,
        noise_mw,
    )


def _estimates(
    samples: DeviceSamples, best: _Fit, lagging: _Fit, noise_mw: float, quantum_mw: float, *, told: bool
) -> list[Estimate]:
    found = [best.estimate("offset", "offset_mw", "meter")]
    few = f"the setpoint changed fewer than {MOVES} times: change it often, by large steps"
    if not told:
        found += [untold(name, "response", few) for name in ("response_delay_s", "lag_s", "ramp_mw_per_s")]
    else:
        if "lag" in best.names:
            note = "" if "delay" in best.names else TOGETHER.format(dt_s=samples.dt_s)
            found.append(best.estimate("lag", "lag_s", "response", note))
        else:
            most = lagging.estimate("lag", "lag_s", "response").high
            note = (
                f"none was seen; it is at most {most:.3g} s; larger changes in shorter steps would show less"
            )
            found.append(untold("lag_s", "response", note))
        if "delay" in best.names:
            found.append(best.estimate("delay", "response_delay_s", "response"))
        if "ramp" in best.names:
            found.append(best.estimate("ramp", "ramp_mw_per_s", "response"))
        else:
            largest = float(np.max(np.abs(np.diff(samples.target_mw)), initial=0.0)) / samples.dt_s
            note = f"none was seen up to {largest:.3g} MW/s; larger changes in shorter steps would show one"
            found.append(untold("ramp_mw_per_s", "response", note))
    freedom = len(samples) - len(best.names)
    low, high = (math.sqrt(freedom / scipy.stats.chi2.ppf(q, freedom)) * noise_mw for q in (0.975, 0.025))
    found.append(Estimate("noise_mw", "meter", noise_mw, low, high))
    found.append(Estimate("quantum_mw", "meter", quantum_mw, quantum_mw, quantum_mw))
    return found


class _Fit:
    """A least-squares fit of some of the parameters; the others are as of an ideal device."""

    def __init__(
        self, samples: DeviceSamples, names: Sequence[str], start: Sequence[float], scale_mw: float
    ) -> None:
        self.names = tuple(names)
        sizes = {
            "offset": scale_mw,
            "lag": samples.dt_s,
            "delay": samples.dt_s,
            "ramp": scale_mw / samples.dt_s,
        }
        size = np.array([sizes[name] for name in self.names])
        low = np.array([-math.inf if name == "offset" else 0.0 for name in self.names])
        low = np.where([name == "ramp" for name in self.names], 1e-9, low)
        high = np.array([samples.dt_s if name == "delay" else math.inf for name in self.names])

        def errors(values: Array) -> Array:
            given = dict(zip(self.names, values * size, strict=True))
            return (samples.p_mw - _predicted(samples, *_all(given))) / scale_mw

        fit = scipy.optimize.least_squares(
            errors,
            np.clip(np.asarray(start, dtype=float) / size, low / size + 1e-12, high / size),
            bounds=(low / size, high / size),
            x_scale="jac",
            method="trf",
        )
        self.values: tuple[float, ...] = tuple(map(float, fit.x * size))
        self.freedom = len(samples) - len(self.names)
        self.sum_of_squares = 2.0 * float(fit.cost) * scale_mw**2
        self.variance = self.sum_of_squares / self.freedom
        n = len(samples)
        error = max(self.sum_of_squares / n, (1e-9 * scale_mw) ** 2)
        self.criterion = n * math.log(error) + len(self.names) * math.log(n)
        slope = np.asarray(fit.jac, dtype=float)
        information = slope.T @ slope
        covariance = np.linalg.pinv(information) * (self.variance / scale_mw**2)
        self._spread = dict(zip(self.names, np.sqrt(np.abs(np.diag(covariance))) * size, strict=True))

    def __getitem__(self, name: str) -> float:
        return dict(zip(self.names, self.values, strict=True)).get(name, math.inf if name == "ramp" else 0.0)

    def estimate(self, name: str, key: str, table: str, note: str = "") -> Estimate:
        """Return a parameter with its interval; one that was not kept is 0, within what it could hide."""
        value = self[name]
        quantile = float(scipy.stats.t.ppf(0.5 + CONFIDENCE / 2.0, self.freedom))
        half = quantile * float(self._spread.get(name, 0.0))
        return Estimate(key, table, value, value - half, value + half, note=note)


def _simplest(fits: Sequence[_Fit]) -> _Fit:
    """Return the fit of the smallest information criterion (Schwarz, 1978); in doubt the simpler one."""
    best = fits[0]
    for fit in fits[1:]:
        if fit.criterion < best.criterion - (STRONG if len(fit.names) > len(best.names) else 0.0):
            best = fit
    return best


def _all(given: dict[str, float]) -> tuple[float, float, float, float]:
    return (
        given.get("offset", 0.0),
        given.get("delay", 0.0),
        given.get("lag", 0.0),
        given.get("ramp", math.inf),
    )


def _predicted(samples: DeviceSamples, offset: float, delay: float, lag: float, ramp: float) -> Array:
    shown = np.empty(len(samples))
    end = 0.0
    for k in range(len(samples)):
        if not samples.follows[k]:
            # Where the device was before is not known: it is taken to be where it was told to be.
            end = float(samples.p_mw[k]) - offset
            shown[k] = samples.p_mw[k]
            continue
        mean, end = mean_and_end(
            end,
            float(samples.target_mw[k]),
            samples.dt_s,
            response_delay_s=delay,
            lag_s=lag,
            ramp_mw_per_s=None if math.isinf(ramp) else ramp,
        )
        shown[k] = mean + offset
    return shown


def _moves(samples: DeviceSamples) -> int:
    changes = np.abs(np.diff(samples.target_mw))[samples.follows[1:]]
    return int(np.count_nonzero(changes > 0.05 * max(float(np.ptp(samples.target_mw)), 1e-9)))


def _seen_ramp(samples: DeviceSamples) -> float:
    """Return the largest change that was measured, MW/s: a ramp can be no less."""
    changes = np.abs(np.diff(samples.p_mw))[samples.follows[1:]]
    return max(float(np.max(changes, initial=0.0)) / samples.dt_s, 1e-9)


def _quantum(p_mw: Array) -> float:
    """Return the step that all measurements are whole multiples of, MW; 0 = none is seen."""
    values = np.unique(np.abs(p_mw[p_mw != 0.0]))
    if len(values) < 4:
        return 0.0
    differences = np.diff(values)
    step = float(np.min(differences[differences > 1e-9 * values[-1]], initial=math.inf))
    step = min(step, float(values[0]))
    for part in (1.0, 2.0, 3.0, 5.0):
        quantum = step / part
        turns = p_mw / quantum
        # By chance each value is this near to a multiple in 2 % of the cases.
        if np.all(np.abs(turns - np.round(turns)) < 0.01) and float(np.max(np.abs(turns))) < 1e6:
            return float(f"{quantum:.6g}")
    return 0.0
