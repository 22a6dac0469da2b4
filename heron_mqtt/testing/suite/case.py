"""One run of a suite, in a process of its own that ends with its parent: prints its summary as JSON."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from heron_mqtt.app.run_plan import RunOptions, plan_run
from heron_mqtt.app.run_summary import Summary
from heron_mqtt.app.runner import new_summary
from heron_mqtt.app.runner import run as run_plan
from heron_mqtt.app.suite_file import load_suite
from heron_mqtt.end_signals import EXIT_INTERRUPTED, AskedToEnd, run_until_told, until_input_ends
from heron_mqtt.errors import HeronError


class SilentProgress:
    """Shows nothing."""

    def note(self, text: str) -> None:
        """Say nothing."""

    def step(self, summary: Summary, price: float, infos: dict[str, dict[str, Any]]) -> None:
        """Show nothing."""

    def opened(self, url: str) -> None:
        """Show nothing."""


def main() -> int:
    """Run a case; the arguments are the suite, the number of the case, and its record (empty: none)."""
    path, number, record = sys.argv[1:4]
    try:
        loaded = load_suite(path)
        case = loaded.cases()[int(number)]
        suite = loaded.suite
        centralized = suite.broker == "centralized"
        options = RunOptions(
            steps=suite.steps,
            seed=case.seed,
            broker=None if centralized else suite.broker,
            centralized=centralized,
            network=loaded.network(case),
            record=record or None,
            policy=suite.policy,
        )
        plan = plan_run(loaded.scenario(case), options)
        summary = new_summary(plan)
    except HeronError as exc:
        sys.stderr.write(f"{exc}\n")
        return 2
    try:
        run_until_told(_supervised(plan, summary))
    except AskedToEnd:
        return EXIT_INTERRUPTED
    except HeronError as exc:
        summary.error = str(exc)
    sys.stdout.write(json.dumps(summary.as_dict(), allow_nan=False) + "\n")
    sys.stdout.flush()
    return 0


async def _supervised(plan: Any, summary: Summary) -> None:
    running = asyncio.create_task(run_plan(plan, SilentProgress(), summary), name="case")
    await until_input_ends(running)
    if running.cancelled():
        raise AskedToEnd(15)
    running.result()


if __name__ == "__main__":
    sys.exit(main())
