"""Over a broker that keeps nothing for who connects later, what moves hardware is refused."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from pathlib import Path

from support.doc_pages import ROOT
from support.heron_command import run_heron
from support.sunspec_server import BATTERY, EmulatedInverter


def assert_refused(url: str, folder: Path, arguments: Sequence[str], said: str) -> None:
    """A command ends in one line; ``{remote}`` stands for a scenario with a remote agent."""
    remote = folder / "remote.toml"
    text = (ROOT / "config" / "three_microgrids.toml").read_text()
    remote.write_text(text.replace("[microgrids.MG1]", "[microgrids.MG1]\nremote = true", 1))
    ended = run_heron(*(a.format(remote=remote) for a in arguments), "--broker", url)
    assert (ended.code, ended.out, len(ended.errors)) == (2, "", 1)
    assert re.search(said, ended.errors[0])


async def assert_bridge_refused(url: str, said: str) -> None:
    """A bridge to an inverter ends before it has written anything."""
    box = await EmulatedInverter(BATTERY).start()
    words = ["device", "sunspec_bridge", "--agent", "MG1", "--name", "ess", "--env-id", "bridged"]
    words += ["--modbus", f"127.0.0.1:{box.port}", "--broker", url]
    ended = await asyncio.to_thread(run_heron, *words)
    await box.stop()
    assert ended.code == 2
    assert said in ended.errors[-1]
    assert box.writes() == []
