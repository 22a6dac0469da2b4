"""The test of the test: a device that breaks one promise fails just that one, by name."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from heron_mqtt.testing.conformance import ConformanceOptions, ConformanceResult, bench_of, examine_device
from support.broken_devices import COMMAND, DEFECTS, write_broken

FIRST = ("ignores the lease", "has the wrong sign", "accepts a foreign owner", "ignores a malformed stop")
MORE = tuple(name for name in DEFECTS if name not in FIRST)


def examine(defect: str, folder: Path) -> ConformanceResult:
    """Examine one broken device on a bench of its own."""
    folder = folder / defect.replace(" ", "-")
    folder.mkdir()
    script = write_broken(DEFECTS[defect], folder)
    command = [word.replace("{script}", str(script)) for word in COMMAND]
    with bench_of(ConformanceOptions("MG1/ess", command=command, within_s=10.0), None) as bench:
        return examine_device(bench)


def examine_all(defects: Iterable[str], folder: Path) -> dict[str, ConformanceResult]:
    """Examine broken devices side by side: nearly all of the time is waiting."""
    names = list(defects)
    with ThreadPoolExecutor(len(names)) as pool:
        return dict(zip(names, pool.map(lambda name: examine(name, folder), names), strict=True))


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ConformanceResult]:
    return examine_all(FIRST, tmp_path_factory.mktemp("first"))


@pytest.fixture(scope="module")
def more(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ConformanceResult]:
    return examine_all(MORE, tmp_path_factory.mktemp("more"))


def fails_just_its_line(defect: str, result: ConformanceResult) -> None:
    failed = {one.promise.id: one.what for one in result.results if one.verdict == "fail"}
    assert set(failed) == {DEFECTS[defect].promise}, failed
    assert not result.conforms


@pytest.mark.timeout(600)
@pytest.mark.parametrize("defect", FIRST)
def test_a_device_that_breaks_one_promise_fails_just_that(
    defect: str, first: dict[str, ConformanceResult]
) -> None:
    fails_just_its_line(defect, first[defect])


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("defect", MORE)
def test_whatever_else_a_device_breaks_fails_just_that(
    defect: str, more: dict[str, ConformanceResult]
) -> None:
    fails_just_its_line(defect, more[defect])
