"""The cases of a suite as processes side by side; whatever ends the suite ends them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from heron_mqtt.app.suite_file import LoadedSuite, SuiteCase
from heron_mqtt.own_program import module_command, module_environment
from heron_mqtt.testing.suite.outcome import CaseOutcome, SuiteOutcome, judged

END_S = 3.0  # a run ends within 2 s
LAST_LINES = 3

TellCase = Callable[[CaseOutcome], None]


async def run_suite(
    loaded: LoadedSuite,
    *,
    parallel: int | None = None,
    keep: Path | None = None,
    only: str = "",
    tell: TellCase = lambda _outcome: None,
    outcome: SuiteOutcome | None = None,
) -> SuiteOutcome:
    """Run a suite, and return what its runs came to, in the order of the file.

    Args:
        loaded: The suite.
        parallel: Runs at a time; None = as the suite says.
        keep: Where the records of the runs go; None = they are not recorded.
        only: Run the cases alone whose name holds this.
        tell: Called with each outcome as it comes.
        outcome: Filled in any case, also when this is cancelled: what was not run is there as such.
    """
    found = outcome or SuiteOutcome(loaded.suite.name, datetime.now(UTC))
    cases = [(i, case) for i, case in enumerate(loaded.cases()) if only in case.name]
    places = {i: CaseOutcome(case, "not run", ("the suite was broken off",)) for i, case in cases}
    slots = asyncio.Semaphore(parallel or loaded.suite.parallel)

    async def take(i: int, case: SuiteCase) -> None:
        async with slots:
            places[i] = await _run(loaded, i, case, keep)
            tell(places[i])

    try:
        async with asyncio.TaskGroup() as group:
            for i, case in cases:
                group.create_task(take(i, case), name=f"case {i}")
    finally:
        found.cases = [places[i] for i, _ in cases]
    return found


async def _run(loaded: LoadedSuite, i: int, case: SuiteCase, keep: Path | None) -> CaseOutcome:
    begun_s = time.monotonic()
    record = "" if keep is None else str(keep / f"{i:04d}.heron")
    process = await asyncio.create_subprocess_exec(
        *module_command("heron_mqtt.testing.suite.case", str(loaded.path), str(i), record),
        env=module_environment(),
        stdin=asyncio.subprocess.PIPE,  # it ends when this one does
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,  # Ctrl-C at the terminal is for us; we end it
    )
    try:
        async with asyncio.timeout(loaded.suite.timeout_s):
            out, err = await _output(process)
    except TimeoutError:
        await _end(process)
        why = f"it was ended after {loaded.suite.timeout_s:g} s (timeout_s)"
        return CaseOutcome(case, "error", (why,), {}, time.monotonic() - begun_s)
    except asyncio.CancelledError:
        await _end(process)
        raise
    seconds = time.monotonic() - begun_s
    try:
        summary = json.loads(out)
    except ValueError:
        return CaseOutcome(case, "error", (_last(err.decode(errors="replace"), process),), {}, seconds)
    return judged(case, summary, seconds, record or None)


async def _output(process: asyncio.subprocess.Process) -> Sequence[bytes]:
    """Return what it prints on either stream until its end; its input stays open."""
    assert process.stdout is not None
    assert process.stderr is not None
    out, err, _ = await asyncio.gather(process.stdout.read(), process.stderr.read(), process.wait())
    return out, err


async def _end(process: asyncio.subprocess.Process) -> None:
    """Tell a run to end, and kill it with what it has started if it does not."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            if number == signal.SIGKILL:
                os.killpg(process.pid, number)
            else:
                process.send_signal(number)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(END_S):
                await process.wait()


def _last(err: str, process: asyncio.subprocess.Process) -> str:
    lines = [line.strip() for line in err.strip().splitlines() if line.strip()]
    return "; ".join(lines[-LAST_LINES:]) or f"it ended with exit code {process.returncode}"
