"""Names the tests that failed once and passed when they ran again; fails if one of them is known for it.

    python .ci/unsteady.py FAILED.json LIST

FAILED.json is pytest's list of what failed at first; LIST has the names of tests that were unsteady before.
What is new there is added.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main(failed: Path, known: Path) -> int:
    """Print one line a test; return the exit code."""
    names = sorted(json.loads(failed.read_text(encoding="utf-8")))
    lines = known.read_text(encoding="utf-8").splitlines() if known.exists() else []
    before = {line.strip() for line in lines if line.strip() and not line.startswith("#")}
    again = [name for name in names if name in before]
    new = [name for name in names if name not in before]
    for name in new:
        sys.stdout.write(f"UNSTEADY {name}: failed, then passed alone; added to {known}\n")
    for name in again:
        sys.stdout.write(f"UNSTEADY AGAIN {name}: stands in {known} already; repair it\n")
    if new:
        known.write_text("\n".join([*lines, *new]) + "\n", encoding="utf-8")
    return 1 if again else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
