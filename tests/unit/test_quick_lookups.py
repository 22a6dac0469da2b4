"""What is looked up once is what would be found again, and ends when it is no longer so."""

from __future__ import annotations

import gc

import pytest
from threadpoolctl import threadpool_info

from powergrid.powerflow import blas
from powergrid.powerflow.blas import SingleThreadedBlas
from support import quick_lookups


def test_the_libraries_found_once_are_those_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        blas,
        "ThreadpoolController",
        getattr(blas.ThreadpoolController, "__wrapped__", blas.ThreadpoolController),
    )
    quick_lookups.look_up_once()
    first, second = SingleThreadedBlas(), SingleThreadedBlas()
    found = {library.filepath for library in first._libraries}
    assert found == {library["filepath"] for library in threadpool_info() if library["user_api"] == "blas"}
    assert blas.ThreadpoolController.cache_info().misses == 1
    assert first._former is not second._former


@pytest.mark.usefixtures("unfrozen")
def test_what_is_frozen_is_not_counted_until_it_is_thawed() -> None:
    assert gc.get_freeze_count() == 0
    quick_lookups.freeze()
    assert gc.get_freeze_count() == 1, "that there is something, is all that is asked"
    gc.unfreeze()
    assert gc.get_freeze_count() == 0
    gc.freeze()
    assert gc.get_freeze_count() > 10_000
    gc.unfreeze()
