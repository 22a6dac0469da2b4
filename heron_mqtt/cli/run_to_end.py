"""A run to its end: what is shown of it, what is complained of, and its exit code."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from heron_mqtt.cli.complaints import EXIT_FAILED, EXIT_OK, complain, report
from heron_mqtt.cli.live_page import live_page
from heron_mqtt.cli.logs import tell_what_was_held_back
from heron_mqtt.end_signals import EXIT_INTERRUPTED, run_until_told
from heron_mqtt.errors import ConfigError, HeronError, PowerFlowDiverged
from heron_mqtt.importing import importing
from heron_mqtt.messaging.embedded.process.supervisor import forked_child

if TYPE_CHECKING:
    from heron_mqtt.app.infrastructure import Forks
    from heron_mqtt.app.run_plan import RunPlan
    from heron_mqtt.app.run_summary import Summary
    from heron_mqtt.app.runner import Progress

    Page = Callable[[str], None]
    Shown = AbstractContextManager[Progress]


def run_to_end(
    plan: RunPlan,
    *,
    as_json: bool,
    dashboard: int | None,
    strict: bool,
    max_fallbacks: int | None,
    record: str | None,
    resume: Path | None,
) -> int:
    """Run, show it, complain of what was lost or left; returns the exit code.

    Args:
        plan: What to run.
        as_json: Print one JSON object and nothing else on standard output.
        dashboard: Port of a live page, 0 = a free one; None = none.
        strict: As ``Summary.over_budget``.
        max_fallbacks: Likewise.
        record: The file of the record, where the user has named one.
        resume: Likewise, of a run that is gone on with.

    Raises:
        ConfigError: The scenario is wrong, and nothing ran.
    """
    with _forks(plan) as forks:
        from heron_mqtt.app.runner import new_summary
        from heron_mqtt.field.gateway.gateway import NOT_HANDED_BACK

        summary = new_summary(plan)
        with live_page(dashboard) as page:
            code = _run(plan, summary, forks, as_json=as_json, page=page)
    tell_what_was_held_back()
    for name, left in summary.unreturned.items():
        if left.is_fault:
            complain(f"{name}: {NOT_HANDED_BACK}: {left.why}")
            code = code or EXIT_FAILED
    for budget in summary.over_budget(strict=strict, max_fallbacks=max_fallbacks):
        complain(budget)
        code = code or EXIT_FAILED
    for missing in _missing_rows(summary, record, resume):
        complain(missing)
        code = code or EXIT_FAILED
    return code


def _missing_rows(summary: Summary, record: str | None, resume: Path | None) -> Iterator[str]:
    """Say of each file that the user has named what could not be written to it."""
    if summary.lost_rows and (record is not None or resume is not None):
        named = f"--record {record}" if resume is None else f"--resume {resume}"
        yield f"{named}: {summary.lost_rows} rows are missing"
    if summary.csv is not None and summary.csv["lost"]:
        yield f"--csv {summary.csv['file']}: {summary.csv['lost']} rows could not be written"


@contextlib.contextmanager
def _forks(plan: RunPlan) -> Iterator[Forks]:
    """Fork what a run starts, before there are threads and an event loop; import the run meanwhile."""
    with contextlib.ExitStack() as stack:
        broker = stack.enter_context(forked_child()) if plan.options.starts_broker else None
        with importing():  # most of what the devices need as well
            from heron_mqtt.app.emulator_processes import forked_emulators
            from heron_mqtt.app.infrastructure import Forks
            from heron_mqtt.app.runner import has_emulated_devices

        emulators = stack.enter_context(forked_emulators()) if has_emulated_devices(plan) else None
        yield Forks(broker, emulators)


def _run(plan: RunPlan, summary: Summary, forks: Forks, *, as_json: bool, page: Page | None = None) -> int:
    from heron_mqtt.app.runner import run as run_plan

    code, failure = EXIT_OK, None
    shown, show_end = _as_json(page) if as_json else _on_console(plan, page)
    try:
        with shown as progress:
            run_until_told(run_plan(plan, progress, summary, forks))
    except KeyboardInterrupt:
        summary.interrupted, code = True, EXIT_INTERRUPTED
    except ConfigError:
        raise  # the scenario is wrong and nothing ran
    except HeronError as exc:
        failure = exc
        summary.error = str(exc)
    if as_json or summary.steps or failure is None:
        show_end(summary)
    if failure is not None:
        return report(failure)
    if summary.diverged is not None:
        return report(
            PowerFlowDiverged(f"the power flow diverged in step {summary.steps - 1}: {summary.diverged}")
        )
    return code


def _as_json(page: Page | None) -> tuple[Shown, Callable[[Summary], None]]:
    """Return what shows nothing of a run, and what prints its summary as one JSON object."""
    from heron_mqtt.cli.quiet_progress import QuietProgress

    def print_json(summary: Summary) -> None:
        sys.stdout.write(json.dumps(summary.as_dict(), allow_nan=False) + "\n")
        sys.stdout.flush()

    return contextlib.nullcontext(QuietProgress(page)), print_json


def _on_console(plan: RunPlan, page: Page | None) -> tuple[Shown, Callable[[Summary], None]]:
    """Return what shows each step of a run, and what prints the table at its end."""
    from heron_mqtt.cli.console import EVERY, ConsoleProgress, make_console, print_summary

    console = make_console()
    every = EVERY if plan.realtime_s is None else 1  # on a clock, the reader of a pipe sees each step
    return ConsoleProgress(console, plan.steps, page, every=every), partial(print_summary, console)
