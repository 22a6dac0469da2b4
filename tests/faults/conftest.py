"""Brokers for the tests of the safety case."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from support.heron_command import heron
from support.mosquitto_server import Mosquitto


@pytest.fixture
def url(request: pytest.FixtureRequest, own_mosquitto: Callable[..., Mosquitto]) -> Iterator[str]:
    """A broker of the test's own: ``mosquitto`` or ``embedded``, as the test is parametrized."""
    if request.param == "mosquitto":
        yield own_mosquitto().url
        return
    with heron("broker", "--port", "0") as program:
        yield program.wait_for("listening").split()[-1]
