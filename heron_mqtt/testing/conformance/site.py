"""Sets up a bench: a device's program at a broker of the kit's own, or a device that is there already."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

from heron_mqtt.errors import ConfigError, NotReady
from heron_mqtt.messaging.urls import parse_url
from heron_mqtt.testing.conformance.bench import ConformanceBench
from heron_mqtt.testing.conformance.promises import PROMISES
from heron_mqtt.testing.conformance.serve import device_class, serving_command, serving_environment
from heron_mqtt.testing.device_harness import TOLERANCE, CheckFailed, DeviceHarness
from heron_mqtt.testing.device_process import DeviceProcess, fill_in
from heron_mqtt.testing.embedded_server import EmbeddedServer

DEFAULT_ENV = "conformance"
SETTLE_S = 0.5  # for a stop and a run that the broker keeps to be heard


@dataclass(frozen=True, slots=True)
class ConformanceOptions:
    """What is examined, and how.

    Attributes:
        device: ``AGENT/DEVICE``.
        broker: Where the device is, or its program connects to; None = an embedded broker of the kit's own.
        env_id: The environment on the wire.
        command: The device's program with placeholders; empty = it runs already.
        class_name: ``MODULE:CLASS`` of a ``FieldDevice`` in its place; None = none.
        only: Names of promises; None = all.
        max_p_mw: Largest power that may be asked for, MW; None = the nameplate.
        min_p_mw: Smallest power beside 0 that it can hold, MW; None = any.
        within_s: How long it may take for anything, s.
        dt_s: Simulated time of each setpoint, s, for an emulated device that ramps; None = none.
        settle_s: How long its output may move after an answer, s.
        tolerance: Allowed error of its power, as a part of the nameplate.
        ramp_mw_per_s: Its ramp, MW/s; None = not named.
        requires_proof: It is set to refuse setpoints without an echo.
    """

    device: str
    broker: str | None = None
    env_id: str = DEFAULT_ENV
    command: Sequence[str] = ()
    class_name: str | None = None
    only: Collection[str] | None = None
    max_p_mw: float | None = None
    min_p_mw: float | None = None
    within_s: float = 5.0
    dt_s: float | None = None
    settle_s: float = 0.0
    tolerance: float = TOLERANCE
    ramp_mw_per_s: float | None = None
    requires_proof: bool = False

    @property
    def is_started_here(self) -> bool:
        """Whether the kit starts the device; else something real may be there."""
        return bool(self.command) or self.class_name is not None

    def check(self) -> None:
        """Raise ``ConfigError`` with one line for each option that is wrong."""
        problems = []
        agent, _, name = self.device.partition("/")
        if not agent or not name or "/" in name:
            problems.append(f"--device {self.device}: expected AGENT/DEVICE, for example MG1/ess")
        if self.command and self.class_name is not None:
            problems.append("--class and a command line: one or the other")
        if self.broker is None and not self.is_started_here:
            problems.append(
                "--broker: where is the device? Expected mqtt://host:port, --class, or -- and a command line"
            )
        if self.broker is not None:
            parse_url(self.broker)
        known = [promise.id for promise in PROMISES]
        unknown = [name for name in self.only or () if name not in known]
        if unknown:
            problems.append(f"--only {unknown[0]}: no such promise; expected {', '.join(known)}")
        positive = {
            "--max-power": (self.max_p_mw, 1e6),
            "--within": (self.within_s, 3600.0),
            "--ramp": (self.ramp_mw_per_s, 1e6),
            "--min-power": (self.min_p_mw, 1e6),
            "--dt": (self.dt_s, 86_400.0),
        }
        for option, (value, most) in positive.items():
            if value is not None and not 0.0 < value <= most:
                problems.append(f"{option} {value:g}: expected a number above 0, at most {most:g}")
        if not 0.0 <= self.settle_s <= 3600.0:
            problems.append(f"--settle {self.settle_s:g}: expected seconds, 0 to 3600")
        if not 0.0 < self.tolerance <= 0.2:
            problems.append(f"--tolerance {self.tolerance:g}: expected a part of the nameplate, up to 0.2")
        if problems:
            raise ConfigError(*problems)
        if self.class_name is not None:
            device_class(self.class_name)


@contextlib.contextmanager
def bench_of(options: ConformanceOptions, ask: Callable[[str], None] | None) -> Iterator[ConformanceBench]:
    """Set a bench up, and take it down again.

    Args:
        options: What is examined.
        ask: Asks a person to do something by hand; None = no person is there.

    Raises:
        ConfigError: An option is wrong, or a program cannot be started.
        BrokerError: The broker is not there.
        NotReady: The device is not there, or is not free.
    """
    options.check()
    agent_id, _, name = options.device.partition("/")
    with contextlib.ExitStack() as stack:
        broker = None
        url = options.broker
        if url is None:
            broker = EmbeddedServer().start()
            stack.callback(broker.stop)
            url = broker.url
        harness = stack.enter_context(
            DeviceHarness(
                url,
                env_id=options.env_id,
                agent_id=agent_id,
                name=name,
                within_s=options.within_s,
                dt_s=options.dt_s,
                settle_s=options.settle_s,
                tolerance=options.tolerance,
                bound_mw=options.max_p_mw,
                least_mw=options.min_p_mw or 0.0,
                is_bounded=not options.is_started_here,
                requires_proof=options.requires_proof,
            )
        )
        program = None
        if options.is_started_here:
            command, environment = options.command, None
            if options.class_name is not None:
                command, environment = serving_command(options.class_name), serving_environment()
            names = {"env_id": options.env_id, "agent_id": agent_id, "name": name}
            words = fill_in(command, url=url, **names)
            program = stack.enter_context(DeviceProcess(words, environment=environment))
        else:
            _is_free(harness)
        bench = ConformanceBench(harness, program, broker, ask, options.ramp_mw_per_s)
        yield bench


def _is_free(harness: DeviceHarness) -> None:
    """Make sure that the device is there, that no run drives it, and that no stop is in force.

    Raises:
        NotReady: Says what is in the way.
    """
    try:
        harness.birth()
    except CheckFailed:
        raise NotReady(
            f"{harness.label}: nothing was born on {harness.topic('status')} at {harness.address} within "
            f"{harness.within_s:g} s; is it running, and is --env-id right?"
        ) from None
    harness.pause(SETTLE_S)
    status = harness.heard("status")[-1].json
    if status.get("state") != "online":
        raise NotReady(f"{harness.label}: it says {status.get('state')!r}; expected it online")
    runs = harness.heard_on(harness.run_topic)
    if runs and runs[-1].json.get("state") in {"reset", "running"}:
        raise NotReady(
            f"environment {harness.env_id}: a run is in it; end it, or name another --env-id: the checks "
            "drive the device and press the environment's emergency stop"
        )
    stops = harness.heard_on(harness.estop_topic)
    if stops and stops[-1].payload and stops[-1].json.get("active") is not False:
        raise NotReady(
            f"environment {harness.env_id}: an emergency stop is in force; who pressed it releases it: "
            f"heron-mqtt estop off --broker {harness.address} --env-id {harness.env_id}"
        )
