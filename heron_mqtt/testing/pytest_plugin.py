"""The pytest plugin: fixtures for brokers, microgrids, devices and records, and budgets by marker.

It is loaded by name in every pytest run of an environment that has this package. So it imports no other
module of the package before a fixture is used. docs/testing-your-controller.md shows each of them.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from heron_mqtt.messaging.base import MessageBroker
    from heron_mqtt.testing.device_harness import DeviceHarness
    from heron_mqtt.testing.plugin.brokers import BrokerForTests, BrokersForTests
    from heron_mqtt.testing.plugin.faults import FaultInjector
    from heron_mqtt.testing.plugin.runs import RecordedRun
    from powergrid.envs import MultiAgentMicrogrids

MARKERS = (
    "budget(fallbacks=, missed=, lost=, overruns=, p99_ms=, max_ms=): fail the test, with numbers, if what "
    "its runs and environments did is more than that",
    "mqtt_broker(kind): embedded, mosquitto or a URL, for this test, in place of --mqtt-broker",
)
MEASURED = pytest.StashKey[Any]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("heron-mqtt")
    group.addoption(
        "--mqtt-broker",
        default="embedded",
        metavar="BROKER",
        help="embedded (the default), mosquitto, or mqtt://host:port: what the fixture mqtt_broker is",
    )
    group.addoption(
        "--signal-plots", metavar="DIR", help="write a plot (SVG) of each assertion on a signal that failed"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Declare the markers."""
    for marker in MARKERS:
        config.addinivalue_line("markers", marker)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Refuse a budget for something that is not measured, before the test runs."""
    if item.get_closest_marker("budget") is not None:
        from heron_mqtt.testing.plugin.budgets import Measured, limits_of

        item.stash[MEASURED] = Measured()
        limits_of(item)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Compare a test that has passed with its budget."""
    yield
    measured = item.stash.get(MEASURED, None)
    if measured is not None:
        from heron_mqtt.testing.plugin.budgets import limits_of

        over = measured.over(limits_of(item))
        if over:
            pytest.fail("\n".join(over), pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Write the plot of an assertion on a signal that failed, where plots are asked for."""
    report = yield
    svg = getattr(call.excinfo.value, "svg", None) if call.excinfo is not None else None
    folder = item.config.getoption("--signal-plots")
    if isinstance(svg, str) and folder:
        from heron_mqtt.testing.plugin.plots import write_plot

        report.sections.append(("plot of the signal", write_plot(folder, item.nodeid, svg)))
    return report


# -- fixtures ------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def _mqtt_brokers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokersForTests]:
    """The brokers of this process: each kind is started when it is first asked for, and ended at the end."""
    from heron_mqtt.testing.plugin.brokers import BrokersForTests

    brokers = BrokersForTests(tmp_path_factory)
    yield brokers
    brokers.close()


@pytest.fixture
def mqtt_broker(request: pytest.FixtureRequest, _mqtt_brokers: BrokersForTests) -> BrokerForTests:
    """An MQTT broker; ``url``, ``env_id`` (the test's own topic prefix), ``connect()``.

    One process a session (with xdist: one a worker), which all tests share: each has topics of its own.
    """
    from heron_mqtt.testing.plugin.brokers import asked_for

    return _mqtt_brokers.get(*asked_for(request.node))


@pytest.fixture
def microgrids(request: pytest.FixtureRequest) -> Iterator[Callable[..., MultiAgentMicrogrids]]:
    """Makes environments, closed at the end of the test: ``microgrids("three_microgrids", over="mqtt")``.

    ``over``: ``centralized`` (direct calls, the default), ``memory`` or ``mqtt`` (the test's broker), or a
    ``MessageBroker``. Everything else is a key of ``MultiAgentMicrogrids``.
    """
    from heron_mqtt.testing.plugin.environments import EnvironmentMaker

    maker = EnvironmentMaker(request, request.node.stash.get(MEASURED, None))
    yield maker.make
    maker.close()


@pytest.fixture
def impaired() -> Callable[..., MessageBroker]:
    """Puts an impaired network around a broker: ``impaired(broker, "lte_poor", seed=1)``."""
    from heron_mqtt.testing.plugin.environments import impair

    return impair


@pytest.fixture
def device_harness(
    request: pytest.FixtureRequest,
) -> Iterator[Callable[..., DeviceHarness]]:
    """Starts a device at the test's broker and watches it with plain paho.

    ``device_harness("MG1/ess", command=["python", "my_device.py", "{broker}", "{env}"])``, or
    ``class_name="my_device:Inverter"``, or neither: it is started elsewhere.
    """
    from heron_mqtt.testing.plugin.devices import HarnessMaker

    maker = HarnessMaker(request)
    yield maker.make
    maker.close()


@pytest.fixture
def manual_clock() -> Any:
    """A clock that stands until ``manual_clock.advance(seconds)``; call it for the time, s.

    For everything that takes ``monotonic=``, as ``FieldDevice`` does.
    """
    from heron_mqtt.testing.manual_clock import ManualClock

    return ManualClock()


@pytest.fixture
def recorded_run(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., RecordedRun]:
    """Runs a scenario and gives its record: ``recorded_run("mine.toml", steps=24, network="lte_poor")``.

    The keywords are those of ``heron-mqtt run``. ``.summary``, ``.path``, ``.signals()``. The same run is
    made once a session.
    """
    from heron_mqtt.testing.plugin.runs import RunMaker

    return RunMaker(request.config, tmp_path_factory, request.node.stash.get(MEASURED, None)).make


@pytest.fixture
def inject(mqtt_broker: BrokerForTests) -> Iterator[FaultInjector]:
    """Disturbs what runs at the test's broker: ``fault``, ``garbage``, ``stop``, ``release``."""
    from heron_mqtt.testing.plugin.faults import FaultInjector

    with FaultInjector(mqtt_broker.url, mqtt_broker.env_id) as injector:
        yield injector
