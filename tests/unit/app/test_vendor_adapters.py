"""The adapters of a run's vendors' devices: what is said of those that were not handed back."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from types import SimpleNamespace
from typing import Any

from heron_mqtt.app.vendor_adapters import VendorAdapters
from heron_mqtt.field.gateway.hand_back import Unreturned


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
