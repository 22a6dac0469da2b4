"""Every way by which bytes of others come in takes any bytes: it says no, or goes on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.fuzz_targets import TARGETS, seeds

Edit = tuple[int, int, bytes]


def changed(seed: bytes, edits: list[Edit]) -> bytes:
    """Return a seed in which some bytes are replaced by others, of any number."""
    data = bytearray(seed)
    for at, removed, inserted in edits:
        begin = at % (len(data) + 1)
        data[begin : begin + removed] = inserted
    return bytes(data)


def inputs(target: str) -> st.SearchStrategy[bytes]:
    edit = st.tuples(st.integers(0, 400), st.integers(0, 6), st.binary(max_size=6))
    return st.binary(max_size=300) | st.builds(
        changed, st.sampled_from(seeds(target)), st.lists(edit, max_size=4)
    )


def _try(target: str, examples: int) -> None:
    @settings(max_examples=examples, suppress_health_check=list(HealthCheck))
    @given(inputs(target))
    def run(data: bytes) -> None:
        TARGETS[target](data)

    run()


@pytest.mark.parametrize("target", TARGETS)
def test_what_means_something_is_taken(target: str) -> None:
    for seed in seeds(target):
        TARGETS[target](seed)


@pytest.mark.parametrize("target", TARGETS)
def test_any_bytes_are_taken_or_refused(target: str) -> None:
    _try(target, 8 if target in {"client", "server", "modbus", "nats"} else 20)  # an event loop each


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("target", TARGETS)
def test_many_bytes_are_taken_or_refused(target: str) -> None:
    _try(target, 1_000 if target in {"modbus", "nats"} else 4_000)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_fuzzer_that_is_guided_by_coverage_runs_and_says_what_it_did(tmp_path: Path) -> None:
    script = Path(__file__).parents[2] / "scripts" / "fuzz.py"
    command = [sys.executable, str(script), "payload", "--seconds", "5", "--corpus", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("payload: ok Done ")
    assert len(list((tmp_path / "payload").iterdir())) > 5, "it has found inputs of its own"
