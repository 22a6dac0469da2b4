"""The exit code of a command that is ended while it is imported is the one that it has later."""

from __future__ import annotations

import signal

from heron_mqtt.cli.end_codes import end_code
from heron_mqtt.end_signals import AskedToEnd


def test_sigterm_is_the_regular_end_of_programs_that_serve_and_of_no_other() -> None:
    term, gone = AskedToEnd(signal.SIGTERM), AskedToEnd(signal.SIGHUP)
    assert end_code(term, ["-v", "device", "battery"]) == 0
    assert end_code(term, ["broker"]) == 0
    for asked, words in (
        (term, ["run", "device"]),
        (term, []),
        (gone, ["device", "battery"]),
        (KeyboardInterrupt(), ["device", "battery"]),
    ):
        assert end_code(asked, words) == 130
