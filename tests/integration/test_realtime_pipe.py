"""``run --realtime`` on a pipe: its reader sees each step when it is done."""

from __future__ import annotations

from support.heron_command import heron


def test_every_step_is_told_while_the_run_goes_on() -> None:
    options = ("--realtime", "0.4", "--steps", "500", "--broker", "memory", "--no-record")
    with heron("run", *options) as program:
        for step in (1, 2, 3):
            program.wait_for(f"step {step}/500")
        assert program.process.poll() is None
