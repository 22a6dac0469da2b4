"""Fuzz what takes bytes of others, guided by coverage: clients, server, payloads, devices, registers.

    python scripts/fuzz.py client --seconds 60
    python scripts/fuzz.py all --seconds 30 --corpus /tmp/corpus

Needs atheris (pip install 'heron-mqtt[fuzz]'). Each target runs in a process of its own. What it errs on is
kept in ``crash-...`` in the working directory, and the exit code is 1. The tests run the same targets with
hypothesis.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
MAX_BYTES = 2_000


def main() -> int:
    """Fuzz one target, or all of them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("target", help="client, server, payload, nats, modbus, ... (TARGETS), or all")
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--corpus", type=Path, help="folder that keeps what reached new code")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here:
        _fuzz(options.target, options.seconds, options.corpus, options.seed)
        return 0
    from support.fuzz_targets import TARGETS

    wanted = list(TARGETS) if options.target == "all" else [options.target]
    if unknown := [name for name in wanted if name not in TARGETS]:
        parser.error(f"{unknown[0]}: no such target; expected {', '.join(TARGETS)} or all")
    failed = []
    for name in wanted:
        with tempfile.TemporaryDirectory() as made:
            corpus = Path(made) if options.corpus is None else options.corpus / name
            corpus.mkdir(parents=True, exist_ok=True)
            command = [sys.executable, __file__, name, "--here", "--corpus", str(corpus)]
            command += ["--seconds", str(options.seconds), "--seed", str(options.seed)]
            sys.stdout.write(f"{name}: ")
            sys.stdout.flush()
            done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)  # noqa: S603 - ours
        last = [line for line in done.stderr.splitlines() if line.startswith(("#", "Done"))][-1:]
        sys.stdout.write(f"{'ok' if not done.returncode else 'FAILED'} {' '.join(last)}\n")
        if done.returncode:
            failed.append(name)
            sys.stderr.write(done.stderr[-6_000:])
    return 1 if failed else 0


def _fuzz(target: str, seconds: int, corpus: Path, seed: int) -> None:
    """Fuzz one target in this process; it ends the process."""
    import atheris

    with atheris.instrument_imports(include=["heron_mqtt"]):
        from support.fuzz_targets import TARGETS, seeds
    for number, data in enumerate(seeds(target)):
        (corpus / f"seed-{number}").write_bytes(data[:MAX_BYTES])
    arguments = [f"-max_total_time={seconds}", f"-max_len={MAX_BYTES}", f"-seed={seed}", "-timeout=20"]
    atheris.Setup([sys.argv[0], *arguments, str(corpus)], TARGETS[target])
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
