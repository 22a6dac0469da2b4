"""Gateway and device in network namespaces of their own: the cable of either is pulled and put back.

Quickly, without a network: a device whose lease runs out is safe (``unit/field/device/test_lease.py`` and
``test_field_device.py``), and one that falls silent is stood in for and driven again
(``unit/field/gateway/test_device_link.py``).
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.heron_command import HERON, Program, until
from support.leases import assert_within_lease
from support.mosquitto_server import executable
from support.namespaces import Network
from support.observer import Observer, PlainDevice
from support.safety_runs import LEASE_S, until_driven, write

pytestmark = pytest.mark.slow

PORT = 1883
PARTITION_S = 4.0


@pytest.fixture
def network() -> Iterator[Network]:
    with Network("gateway", "device") as made:
        yield made


@pytest.fixture
def broker(network: Network, tmp_path: Path) -> Iterator[str]:
    """A mosquitto in the middle; nothing outside these namespaces reaches it."""
    program = executable()
    assert program is not None
    config = tmp_path / "mosquitto.conf"
    config.write_text(f"listener {PORT}\nallow_anonymous true\nset_tcp_nodelay true\nuser root\n")
    with (tmp_path / "mosquitto.log").open("wb") as log:
        process = subprocess.Popen(
            network.command("hub", [program, "-c", str(config)]), stdout=log, stderr=log
        )
    yield f"mqtt://{network.hub_address()}:{PORT}"
    process.terminate()
    process.wait(5)


@pytest.mark.parametrize("cut", ["gateway", "device"])
def test_a_partition_ends_in_the_safe_state_and_the_device_is_driven_again(
    network: Network, broker: str, tmp_path: Path, cut: str
) -> None:
    until(lambda: _listens(broker), "the broker listens")
    scenario = write(tmp_path, steps=150)
    of_device = f"mqtt://{network.hub_address('device')}:{PORT}"
    of_gateway = f"mqtt://{network.hub_address('gateway')}:{PORT}"
    device = network.inside("device", lambda: PlainDevice(of_device, "small"))
    run = [HERON, "run", str(scenario), "--broker", of_gateway, "--json", "--no-record"]
    with Observer(broker) as observer, Program(network.command("gateway", run)) as program:
        until_driven(observer, device)
        network.cut(cut)
        began = time.monotonic()
        until(lambda: device.p_mw == 0.0, "the safe state", LEASE_S + 1.0)
        assert time.monotonic() - began <= LEASE_S + 0.5
        time.sleep(max(0.0, began + PARTITION_S - time.monotonic()))
        assert device.p_mw == 0.0
        network.mend(cut)
        until(lambda: device.p_mw != 0.0, "the device is driven again", 40.0)
        done = program.wait(90.0)
    device.close()
    assert done.code == 0, done.err
    assert done.result["steps"] == 150
    assert done.result["fallbacks"] > 0, "the model stood in, and it is said"
    assert_within_lease(device, LEASE_S)


def _listens(url: str) -> bool:
    try:
        Observer(url).close()
    except OSError:
        return False
    return True
