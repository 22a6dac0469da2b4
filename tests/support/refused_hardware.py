"""Over a broker that keeps nothing for who connects later, what moves hardware is refused."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

from support.doc_pages import ROOT
from support.heron_command import run_heron
from support.sunspec_server import BATTERY, EmulatedInverter

REFUSED = {
    "emulated devices": (
        ("run", "--devices", "emulated"),
        "nothing can connect to --broker {url}.*an emergency stop",
    ),
    "hardware": (
        ("run", "hil_battery"),
        "MG1/ess, MG2/ess: cannot be driven over --broker {name}:.*an emergency stop",
    ),
    "a remote agent": (
        ("run", "{remote}"),
        "must be able to connect .*an emergency stop.*use --broker embedded or mqtt",
    ),
    "an agent elsewhere": (("proxy", "{remote}", "--agent", "MG1"), "{keeps}.*use mqtt://host:port"),
    "a device": (("device", "battery", "--agent", "MG1", "--name", "ess"), "{keeps}.*an emergency stop"),
    "a take": (("take", "MG1/ess", "--p-kw", "5", "--for", "1m"), "is no MQTT address"),
    "a stop": (("estop", "on"), "is no MQTT address"),
}
"""What commands are refused over such a broker, and how."""


def assert_refused(url: str, folder: Path, what: str, keeps: str) -> None:
    """A command of ``REFUSED`` ends in one line.

    Args:
        url: Of the broker.
        folder: For a scenario with a remote agent.
        what: Key of the command.
        keeps: What the broker says of itself.
    """
    arguments, said = REFUSED[what]
    said = said.format(url=re.escape(url), name=url.partition("://")[0], keeps=keeps)
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
