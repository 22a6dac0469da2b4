"""The test of the test: a device that breaks one promise fails just that one, by name."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from heron_mqtt.testing.conformance import (
    ConformanceBench,
    ConformanceOptions,
    ConformanceResult,
    bench_of,
    examine_device,
)
from heron_mqtt.testing.device_checks.lease_owners import check_lease_is_told
from heron_mqtt.testing.device_checks.stops import check_stop_in_a_ramp
from support.broken_devices import ALLOWED, COMMAND, DEFECTS, MISWRITTEN, RAMP_MW_PER_S, write_broken
from support.selection import selected

FIRST = (
    "ignores the lease",
    "has the wrong sign",
    "accepts a foreign owner",
    "ignores a malformed stop",
    "charges on in a stop",
)


def bench(defect: str, folder: Path) -> AbstractContextManager[ConformanceBench]:
    """Start one changed device on a bench of its own."""
    folder = folder / defect.replace(" ", "-")
    folder.mkdir()
    changed = (DEFECTS | ALLOWED | MISWRITTEN)[defect]
    command = [word.replace("{script}", str(write_broken(changed, folder))) for word in COMMAND]
    ramp = changed.ramp_mw_per_s
    settle_s = 0.0 if ramp is None else 5.0
    options = ConformanceOptions(
        "MG1/ess", command=command, within_s=10.0, settle_s=settle_s, ramp_mw_per_s=ramp
    )
    return bench_of(options, None)


def examine(defect: str, folder: Path, only: Collection[str] | None) -> ConformanceResult:
    """Examine one broken device."""
    with bench(defect, folder) as broken:
        return examine_device(broken, only=only)


def examine_all(
    defects: Iterable[str], folder: Path, only: Collection[str] | None = None
) -> dict[str, ConformanceResult]:
    """Examine broken devices side by side: nearly all of the time is waiting."""
    names = list(defects)
    with ThreadPoolExecutor(len(names)) as pool:
        return dict(zip(names, pool.map(lambda name: examine(name, folder, only), names), strict=True))


@pytest.fixture(scope="module")
def first(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, ConformanceResult]:
    """Some broken devices, asked for the promises that they break, and for nothing else."""
    names = [name for name in FIRST if name in selected(request, "defect")]
    return examine_all(names, tmp_path_factory.mktemp("first"), {DEFECTS[name].promise for name in names})


@pytest.fixture(scope="module")
def every(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, ConformanceResult]:
    return examine_all(selected(request, "defect"), tmp_path_factory.mktemp("every"))


ALSO = {
    "accepts a copy": ["stop"],
    "accepts a replay": ["long-lease", "owner"],
    "takes the lease from the arrival": ["long-lease"],
    "lets the stale take over": ["owner"],
    "takes an old release": ["stop-stays"],
}
"""Promises that such a device breaks, too.

A long lease also ends by the telemetry that is echoed, and a stale takeover is one. An old release ends a
stop, and a copy may come after one.
"""


def fails_just_its_line(defect: str, result: ConformanceResult) -> None:
    failed = {one.promise.id: one.what for one in result.results if one.verdict == "fail"}
    broken = DEFECTS[defect].promise
    assert broken in failed, failed
    assert set(failed) <= {broken, *ALSO.get(defect, ())}, failed
    assert not result.conforms


@pytest.mark.timeout(600)
@pytest.mark.slow_but("ignores the lease", "ignores a malformed stop")
@pytest.mark.parametrize("defect", FIRST)
def test_of_a_few_promises_a_device_fails_the_one_that_it_breaks(
    defect: str, first: dict[str, ConformanceResult]
) -> None:
    fails_just_its_line(defect, first[defect])


def test_a_device_may_hold_its_lease_itself_during_a_stop(tmp_path: Path) -> None:
    with bench("holds its lease itself during a stop", tmp_path) as allowed:
        allowed.make_ready()
        check_lease_is_told(allowed.harness)


def test_a_device_may_take_the_time_of_its_ramp_to_stop(tmp_path: Path) -> None:
    with bench("rises and falls by a ramp", tmp_path) as allowed:
        allowed.make_ready()
        check_stop_in_a_ramp(allowed.harness, RAMP_MW_PER_S)


@pytest.mark.slow_but("says its limits as texts")
@pytest.mark.parametrize(
    ("defect", "complaint"),
    [
        ("says its limits as texts", "not a valid status: p_min_mw: Input should be a valid number, got '"),
        ("says a limit as null", "a message of the device lacks 'p_max_mw'; "),
        ("says its numbers as texts", "not a valid telemetry: seq: Input should be a valid integer, got '"),
    ],
)
def test_a_field_that_is_missing_or_of_another_type_fails_its_promise_and_ends_nothing(
    defect: str, complaint: str, tmp_path: Path
) -> None:
    promise = MISWRITTEN[defect].promise
    failed = [one for one in examine(defect, tmp_path, {promise}).results if one.verdict == "fail"]
    assert [(one.promise.id, one.what[: len(complaint)]) for one in failed] == [(promise, complaint)]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("defect", DEFECTS)
def test_a_device_that_breaks_one_promise_fails_just_that(
    defect: str, every: dict[str, ConformanceResult]
) -> None:
    fails_just_its_line(defect, every[defect])
