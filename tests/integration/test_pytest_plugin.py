"""The pytest plugin, as the tests of another project use it."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from heron_mqtt.testing.manual_clock import ManualClock
from support.heron_command import script
from support.mosquitto_server import executable

pytest_plugins = ["pytester"]

PLUGIN = ("-p", "heron_mqtt.testing.pytest_plugin", "-p", "no:cacheprovider")
RUN_PYTEST = """
import os, sys
os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
import pytest

sys.exit(pytest.main(sys.argv[1:]))
"""


def plugin() -> tuple[str, ...]:
    """Name the plugin where what is installed here does not yet."""
    known = any(point.value == PLUGIN[1] for point in entry_points(group="pytest11"))
    return PLUGIN[2:] if known else PLUGIN


@pytest.fixture(autouse=True)
def elsewhere(pytester: pytest.Pytester) -> None:
    """Nothing of this repository's configuration is in the way."""
    pytester.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function\n")


def run(pytester: pytest.Pytester, text: str, *more: str) -> pytest.RunResult:
    """Run a file of tests in a process of its own, with no other plugin: to import them takes longer."""
    pytester.makepyfile(text)
    program = pytester.path / "run_pytest.py"
    program.write_text(RUN_PYTEST)
    with script(program, *PLUGIN, *more, cwd=pytester.path) as process:
        done = process.wait(110.0)
    print(done.out, done.err)
    return pytest.RunResult(done.code, done.out.splitlines(), done.err.splitlines(), 0.0)


def test_a_broker_is_one_process_a_session_with_topics_of_its_own_for_each_test(
    pytester: pytest.Pytester,
) -> None:
    result = run(
        pytester,
        """
        import asyncio
        seen = []

        async def hears(place, channel):
            async with place.connect() as broker:
                await broker.publish(channel, {"v": 1}, retain=True)
            async with place.connect() as late:
                return await asyncio.wait_for(late.consume(channel), 10)

        def test_one(mqtt_broker):
            seen.append(mqtt_broker)
            assert asyncio.run(hears(mqtt_broker, "room/t"))["v"] == 1
            assert mqtt_broker.topic("room/t") == f"heron/{mqtt_broker.env_id}/room/t"

        def test_two(mqtt_broker):
            assert mqtt_broker.url == seen[0].url
            assert mqtt_broker.env_id != seen[0].env_id

            async def is_empty():
                async with mqtt_broker.connect() as broker:
                    try:
                        await asyncio.wait_for(broker.consume("room/t"), 0.3)
                    except TimeoutError:
                        return True
            assert asyncio.run(is_empty())
        """,
    )
    result.assert_outcomes(passed=2)


@pytest.mark.slow
def test_mosquitto_where_asked_by_option_or_marker_and_a_wrong_broker_is_said(
    pytester: pytest.Pytester,
) -> None:
    if executable() is None:
        pytest.skip("mosquitto is not installed (Debian: apt install mosquitto)")
    text = """
        import pytest

        @pytest.mark.mqtt_broker("mosquitto")
        def test_marked(mqtt_broker, device_harness):
            device_harness().publish(mqtt_broker.topic("x"), "1")

        def test_of_the_option(mqtt_broker):
            assert mqtt_broker.url == "mqtt://127.0.0.1:1"
        """
    run(pytester, text, "--mqtt-broker", "mqtt://127.0.0.1:1").assert_outcomes(passed=2)
    wrong = run(pytester, text, "--mqtt-broker", "rabbit", "-k", "option")
    wrong.stdout.fnmatch_lines(["*--mqtt-broker: 'rabbit' is no MQTT address*"])


def test_microgrids_in_every_mode_count_for_the_budget(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
        import pytest

        @pytest.mark.budget(fallbacks=0, missed=0, lost=0, p99_ms=60_000)
        @pytest.mark.parametrize("over", ["centralized", "memory", "mqtt"])
        def test_steps(microgrids, over):
            env = microgrids(over=over, max_episode_steps=2)
            env.reset(seed=0)
            while env.agents:
                env.step({})

        @pytest.mark.budget(missed=0)
        def test_late(microgrids, impaired):
            from heron_mqtt.messaging.memory import InMemoryBroker
            broker = impaired(InMemoryBroker(), "satellite", seed=1)
            env = microgrids({"deadlines": DEADLINES, **SMALL}, over=broker, max_episode_steps=2)
            env.reset(seed=0)
            env.step({})

        @pytest.mark.budget(p99_ms=0.000001)
        def test_slow(microgrids):
            env = microgrids(max_episode_steps=1)
            env.reset(seed=0)
            env.step({})

        @pytest.mark.budget(fallbacks=0)
        def test_nothing(): ...

        @pytest.mark.budget(falbacks=0)
        def test_misspelt(microgrids): ...

        from powergrid.scenario import load_scenario
        SMALL = load_scenario("three_microgrids").scenario.model_dump(exclude_none=True)
        DEADLINES = SMALL.pop("deadlines") | {"upstream_s": 0.02, "peer_s": 0.02}
        """,
    )
    result.assert_outcomes(passed=3, failed=3, errors=1)
    result.stdout.fnmatch_lines(
        [
            "*budget: * missed deadlines in 1 steps, allowed 0",
            "*budget: p99_ms is * ms over 1 steps, allowed 1e-06 ms",
            "*budget: nothing was measured*",
        ]
    )
    result.stdout.fnmatch_lines(
        ["*budget(falbacks=...): expected fallbacks, missed, lost, overruns, p99_ms*"]
    )


@pytest.mark.slow
def test_a_recorded_run_is_made_once_and_has_signals_whose_failure_is_plotted(
    pytester: pytest.Pytester,
) -> None:
    result = run(
        pytester,
        """
        import pytest
        from heron_mqtt.testing.signals import stays_inside
        OPTIONS = dict(steps=4, broker="memory")

        @pytest.mark.budget(fallbacks=0, missed=0)
        def test_within(recorded_run):
            run = recorded_run(**OPTIONS)
            assert run.summary["steps"] == 4
            assert recorded_run(**OPTIONS) is run
            with run.signals() as signals:
                stays_inside(signals.device("MG1/ess", "soc"), 0.0, 1.0)
                stays_inside(signals.agent("MG1", "vm_min_pu"), 0.5, 1.5)
                stays_inside(signals.price(), -1e6, 1e6)

        def test_beyond(recorded_run):
            with recorded_run(**OPTIONS).signals() as signals:
                stays_inside(signals.device("MG1/ess", "soc"), 0.0, 0.1)
        """,
        "--signal-plots",
        "plots",
    )
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        ["*MG1/ess soc: stays inside 0 .. 0.1, from 0 to 2700 s: 0.* at 0 s is above 0.1*"]
    )
    (plot,) = (pytester.path / "plots").iterdir()
    assert plot.read_text().startswith("<svg")


def test_a_device_is_started_watched_disturbed_and_ended(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
        from heron_mqtt.testing.signals import reaches_safe_within, telemetry_signal

        def test_device(device_harness, inject):
            where = "--agent {agent} --name {device} --broker {broker} --env-id {env} --period 0.1"
            words = ["{python}", "-m", "heron_mqtt", "device", "battery", *where.split()]
            device = device_harness("MG1/ess", command=words)
            mark = device.now
            device.sender().do(0.02)
            inject.stop()
            device.telemetry(device.is_safe, "the safe state", mark + 1)
            inject.release()
            inject.garbage("devices/MG1/ess/setpoint")
            sender = device.sender()
            sender.do(0.02)
            sender.release()
            inject.fault("MG1/ess", "reject_setpoints", steps=5)
            assert "fault on demand" in device.sender().refused(0.02)
            signal = telemetry_signal(device, since=mark, longest_gap_s=30.0)
            assert {0.0, 0.02} <= set(signal.values)
        """,
    )
    result.assert_outcomes(passed=1)


def test_a_test_that_disturbs_or_watches_nothing_does_not_pass(pytester: pytest.Pytester) -> None:
    """A device that is not there cannot misbehave, and a program that has ended is not waited for."""
    result = run(
        pytester,
        """
        import pytest
        from heron_mqtt.errors import ConfigError, NotReady
        from heron_mqtt.testing.device_harness import CheckFailed

        def test_it(device_harness, inject):
            with pytest.raises(NotReady, match="no such device is online at the test's broker"):
                inject.fault("MG1/ess", "stuck")
            for wrong in ("MG1", "/ess", "MG1/", "MG1/a/b"):
                with pytest.raises(ConfigError, match="expected AGENT/DEVICE"):
                    inject.fault(wrong, "stuck")
                with pytest.raises(ConfigError, match="expected AGENT/DEVICE"):
                    device_harness(wrong)
            words = ["{python}", "-c", "print('no licence'); raise SystemExit(3)"]
            why = "MG1/ess was not born: the program has ended with exit code 3"
            with pytest.raises(CheckFailed, match=why):
                device_harness("MG1/ess", command=words, within_s=60.0)
        """,
    )
    result.assert_outcomes(passed=1)


def test_wrong_arguments_of_a_fixture_are_one_clear_line(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
        import pytest
        from heron_mqtt.errors import ConfigError
        from heron_mqtt.testing.device_harness import CheckFailed

        @pytest.mark.mqtt_broker("mosquito")
        def test_misspelt(mqtt_broker): ...

        @pytest.mark.mqtt_broker(kind="mosquitto")
        def test_by_keyword(mqtt_broker): ...

        @pytest.mark.mqtt_broker()
        def test_empty(mqtt_broker): ...

        def says(*words):
            return pytest.raises(ConfigError, match="^[^\\n]*".join(words) + "[^\\n]*$")

        def test_it(recorded_run, impaired, device_harness, inject, tmp_path):
            with says("recorded_run: stpes: unknown key; did you mean 'steps'"):
                recorded_run(stpes=4)
            with says("recorded_run: steps = '4': should be a valid integer"):
                recorded_run(steps="4")
            with says("recorded_run: record: the fixture chooses the file"):
                recorded_run(record=tmp_path / "mine.heron")
            with says("impaired[(]'memory'[)]: expected a broker"):
                impaired("memory", "lte_poor")
            with says("command: expected a list of words"):
                device_harness("MG1/ess", command="python my_device.py")
            with says("command and class_name: one or the other"):
                device_harness("MG1/ess", command=["true"], class_name="a:B")
            with says("inject.fault[(]'MG1/ess'[)]: kind = 'stcuk': should be 'silence'"):
                inject.fault("MG1/ess", "stcuk")
            with says("inject.fault[(]'MG1/ess'[)]: steps = 0: should be greater"):
                inject.fault("MG1/ess", "stuck", steps=0)
            with pytest.raises(ValueError, match="holds a wildcard"):
                inject.garbage("agents/+/action")
            words = ["{python}", "-u", "-c", "print('no sun'); import time; time.sleep(60)"]
            why = "MG1/ess was not born within 2 s: its program runs, .*/devices/MG1/ess/status"
            with pytest.raises(CheckFailed, match=why):
                device_harness("MG1/ess", command=words, within_s=2.0)
        """,
    )
    result.assert_outcomes(passed=1, errors=3)
    result.stdout.fnmatch_lines(
        [
            "*test_misspelt: @pytest.mark.mqtt_broker: 'mosquito' is no MQTT address*or embedded, mosquitto",
            '*test_by_keyword: @pytest.mark.mqtt_broker: expected one broker, as mqtt_broker("mosquitto")',
            '*test_empty: @pytest.mark.mqtt_broker: expected one broker, as mqtt_broker("mosquitto")',
        ]
    )


@pytest.mark.slow
def test_a_class_beside_the_tests_is_found_wherever_pytest_is_started(pytester: pytest.Pytester) -> None:
    folder = pytester.mkdir("bench")
    (folder / "my_device.py").write_text(
        "from heron_mqtt import FieldDevice\n"
        "from heron_mqtt.messages import Telemetry\n\n\n"
        "class Inverter(FieldDevice):\n"
        "    kind = 'battery'\n\n"
        "    def nameplate(self):\n"
        "        return {'p_min_mw': -0.01, 'p_max_mw': 0.01, 'max_e_mwh': 0.02, 'soc': 0.5}\n\n"
        "    def apply(self, setpoint): ...\n\n"
        "    def measure(self):\n"
        "        return Telemetry(p_mw=0.0, soc=0.5)\n"
    )
    (folder / "test_bench.py").write_text(
        "from heron_mqtt.testing.conformance import ConformanceOptions, bench_of\n\n\n"
        "def test_watched(device_harness):\n"
        "    device_harness('MG1/ess', class_name='my_device:Inverter')\n\n\n"
        "def test_examined():\n"
        "    with bench_of(ConformanceOptions('MG1/ess', class_name='my_device:Inverter'), None) as bench:\n"
        "        bench.make_ready()\n"
    )
    run(pytester, "", "bench").assert_outcomes(passed=2)


@pytest.mark.slow
def test_tests_whose_names_are_alike_have_a_plot_each(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
        import pytest
        from heron_mqtt.testing.signals import Signal, stays_inside

        @pytest.mark.parametrize("case", ["a/b", "a:b", "x" * 300 + "1", "x" * 300 + "2"])
        def test_it(case):
            stays_inside(Signal("power", "MW", (0.0, 1.0), (0.0, 2.0)), 0.0, 1.0)
        """,
        "--signal-plots",
        "plots",
    )
    result.assert_outcomes(failed=4)
    assert len(list((pytester.path / "plots").iterdir())) == 4


@pytest.mark.slow_but("alone")
@pytest.mark.parametrize("beside", ["alone", "all plugins that are installed"])
def test_who_does_not_use_it_pays_nothing(
    beside: str, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makepyfile(
        """
        import sys

        def test_nothing_is_imported():
            ours = {name for name in sys.modules if name.startswith(("heron_mqtt", "powergrid"))}
            assert ours <= {"heron_mqtt", "heron_mqtt.testing", "heron_mqtt.testing.pytest_plugin"}
            assert not {"numpy", "pandapower", "paho", "pydantic"} & set(sys.modules)
        """
    )
    words = plugin()
    if beside == "alone":
        monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
        words = PLUGIN
    result = pytester.runpytest_subprocess(*words, "-p", "no:xdist")  # nothing is imported before
    result.assert_outcomes(passed=1)


@pytest.mark.slow
def test_it_works_with_xdist(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.parametrize("n", range(4))
        def test_it(mqtt_broker, device_harness, n):
            device_harness().publish(mqtt_broker.topic("x"), str(n))
        """
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *plugin(), "-n", "2", "-q"],
        cwd=pytester.path, capture_output=True, text=True, timeout=110, check=False,
    )  # fmt: skip
    assert "4 passed" in done.stdout, done.stdout + done.stderr


def test_a_manual_clock_stands_until_it_is_moved() -> None:
    clock = ManualClock(5.0)
    assert (clock(), clock.advance(2.5), clock()) == (5.0, 7.5, 7.5)
    with pytest.raises(ValueError, match="expected seconds >= 0"):
        clock.advance(-1.0)


@pytest.mark.slow
def test_the_wheel_names_the_plugin() -> None:
    import tomllib

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["pytest11"] == {"heron_mqtt": "heron_mqtt.testing.pytest_plugin"}
