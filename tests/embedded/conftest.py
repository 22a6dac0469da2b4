"""Fixtures: the embedded broker, and the brokers it is compared with."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from heron_mqtt.messaging.embedded import EmbeddedBroker
from support.other_brokers import Target, mosquitto, stock_amqtt

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


@pytest.fixture(scope="session")
def mosquitto_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    if shutil.which("mosquitto") is None and not Path("/usr/sbin/mosquitto").exists():
        pytest.skip("mosquitto is not installed")
    with mosquitto(tmp_path_factory.mktemp("mosquitto"), "sys_interval 1") as port:
        yield port


@pytest.fixture(scope="module")
def stock_port() -> Iterator[int]:
    with stock_amqtt() as port:
        yield port


@pytest.fixture
async def embedded() -> AsyncIterator[EmbeddedBroker]:
    async with EmbeddedBroker(in_process=True) as broker:
        yield broker


@pytest.fixture(params=["embedded", "mosquitto"])
def broker(request: pytest.FixtureRequest) -> Target:
    """Ours, and mosquitto: a second opinion on what the test expects."""
    if request.param == "embedded":
        return Target("embedded", request.getfixturevalue("embedded").port)
    return Target("mosquitto", request.getfixturevalue("mosquitto_port"))
