"""In which order the files of a whole run begin, where workers share them: see ``begun_in_turn``."""

from __future__ import annotations

from collections.abc import Mapping

EXPECTED_S = {
    "tests/integration/test_conformance_devices.py": 65.0,
    "tests/integration/test_conformance_command.py": 60.0,
    "tests/integration/test_operating.py": 50.0,
    "tests/integration/test_probe_send.py": 50.0,
    "tests/faults/test_safety_freshness.py": 45.0,
    "tests/integration/test_doctor.py": 45.0,
    "tests/faults/test_outbox.py": 45.0,
    "tests/faults/test_safety_ladder.py": 40.0,
    "tests/faults/test_safety_dead_environment.py": 35.0,
    "tests/integration/test_conformance_defects.py": 33.0,
    "tests/integration/test_dashboard_control.py": 30.0,
    "tests/faults/test_safety_devices.py": 25.0,
    "tests/integration/test_record_command.py": 25.0,
    "tests/integration/test_links.py": 22.0,
    "tests/integration/test_cli_errors.py": 22.0,
    "tests/faults/test_kill_anything.py": 20.0,
    "tests/faults/test_take_attacked.py": 18.0,
    "tests/faults/test_kafka.py": 17.0,
    "tests/faults/test_safety_trials.py": 17.0,
    "tests/integration/test_cli_interrupt.py": 16.0,
    "tests/integration/test_fmu.py": 16.0,
    "tests/integration/test_vendor_cases.py": 16.0,
    "tests/integration/test_hil.py": 15.0,
    "tests/faults/test_topic_prefix.py": 15.0,
    "tests/faults/test_kept_session.py": 15.0,
    "tests/faults/test_safety_standstill.py": 13.0,
    "tests/faults/test_mqtt_outage.py": 13.0,
    "tests/integration/test_dashboard.py": 12.0,
    "tests/faults/test_mqtt_exit.py": 12.0,
    "tests/integration/test_docs_examples.py": 12.0,
    "tests/faults/test_mqtt_strange_brokers.py": 12.0,
    "tests/faults/test_safety_one_of_each.py": 11.0,
    "tests/integration/test_vendor_devices.py": 10.0,
    "tests/integration/test_pytest_plugin.py": 10.0,
    "tests/integration/test_end_signals.py": 10.0,
    "tests/faults/test_bridge_attacked.py": 10.0,
    "tests/integration/test_emulator_contract.py": 9.0,
    "tests/faults/test_broker_limits.py": 9.0,
    "tests/integration/test_evaluate_command.py": 8.0,
    "tests/integration/test_suite_command.py": 8.0,
    "tests/integration/test_remote_proxy.py": 8.0,
    "tests/integration/test_impaired_env.py": 8.0,
    "tests/integration/test_start_of_a_run.py": 8.0,
    "tests/integration/test_quiet_box.py": 7.0,
}
"""What takes much longer, or shorter, than its number of tests says, s, most of it waiting; for the order."""
_OF_A_TEST_S = 0.3
_WAITING_IS_BEGUN_AT = 0.75
"""When the last file that waits is begun: which part of the others has begun then."""


def begun_in_turn(tests: Mapping[str, int]) -> list[str]:
    """Return files in the order in which they are to begin, given how many tests each has.

    Those that mostly wait, for processes, sockets and leases, begin evenly among those that mostly compute
    (``tests/unit``), so that the processors have work all the time; of each kind the longest first. The last
    to begin are short ones that compute: no worker is left alone with a file that waits for a minute.
    """
    waiting, computing = {}, {}
    for file, number in tests.items():
        if _computes(file):
            computing[file] = float(number)
        else:
            waiting[file] = EXPECTED_S.get(file, number * _OF_A_TEST_S)
    begins = {**_begins(waiting, _WAITING_IS_BEGUN_AT), **_begins(computing, 1.0)}
    return sorted(begins, key=begins.__getitem__)


def _computes(file: str) -> bool:
    return file.startswith("tests/unit/")


def _begins(sizes: Mapping[str, float], last: float) -> dict[str, float]:
    """Spread files over 0 to ``last``, the largest first, as if each took as long as it is large."""
    begins, total, before = {}, sum(sizes.values()) or 1.0, 0.0
    for file in sorted(sizes, key=lambda file: (-sizes[file], file)):
        begins[file] = last * before / total
        before += sizes[file]
    return begins
