"""The adapters of a run's vendors' devices: what is said of those that were not handed back."""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack
from types import SimpleNamespace
from typing import Any

import pytest

from heron_mqtt.app.vendor_adapters import VendorAdapters, _ended
from heron_mqtt.errors import Displaced
from heron_mqtt.field.gateway.hand_back import Unreturned
from heron_mqtt.messaging.core.stats import MessageStats


async def test_a_device_that_its_adapter_could_not_hand_back_is_named_and_one_of_a_successor_is_not() -> None:
    anything: Any = SimpleNamespace(options=None)
    async with AsyncExitStack() as stack:
        adapters = VendorAdapters(anything, anything, stack)

    async def serve(name: str) -> None:
        if name == "displaced":
            raise RuntimeError("another one has its name")
        await asyncio.sleep(60.0)

    for name, left in (("stuck", "it was not handed back"), ("taken", None), ("displaced", "still driven")):
        device: Any = SimpleNamespace(label=f"MG1/{name}", left_undone=left)
        adapters._devices["MG1", name] = device
        adapters._tasks["MG1", name] = asyncio.create_task(serve(name), name=name)
    await asyncio.sleep(0)
    await adapters.end()
    assert adapters.unreturned() == {"MG1/stuck": Unreturned("it was not handed back", is_fault=True)}


async def test_an_adapter_that_was_displaced_is_told_in_one_line_and_a_bug_with_its_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def ends(exc: Exception) -> None:
        raise exc

    for exc, has_traceback in ((Displaced("MG1/ess was taken over"), False), (KeyError("p"), True)):
        caplog.clear()
        task = asyncio.create_task(ends(exc))
        await asyncio.wait([task])
        with caplog.at_level(logging.WARNING):
            _ended(MessageStats(), "MG1/ess", task)
        (record,) = caplog.records
        assert "its adapter has ended" in record.getMessage()
        assert bool(record.exc_info) is has_traceback
