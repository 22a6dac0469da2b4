"""A table of small cases as one test: each test costs 3 ms before it does anything, a row next to nothing."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest

__all__ = ["each_row"]


def each_row(names: str | Sequence[str], rows: Iterable[Any]) -> Callable[[Callable[..., None]], Any]:
    """Have a test called with each row of a table; takes what ``pytest.mark.parametrize`` takes.

    All rows are tried. What fails is told with its row. For quick tests without fixtures of their own: rows
    share what the test is given besides.
    """
    parts = names.split(",") if isinstance(names, str) else names
    wanted = [part.strip() for part in parts if part.strip()]
    is_alone = isinstance(names, str) and len(wanted) == 1
    table = [(row,) if is_alone else tuple(row) for row in rows]
    assert all(len(row) == len(wanted) for row in table), f"a row is not {', '.join(wanted)}"

    def decorated(test: Callable[..., None]) -> Any:
        signature = inspect.signature(test)

        @functools.wraps(test)
        def run(**given: Any) -> None:
            failed: list[BaseException] = []
            for row in table:
                try:
                    test(**given, **dict(zip(wanted, row, strict=True)))
                except (Exception, pytest.fail.Exception) as exc:
                    told = (f"{name} = {value!r}" for name, value in zip(wanted, row, strict=True))
                    exc.add_note(f"row: {', '.join(told)}")
                    failed.append(exc)
            if len(failed) == 1:
                raise failed[0]
            if failed:
                raise BaseExceptionGroup(f"{len(failed)} of {len(table)} rows", failed)

        left = [one for one in signature.parameters.values() if one.name not in wanted]
        run.__signature__ = signature.replace(parameters=left)  # type: ignore[attr-defined]
        return run

    assert table, f"no row of {', '.join(wanted)}"
    return decorated
