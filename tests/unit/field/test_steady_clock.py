"""Leases and ages are counted by a clock that goes on while the machine sleeps."""

from __future__ import annotations

import inspect
import sys
import time

import pytest

from heron_mqtt.field.device.field_device import FieldDevice
from heron_mqtt.field.device.lease import DeviceLease
from heron_mqtt.field.gateway import FieldGateway
from heron_mqtt.field.gateway.authority_manager import AuthorityManager
from heron_mqtt.field.gateway.device_link import DeviceLink
from heron_mqtt.field.gateway.environment_watch import EnvironmentWatch
from heron_mqtt.field.gateway.gateway_leases import GatewayLeases
from heron_mqtt.field.gateway.pause_detector import PauseDetector
from heron_mqtt.field.steady_clock import steady_s
from support.rows import each_row


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone has a clock of its own for that")
def test_it_is_the_clock_that_counts_the_time_in_suspend() -> None:
    before, now_s, after = (
        time.clock_gettime(time.CLOCK_BOOTTIME),
        steady_s(),
        time.clock_gettime(time.CLOCK_BOOTTIME),
    )
    assert before <= now_s <= after


@each_row(
    "counts",
    [
        AuthorityManager,
        DeviceLease,
        DeviceLink,
        EnvironmentWatch,
        FieldDevice,
        FieldGateway,
        GatewayLeases,
        PauseDetector,
    ],
)
def test_whatever_counts_a_lease_or_an_age_counts_by_it(counts: type) -> None:
    assert inspect.signature(counts).parameters["monotonic"].default is steady_s
