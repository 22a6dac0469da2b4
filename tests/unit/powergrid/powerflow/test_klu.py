"""The compiled solver is lightsim2grid's own, whichever is imported first, and brings nothing else along."""

from __future__ import annotations

import subprocess
import sys

import pytest

OURS = "from powergrid.powerflow.klu import NRSing_KLU as ours"
THEIRS = "from lightsim2grid.algorithm import NRSing_KLU as theirs"


def python(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    ).stdout.strip()


@pytest.mark.slow
@pytest.mark.parametrize("first", [OURS, THEIRS])
def test_it_is_the_same_class_whoever_imports_it_first(first: str) -> None:
    assert python(f"{first}\n{OURS}\n{THEIRS}\nprint(ours is theirs)") == "True"


def test_a_power_flow_needs_neither_pandas_nor_most_of_scipy_and_numpy() -> None:
    unneeded = {"pandas", "pandapower", "scipy.linalg", "scipy.signal", "scipy.sparse.linalg"}
    unneeded |= {"numpy.f2py.crackfortran", "numpy.testing._private"}
    assert python(f"import sys, powergrid.envs\nprint({unneeded} & set(sys.modules))") == "set()"
