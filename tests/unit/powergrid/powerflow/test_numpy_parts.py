"""The parts of numpy that are left out while scipy is imported are there as ever afterwards."""

from __future__ import annotations

import subprocess
import sys

import pytest

OURS = "import powergrid.powerflow"
USES = {
    "what scipy has kept": "import scipy._lib.array_api_compat.numpy as xp, numpy; "
    "assert xp.ma.MaskedArray is numpy.ma.MaskedArray and xp.polynomial.Polynomial; print(xp.f2py.__name__)",
    "as an attribute": "import numpy; numpy.testing.assert_allclose(1.0, 1.0); print(numpy.f2py.__name__)",
    "by import": "import numpy.testing; numpy.testing.assert_allclose(1.0, 1.0); print('numpy.f2py')",
    "by from": "from numpy.testing import assert_allclose; assert_allclose(1.0, 1.0); print('numpy.f2py')",
    "a part of it": "from numpy.f2py.crackfortran import crackfortran; print('numpy.f2py')",
    "asked about": "import numpy.f2py, inspect; print(inspect.getmodule(numpy.f2py.run_main).__package__)",
}


def python(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    ).stdout.strip()


@pytest.mark.slow_but("by from")
@pytest.mark.parametrize("use", USES)
def test_it_is_used_as_ever(use: str) -> None:
    assert python(f"{OURS}\n{USES[use]}") == "numpy.f2py"


@pytest.mark.slow
def test_what_was_imported_before_is_left_alone() -> None:
    code = (
        f"import numpy.testing as theirs\n{OURS}\nimport numpy\nprint(numpy.testing is theirs, type(theirs))"
    )
    assert python(code) == "True <class 'module'>"
