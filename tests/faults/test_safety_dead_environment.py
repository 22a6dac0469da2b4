"""Nothing is renewed for the dead: attacked from outside, with plain paho on real brokers."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from support.mosquitto_server import Mosquitto
from support.observer import Observer, PlainDevice
from support.safety_runs import (
    LEASE_S,
    proxy,
    run,
    until_driven,
    write,
)


@pytest.mark.parametrize(
    ("url", "how"),
    [
        ("mosquitto", signal.SIGKILL),
        ("mosquitto", signal.SIGSTOP),
        ("embedded", signal.SIGKILL),
        pytest.param("embedded", signal.SIGSTOP, marks=pytest.mark.slow),
    ],
    indirect=["url"],
)
def test_nothing_is_sent_or_renewed_for_a_dead_environment(
    tmp_path: Path, url: str, how: signal.Signals
) -> None:
    scenario = write(tmp_path, **{"microgrids.MG1.remote": True})
    with (
        Observer(url) as observer,
        PlainDevice(url, "small") as device,
        proxy(scenario, url),
        run(scenario, url) as environment,
    ):
        until_driven(observer, device)
        os.kill(environment.pid, how)
        died = time.monotonic()
        time.sleep(3.5 * LEASE_S)
        late = observer.setpoints(after=died + LEASE_S)
        assert late == [], "one lease after the last sign of life nothing is sent any more"
        assert device.p_mw == 0.0
        went_safe = device.power[-1][0]
        assert went_safe - died <= LEASE_S + 0.3
        if how is signal.SIGSTOP:
            os.kill(environment.pid, signal.SIGCONT)


def test_environment_and_broker_die_together_and_the_broker_returns(
    tmp_path: Path, own_mosquitto: Callable[..., Mosquitto]
) -> None:
    server = own_mosquitto()
    scenario = write(tmp_path, **{"microgrids.MG1.remote": True})
    with (
        Observer(server.url) as observer,
        PlainDevice(server.url, "small") as device,
        proxy(scenario, server.url),
        run(scenario, server.url) as environment,
    ):
        until_driven(observer, device)
        server.kill()
        environment.process.kill()
        died = time.monotonic()
        time.sleep(0.3)
        server.start()
        time.sleep(3.0 * LEASE_S)
        assert observer.setpoints(after=died + LEASE_S) == []
        assert device.p_mw == 0.0
        assert device.power[-1][0] - died <= LEASE_S + 0.3
