"""Which tests of a file are to run: what many of them share is prepared for those alone."""

from __future__ import annotations

import pytest


def selected(request: pytest.FixtureRequest, parameter: str) -> list[str]:
    """Return the values, each once, that a parameter has in the tests of this file that are to run."""
    found: dict[str, None] = {}
    for item in request.session.items:
        if item.path == request.path and isinstance(item, pytest.Function) and hasattr(item, "callspec"):
            value = item.callspec.params.get(parameter)
            if value is not None:
                found[value] = None
    return list(found)
