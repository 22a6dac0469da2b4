"""Birth and telemetry of a device: what it says without being asked."""

from __future__ import annotations

import itertools

from heron_mqtt.json_object import Json
from heron_mqtt.testing.device_harness import DeviceHarness, need


def check_birth(device: DeviceHarness) -> None:
    """The birth is retained, names kind and limits, and has the boot of the telemetry."""
    device.birth()
    with device.late_one() as late:
        birth = late.wait_for(late.topic("status"), lambda m: m.get("state") == "online", "the birth")
    told = birth.json
    need(birth.retained, "the birth must be retained: a gateway that starts later must receive it")
    need(isinstance(told.get("kind"), str), f"the birth must say the kind: {told}")
    need(told["p_min_mw"] <= 0.0 <= told["p_max_mw"], f"0 MW must be within the nameplate: {told}")
    _is_fraction(told)
    need(told.get("boot") == device.next_telemetry().get("boot"), "birth and telemetry differ in `boot`")


def _is_fraction(told: Json) -> None:
    soc = told.get("soc")
    is_number = isinstance(soc, int | float) and not isinstance(soc, bool)
    need(soc is None or (is_number and 0.0 <= soc <= 1.0), f"`soc` is a part of 1, not of 100: {told}")


def check_telemetry_is_numbered_and_periodic(device: DeviceHarness) -> None:
    """Telemetry comes without being asked for, each with the next number of one boot."""
    device.birth()
    mark = device.now
    device.until(lambda: len(device.heard("telemetry", mark)) >= 2, "telemetry without a setpoint")
    said = [message.json for message in device.heard("telemetry")[-3:]]
    need(len({m["boot"] for m in said}) == 1, f"`boot` changes without a start: {said}")
    steps = [b["seq"] - a["seq"] for a, b in itertools.pairwise(said)]
    need(steps == [1, 1], f"`seq` must rise by one: {said}")
    need(not any(m.retained for m in device.heard("telemetry")), "telemetry must not be retained")
    for one in said:
        _is_fraction(one)


def check_telemetry_follows_the_lease(device: DeviceHarness) -> None:
    """While a lease is held, at least three messages of telemetry a lease beside the answer."""
    device.make_free()
    sender = device.sender()
    sender.do(device.part_mw(0.4), lease_s=4.0)  # so long that a busy machine is not blamed on the device
    mark = device.now
    device.pause(3.8)
    while_held = device.heard("telemetry", mark)
    need(len(while_held) >= 3, f"{len(while_held)} messages in 3.8 s of a lease of 4 s; expected at least 3")
    sender.release()
