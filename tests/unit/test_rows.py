"""A table as one test fails as its rows would have failed, each for itself."""

from __future__ import annotations

import inspect

import pytest

from support.rows import each_row


def test_it_is_called_with_each_row() -> None:
    seen: list[object] = []

    @each_row(("one", "other"), [(1, 2), (3, 4)])
    @each_row("third", "ab")
    def table(one: int, other: int, third: str, fixture: str) -> None:
        seen.append((one, other, third, fixture))

    assert list(inspect.signature(table).parameters) == ["fixture"]
    table(fixture="f")
    assert seen == [(1, 2, "a", "f"), (1, 2, "b", "f"), (3, 4, "a", "f"), (3, 4, "b", "f")]


def test_one_row_that_fails_is_the_failure_and_is_named() -> None:
    @each_row("one, other", [(1, 1), (1, 2), (3, 3)])
    def table(one: int, other: int) -> None:
        assert one == other

    with pytest.raises(AssertionError) as caught:
        table()
    assert caught.value.__notes__ == ["row: one = 1, other = 2"]


def test_of_several_each_is_told() -> None:
    @each_row("value", [1, None, 2, 0])
    def table(value: int) -> None:
        if value == 2:
            pytest.fail("two")
        with pytest.raises(ZeroDivisionError):
            1 / (value - 1)

    with pytest.raises(BaseExceptionGroup, match="3 of 4 rows") as caught:
        table()
    told = [exc.__notes__ for exc in caught.value.exceptions]
    assert told == [["row: value = None"], ["row: value = 2"], ["row: value = 0"]]


def test_a_table_without_rows_is_a_mistake() -> None:
    with pytest.raises(AssertionError, match="no row of a, b"):
        each_row("a, b", [])
