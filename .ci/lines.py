"""Say which lines of the product the tests have run: of what ``HERON_TEST_LINES`` has collected.

python .ci/lines.py FILE --at-least PERCENT: prints the files with the most lines that no test ran, and the
percentage of lines run; exit code 1 if it is less. See tests/support/line_coverage.py.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import tomllib
from collections import defaultdict
from pathlib import Path

import slipcover

ROOT = Path(__file__).parents[1]
SHOWN = 15


def lines_to_run() -> dict[str, set[int]]:
    """Return the lines of each file, without those that ``pyproject.toml`` leaves out for coverage.py."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["coverage"]
    sources = [str(ROOT / name) for name in settings["run"]["source"]]
    left_out = settings["report"]["exclude_also"]
    found = slipcover.Slipcover(source=sources, exclude_also=left_out).get_coverage()["files"]
    return {_name(name): {*one["missing_lines"], *one["executed_lines"]} for name, one in found.items()}


def _name(path: str) -> str:
    return str((Path.cwd() / path).resolve().relative_to(ROOT))


def lines_run(file: Path) -> dict[str, set[int]]:
    """Return the lines that any process has run; one that was killed may have left a part of its own."""
    run: dict[str, set[int]] = defaultdict(set)
    for text in file.read_text("utf-8").splitlines():
        try:
            seen = json.loads(text)
        except json.JSONDecodeError:
            continue
        for name, lines in seen.items():
            run[name].update(lines)
    return run


def main() -> int:
    """Print and compare; returns the exit code."""
    parser = argparse.ArgumentParser(description="Say which lines of the product the tests have run.")
    parser.add_argument("file", type=Path)
    parser.add_argument("--at-least", type=float, default=0.0, help="percent of the lines")
    parser.add_argument("--once", type=Path, help="a file that is there once the tests have ended")
    options = parser.parse_args()
    of_all = lines_to_run()  # 5 s of the processor, meanwhile
    while options.once is not None and not options.once.exists():
        time.sleep(0.2)
    run = lines_run(options.file)
    missed = {name: lines - run[name] for name, lines in of_all.items()}
    count, count_missed = (sum(map(len, by_file.values())) for by_file in (of_all, missed))
    for name in sorted(missed, key=lambda name: (-len(missed[name]), name))[:SHOWN]:
        sys.stdout.write(f"{name}: {len(missed[name])} of {len(of_all[name])} lines were not run\n")
    percent = 100.0 * (count - count_missed) / count
    sys.stdout.write(f"{percent:.1f} % of {count} lines were run; expected {options.at_least:g} % at least\n")
    return int(percent < options.at_least)


if __name__ == "__main__":
    sys.exit(main())
