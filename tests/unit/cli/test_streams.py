"""Standard output: whose reader leaves."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from heron_mqtt.cli.streams import until_reader_leaves


async def test_a_command_that_only_prints_ends_when_the_reader_of_its_pipe_leaves() -> None:
    reading, writing = os.pipe()
    try:
        waiting = asyncio.create_task(until_reader_leaves(writing))
        os.write(writing, b"a line\n")
        await asyncio.sleep(0.02)
        assert not waiting.done()
        os.close(reading)
        await asyncio.wait_for(waiting, 2.0)
    finally:
        os.close(writing)


async def test_a_file_has_no_reader_that_could_leave(tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as file, pytest.raises(TimeoutError):
        await asyncio.wait_for(until_reader_leaves(file.fileno()), 0.02)
