"""What a device says counts for what it is: seen from outside, with plain paho on real brokers."""

from __future__ import annotations

import contextlib
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest

from support.observer import Observed, Observer, PlainClient, PlainDevice
from support.safety_runs import DEADLINES, FULL, on_mosquitto, run, until_driven, write
from support.scripted_box import ScriptedBox

PATIENT = {**DEADLINES, "ready_s": 15.0, "device_s": 1.0}
"""Where no fallback may come of a machine that is busy."""


class OfAnotherEpisode(PlainDevice):
    """A device that knows no episodes: what its telemetry says of them means nothing."""

    def say(self, **fields: Any) -> None:
        super().say(**{"episode": 99, "step": 7, **fields})


class Goes(PlainClient):
    """Says that boxes are gone, each a moment after a run has taken its name: while it still connects.

    From then on they say nothing more by which a run could notice it later.
    """

    def __init__(self, url: str, boxes: dict[str, ScriptedBox], delays_s: dict[str, float]) -> None:
        self.gone: set[str] = set()
        self._boxes, self._delays_s = boxes, delays_s
        super().__init__(url, ["heron/small/devices/+/ess/owner"])

    def on_message(self, message: Observed) -> None:
        agent = message.topic.split("/")[3]
        if message.json.get("state") == "holds" and agent not in self.gone:
            self.gone.add(agent)
            time.sleep(self._delays_s[agent])
            self._boxes[agent].is_mute = True
            # One power, so that the run is ready on a quick machine, too: then it goes.
            self.client.publish(f"plant/{agent}/power", b"0.0", qos=1)
            self.client.publish(f"plant/{agent}/there", b"off", qos=1)


class Misread(PlainDevice):
    """Does as it is told, and says another number than it does."""

    def __init__(self, url: str, factor: float) -> None:
        self._factor = factor
        super().__init__(url, "small")

    def say(self, **fields: Any) -> None:
        super().say(**{"p_mw": self._factor * self.p_mw, **fields})


@on_mosquitto
def test_telemetry_is_bound_to_its_device_by_boot_and_number_and_not_by_an_episode(
    tmp_path: Path, url: str
) -> None:
    with (
        Observer(url) as observer,
        OfAnotherEpisode(url, "small") as device,
        run(write(tmp_path, steps=60, deadlines=PATIENT), url) as program,
    ):
        until_driven(observer, device)
        others: list[dict[str, Any]] = [
            {"p_mw": 0.00123, "episode": 99},
            {"p_mw": 0.00123, "episode": 1, "step": 3, "sender": "MG1/ess"},
            {"p_mw": 0.00123, "episode": 99, "boot": device.boot, "seq": 0},
            {"p_mw": 0.00123, "env_id": "elsewhere", "boot": device.boot, "seq": 10**6},
        ]
        for other in others:
            observer.publish(f"{device.base}/telemetry", {"type": "telemetry", **other})
        done = program.wait()
    assert done.code == 0, done.err
    counted = done.result["devices"]["MG1/ess"]
    assert counted["refused"] == len(others)
    assert (counted["fallbacks"], counted["unacknowledged"]) == (0, 0), "its own telemetry counts"
    powers = {m.json["p_ess"] for m in observer.on("agents/MG1/action")}
    assert 0.00123 not in powers


@on_mosquitto
def test_a_box_that_says_offline_while_a_run_connects_is_sent_nothing_until_it_is_back(
    tmp_path: Path, url: str
) -> None:
    """Once, to whoever listens; the broker has kept that the box is there. Three boxes, at three moments."""
    delays_s = {"MG1": 0.0, "MG2": 0.003, "MG3": 0.01}
    always = {"charge_below": -1000.0, "discharge_above": -999.0}
    boxes, changes = {}, {}
    for agent in delays_s:
        base = f"plant/{agent}"
        boxes[agent] = box = ScriptedBox(url, base)
        there = f'[[availability]]\ntopic = "{base}/there"\nonline = ["on"]\noffline = ["off"]\n'
        mapping = tomllib.loads(box.mapping(tmp_path, more=there).read_text())
        ess = {"authority": "full", "mapping": mapping, "gateway": {"gate_steps": 2}, "max_e_mwh": 5.0}
        changes |= {f"microgrids.{agent}.devices.ess.{key}": value for key, value in ess.items()}
        changes[f"microgrids.{agent}.policy"] = always
    scenario = write(tmp_path, {}, deadlines={**DEADLINES, "ready_s": 3.0}, **changes)
    with Goes(url, boxes, delays_s) as goes, Observer(url) as observer, contextlib.ExitStack() as stack:
        for box in boxes.values():
            stack.enter_context(box)
            observer.publish(f"{box.base}/there", b"on", retain=True)
        with run(scenario, url):
            observer.wait("steps", lambda: len(observer.on("run/state")) > 8)
            assert goes.gone == set(delays_s)
            for agent, box in boxes.items():
                assert observer.on(f"devices/{agent}/ess/status")[-1].json["state"] == "offline", agent
                assert _orders(box) == []
                box.is_mute = False
                observer.publish(f"{box.base}/there", b"on")
            for agent, box in boxes.items():
                observer.wait(f"the box of {agent} is driven", lambda box=box: _orders(box))


@on_mosquitto
def test_charge_and_ramp_that_bound_a_setpoint_are_named(tmp_path: Path, url: str) -> None:
    generator = {f"microgrids.MG1.devices.gen.{key}": value for key, value in FULL.items()}
    birth = {"kind": "generator", "p_min_mw": 0.0, "p_max_mw": 0.02}
    with (
        Observer(url) as observer,
        PlainDevice(url, "small", soc=0.1) as battery,
        PlainDevice(url, "small", "MG1/gen", birth=birth) as generator_set,
        run(write(tmp_path, **generator), url),
    ):
        for name in ("bound_ess", "bound_gen"):
            observer.wait(
                name, lambda name=name: any("state of charge or ramp" in why for why in _said(observer, name))
            )
        assert max(abs(m.json["p_mw"]) for m in observer.setpoints()) <= 1e-9, "it is empty"
        assert battery.p_mw == 0.0
        assert generator_set.p_mw > 0.0


@pytest.mark.slow_but("-1.0")
@pytest.mark.parametrize(("factor", "suspect"), [(-1.0, "the sign?"), (1e-3, "kW for W, a factor of 1,000?")])
@on_mosquitto
def test_a_wrong_sign_or_unit_is_named_after_three_setpoints(
    tmp_path: Path, url: str, factor: float, suspect: str
) -> None:
    with (
        Observer(url) as observer,
        Misread(url, factor),
        run(write(tmp_path, steps=20), url) as program,
    ):
        program.wait_for("3 times in a row: is it")
        told = [m for m in observer.driving() if not m.json.get("renewal")]
        assert 3 <= len(told) <= 6, "three, and what has left since"
        done = program.wait()
    lines = [line for line in done.err.splitlines() if "3 times in a row: is it" in line]
    assert [suspect in line and "MG1/ess" in line for line in lines] == [True], "said once"


def _said(observer: Observer, field: str) -> list[str]:
    return [m.json[field] for m in observer.on("agents/MG1/action") if field in m.json]


def _orders(box: ScriptedBox) -> list[str]:
    return [text for topic, text in box.told if topic.endswith("/set")]
