"""In which order the files of a whole run begin, where workers share them: see ``begun_in_turn``."""

from __future__ import annotations

from collections.abc import Mapping

EXPECTED_S = {
    "tests/integration/test_conformance_command.py": 60.0,
    "tests/integration/test_probe_send.py": 40.0,
    "tests/integration/test_operating.py": 40.0,
    "tests/integration/test_conformance_devices.py": 35.0,
    "tests/integration/test_conformance_defects.py": 30.0,
    "tests/integration/test_doctor.py": 30.0,
    "tests/faults/test_outbox.py": 30.0,
    "tests/integration/test_cli_errors.py": 25.0,
    "tests/faults/test_safety_freshness.py": 20.0,
    "tests/faults/test_safety_dead_environment.py": 20.0,
    "tests/faults/test_safety_ladder.py": 20.0,
    "tests/faults/test_kill_anything.py": 15.0,
    "tests/integration/test_hil.py": 15.0,
    "tests/integration/test_cli_interrupt.py": 15.0,
    "tests/faults/test_take_attacked.py": 12.0,
    "tests/integration/test_authority_command.py": 12.0,
    "tests/integration/test_roles.py": 12.0,
    "tests/faults/test_safety_trials.py": 10.0,
    "tests/faults/test_broker_limits.py": 10.0,
    "tests/integration/test_emulator_contract.py": 8.0,
    "tests/integration/test_evaluate_command.py": 8.0,
    "tests/integration/test_remote_proxy.py": 8.0,
    "tests/integration/test_vendor_devices.py": 8.0,
    "tests/integration/test_quiet_box.py": 6.0,
}
"""What takes much longer than its number of tests says, s, nearly all of it waiting; for the order alone."""
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
