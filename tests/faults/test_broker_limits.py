"""What safety depends on is tried before a run begins: a broker that cannot do it is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from support.heron_command import heron
from support.mosquitto_server import Mosquitto
from support.observer import Observer, PlainDevice
from support.safety_runs import run, write


@pytest.fixture
def forgetful(tmp_path: Path, own_mosquitto: Callable[..., Mosquitto]) -> str:
    """A broker that acknowledges what it is tried with, and does not keep it."""
    (tmp_path / "acl").write_text("topic readwrite #\ntopic deny heron/+/run/probe\n")
    return own_mosquitto("allow_anonymous true", f"acl_file {tmp_path / 'acl'}").url


def test_a_broker_that_keeps_nothing_is_refused_before_anything_is_sent(
    tmp_path: Path, forgetful: str
) -> None:
    with Observer(forgetful, ["heron/small/#"]) as observer, PlainDevice(forgetful, "small"):
        ended = run(write(tmp_path), forgetful).wait()
        assert ended.code == 1
        assert "an emergency stop would not reach a device that connects later" in ended.errors[-1]
        assert "--accept-broker-limits" in ended.errors[-1]
        assert observer.setpoints() == []


@pytest.mark.slow
def test_it_is_taken_where_that_is_accepted_and_said(tmp_path: Path, forgetful: str) -> None:
    scenario = write(tmp_path, {"authority": "simulated"}, steps=4)
    with heron("run", str(scenario), "--broker", forgetful, "--accept-broker-limits", "--json") as program:
        ended = program.wait()
    assert "an emergency stop would not reach a device that connects later (accepted)" in ended.err
    assert ended.code == 0, ended.err
