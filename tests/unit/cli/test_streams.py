"""Standard output: that is closed, and whose reader leaves."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
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


def test_where_standard_output_is_closed_a_result_goes_to_standard_error_and_no_file_takes_its_place() -> (
    None
):
    code = """
import sys
from heron_mqtt.cli.streams import guard_streams
out, err = guard_streams()
with open("/dev/null") as file:
    print("the result")
    out.flush()
    err.write(f"{file.fileno() > 2} {out.lost}")
"""
    command = ["sh", "-c", '"$0" -c "$1" >&-', sys.executable, code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == "the result\nTrue it is closed"
