"""Change the code in small ways, one at a time, and see whether the unit tests notice.

    python scripts/mutants.py --seed 0 --mutants 200
    python scripts/mutants.py --mutants 20 --modules heron_mqtt/agents powergrid/simulation/grid_check.py

Every change is made in a temporary copy, never in the working tree. The tests that are named for the modules
below are run once without a change, which tells those that come through each line; ``--coverage FILE`` keeps
what was told for the next run. Of a change they alone are run, and the whole file that mirrors it first: what
is made once a process may be seen by a test that did not make it. One and the same test has to fail twice
with the change, and to pass without it; one that does not is left out, and the others are asked. A line that
no test comes through survives without a run. A survivor either shows a test that is missing, or changes
nothing that can be seen (a log line, a bound that is never met): read it before you write a test. A change
is open where the tests take too long or give no answer, such as where they end the process: neither caught
nor survived, and told beside the percentage. A large sample is run in parts: ``--part 2/3``. Exit code 1: a
smaller part was caught than ``--at-least`` wants, or more than one in twenty is open; 2: the tests fail
without any change.
"""

from __future__ import annotations

import argparse
import ast
import copy
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

from coverage import CoverageData

ROOT = Path(__file__).resolve().parent.parent
COPIED = (
    *("heron_mqtt", "powergrid", "devices", "tests", "config", "docs", "pyproject.toml"),
    *("scripts", "benchmarks"),  # tests import them
)
UNDECIDED, USAGE = "(not decided)", "(no such test)"  # as mutant_runner.py says it
UNREADABLE = "(a test file that cannot be read each time)"
OPEN_AT_MOST_PERCENT = 5.0  # of all changes: with more the percentage of the others says little
SCHEMAS = "tests/unit/app/test_schemas.py"

# Module or folder: the tests of the quick suite that are to notice a change of it. The longest prefix counts.
# Which of them come through a line is measured; what is named beside the unit tests was found by that.
UNIT = "tests/unit"
SAFETY = tuple(
    f"tests/faults/test_safety_{what}.py" for what in ("freshness", "ladder", "one_of_each", "stop")
)
SUNSPEC, MODBUS = "tests/integration/test_sunspec_bridge.py", "tests/integration/test_modbus_devices.py"
TESTS: dict[str, tuple[str, ...]] = {
    "heron_mqtt": (UNIT,),
    "heron_mqtt/agents": (UNIT, "tests/integration/test_proxy.py", *SAFETY),
    "heron_mqtt/field": (UNIT, "tests/integration/test_field_device.py", *SAFETY),
    "heron_mqtt/field/device": (UNIT, "tests/integration/test_field_device.py", SUNSPEC, *SAFETY),
    "heron_mqtt/field/modbus": (UNIT, MODBUS, SUNSPEC, "tests/integration/test_sunspec_inverter.py"),
    "heron_mqtt/field/sunspec": (UNIT, SUNSPEC, "tests/integration/test_sunspec_inverter.py"),
    "heron_mqtt/field/vendor": (UNIT, "tests/integration/test_vendor_cases.py", MODBUS),
    "heron_mqtt/messaging/core": (UNIT, "tests/contract"),
    "heron_mqtt/messaging/mqtt": (UNIT, "tests/contract"),
    "heron_mqtt/messaging/embedded": (UNIT,),  # they alone are to notice
    "powergrid": (UNIT,),
}
DEFAULT_MODULES = (
    "heron_mqtt/field",
    "heron_mqtt/agents",
    "heron_mqtt/protocols",
    "heron_mqtt/messaging/core",
    "powergrid/simulation/grid_check.py",
    "powergrid/devices",
)

COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
}
NAMES = {"min": "max", "max": "min", "any": "all", "all": "any"}
_FAILED = re.compile(r"(FAILED|ERROR) \S")
LOGGERS = ("log", "logging")
CAUGHT, SURVIVED, OPEN = "caught", "SURVIVED", "open"


@dataclass(frozen=True)
class Mutant:
    """One change.

    Attributes:
        module: The file, relative to the project.
        line: Where it begins.
        lines: Those of its statement; one of them is executed whenever it is. A compound statement's are
            those before its body.
        before, after: The changed piece of code, as Python would write it.
        source: Of the whole module, changed.
    """

    module: str
    line: int
    lines: range
    before: str
    after: str
    source: str

    def __str__(self) -> str:
        return f"{self.module}:{self.line}: {_shown(self.before)}  ->  {_shown(self.after)}"


def replacements(node: ast.AST) -> Iterator[ast.AST]:
    """Yield what one node may be changed into."""
    match node:
        case ast.Compare(ops=[*ops]):
            for k, op in enumerate(ops):
                if type(op) in COMPARISONS:
                    changed = copy.deepcopy(node)
                    changed.ops[k] = COMPARISONS[type(op)]()
                    yield changed
        case ast.BinOp(op=op, left=left) if type(op) in OPERATORS and not _is_text(left):
            changed_op = copy.deepcopy(node)
            changed_op.op = OPERATORS[type(op)]()
            yield changed_op
        case ast.BoolOp(op=op, values=values):
            yield ast.BoolOp(ast.And() if isinstance(op, ast.Or) else ast.Or(), copy.deepcopy(values))
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield copy.deepcopy(operand)
        case ast.Constant(value=bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(value=int(value) | float(value)):
            yield ast.Constant(value + 1)
            yield ast.Constant(value - 1)
        case ast.Call(func=ast.Name(id=name)) if name in NAMES:
            call = copy.deepcopy(node)
            call.func = ast.Name(NAMES[name], ast.Load())
            yield call
        case ast.If() | ast.While() | ast.IfExp() if not isinstance(node.test, ast.Constant):
            negated = copy.deepcopy(node)
            negated.test = ast.UnaryOp(ast.Not(), negated.test)
            yield negated
        case ast.Expr(value=ast.Await() | ast.Call()) if not _is_log(node.value):
            yield ast.Pass()
        case ast.AugAssign():
            yield ast.Pass()
        case ast.Return(value=ast.expr() as value) if not _is_nothing(value):
            yield ast.Return(ast.Constant(None))


def mutants_of(module: str, source: str) -> Iterator[Callable[[], Mutant | None]]:
    """Yield what makes each change of a module, or None where it would be no Python, or none.

    Those of annotations and docstrings are no changes. A source is spelled only for what is chosen: each has
    to be parsed again.
    """
    tree = ast.parse(source)
    lines = _lines_of_statements(tree)
    for node in _code(tree):
        for replacement in replacements(node):
            yield partial(_mutant, module, source, node, replacement, lines)


def _mutant(
    module: str, source: str, node: ast.AST, replacement: ast.AST, lines: dict[int, range]
) -> Mutant | None:
    assert isinstance(node, ast.expr | ast.stmt)  # it has a place in the source
    spelled = ast.unparse(ast.fix_missing_locations(replacement))
    if isinstance(node, ast.expr) and not isinstance(node, ast.Constant):
        spelled = f"({spelled})"
    changed = _with(source, node, spelled, replacement)
    if changed is None or changed == source:
        return None
    before = ast.get_source_segment(source, _shown_part(node)) or ""
    after = ast.unparse(ast.fix_missing_locations(_shown_part(replacement)))
    own = range(node.lineno, (node.end_lineno or node.lineno) + 1)
    return Mutant(module, node.lineno, lines.get(node.lineno, own), before, after, changed)


def _lines_of_statements(tree: ast.Module) -> dict[int, range]:
    """Return by line the lines of the innermost statement there; a compound one has those before its body."""
    found: dict[int, range] = {}
    for node in ast.walk(tree):  # from the outside inwards
        if not isinstance(node, ast.stmt):
            continue
        end = node.end_lineno or node.lineno
        if isinstance(node, ast.Match):
            end = node.subject.end_lineno or node.lineno
        elif isinstance(body := getattr(node, "body", None), list):
            end = max(node.lineno, body[0].lineno - 1)
        found.update(dict.fromkeys(range(node.lineno, end + 1), range(node.lineno, end + 1)))
    return found


def _code(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes that are executed and can be changed."""
    for field, value in ast.iter_fields(node):
        if field in {"annotation", "returns", "decorator_list", "type_params"}:
            continue
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or isinstance(
                child, ast.Import | ast.ImportFrom | ast.JoinedStr
            ):
                continue
            if isinstance(child, ast.Call) and _is_log(child):
                continue
            if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
                continue
            yield child
            yield from _code(child)


def _with(source: str, node: ast.AST, spelled: str, replacement: ast.AST) -> str | None:
    """Return the source with one node spelled otherwise; None where that is no Python."""
    if isinstance(node, ast.If | ast.While):  # only the condition: the body keeps its lines
        node, spelled = node.test, f"({ast.unparse(ast.fix_missing_locations(_shown_part(replacement)))})"
    segment = ast.get_source_segment(source, node)
    if segment is None:
        return None
    lines = source.splitlines(keepends=True)
    assert isinstance(node, ast.expr | ast.stmt)  # it has a place in the source
    begin = sum(len(line.encode()) for line in lines[: node.lineno - 1]) + node.col_offset
    raw = source.encode()
    changed = (raw[:begin] + spelled.encode() + raw[begin + len(segment.encode()) :]).decode()
    try:
        ast.parse(changed)
    except SyntaxError:
        return None
    return changed


def _shown_part(node: ast.AST) -> ast.AST:
    return node.test if isinstance(node, ast.If | ast.While) else node


def _is_log(node: ast.AST) -> bool:
    match node:
        case ast.Call(func=ast.Attribute(value=ast.Name(id=name))):
            return name in LOGGERS
    return False


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def _is_nothing(node: ast.AST) -> bool:
    """Whether it is None, or False: the two are the same where a truth value is returned."""
    return isinstance(node, ast.Constant) and (node.value is None or node.value is False)


def _shown(code: str, most: int = 90) -> str:
    line = " ".join(code.split())
    return line if len(line) <= most else f"{line[:most]}..."


def tests_of(module: str) -> tuple[str, ...]:
    """Return the tests that are run for a module; none where the table above names none."""
    prefixes = [p for p in TESTS if module == p or module.startswith(f"{p}/")]
    return TESTS[max(prefixes, key=len)] if prefixes else ()


def modules_under(names: list[str]) -> list[str]:
    """Return the modules that were named, folders opened."""
    found = set()
    for name in names:
        path = ROOT / name
        if not path.exists():
            raise SystemExit(f"mutants: {name}: there is no such module or folder in {ROOT}")
        files = [path] if path.is_file() else path.rglob("*.py")
        found |= {str(file.relative_to(ROOT)) for file in files}
    for module in sorted(found):
        if not tests_of(module):
            raise SystemExit(f"mutants: {module}: no tests are named for it; add it to TESTS in this script")
    return sorted(found)


class Coverage:
    """Which tests come through which line, as one run of them without a change has told.

    Args:
        folder: The copy that tests will be run in.
        file: What ``coverage`` has written, of a run in any copy.
    """

    def __init__(self, folder: Path, file: Path) -> None:
        self._folder = folder
        self._data = CoverageData(str(file))
        self._data.read()

    def tests_of(self, mutant: Mutant, named: Sequence[str]) -> list[str]:
        """Return those of the named tests that come through a change, the likely ones first.

        A test of many cases is named as a whole, and one whose fixture comes through it by its file: others
        share the fixture. Of what is there at import these are the files with tests that come through any
        line of the module; all that are named where it has no such line.
        """
        by_line = self._data.contexts_by_lineno(mutant.module)
        contexts = {context for line in mutant.lines for context in by_line.get(line, ())}
        if "" not in contexts:
            return self._in_order(mutant, self._named(contexts, named))
        of_module = {context for contexts in by_line.values() for context in contexts}
        files = {test.partition("::")[0] for test in self._named(of_module, named)}
        if files and UNIT in named:
            files.add(SCHEMAS)
        return self._in_order(mutant, files) or list(named)

    @staticmethod
    def _named(contexts: Iterable[str], named: Sequence[str]) -> set[str]:
        found = set()
        for context in contexts:
            test, _, phase = context.rpartition("|")
            if any(test.startswith((f"{name}/", f"{name}::")) for name in named):
                found.add(test.partition("[")[0] if phase == "run" else test.partition("::")[0])
        return found

    def _in_order(self, mutant: Mutant, tests: set[str]) -> list[str]:
        """Return the file that mirrors the module, tests of its folder, other unit tests, the rest."""
        folder = "tests/unit/" + str(Path(mutant.module).parent).removeprefix("heron_mqtt/")
        mirror = f"{folder}/test_{Path(mutant.module).stem}.py"
        tests = {test for test in tests if not test.startswith(mirror)}
        ordered = sorted(
            tests,
            key=lambda test: (
                not test.startswith(f"{folder}/"),
                SCHEMAS not in test,  # quick, and notices every bound and default of a table
                not test.startswith(f"{UNIT}/"),
                test,
            ),
        )
        return [mirror, *ordered] if (self._folder / mirror).exists() else ordered


def covered(folder: Path, tests: list[str], file: Path) -> list[str]:
    """Run tests in the copy; return those that fail, or write to ``file`` what each comes through.

    One that fails is run once more, alone: on a busy machine a test may be late.
    """
    measured = (
        folder / "measured"
    )  # in the copy: coverage removes what else is called so, such as measured.py
    rules = folder / "rules.ini"
    rules.write_text("[run]\nsource = heron_mqtt, powergrid\ncore = ctrace\nrelative_files = true\n", "utf-8")
    options = ["--cov", f"--cov-config={rules}", "--cov-context=test", "--cov-report=", "--timeout", "120"]
    command = [sys.executable, "-m", "pytest", "-n", "2", "-q", "--tb", "no", "-p", "no:cacheprovider"]
    done = subprocess.run(  # noqa: S603 - our own tests
        [*command, *options, *tests],
        cwd=folder,
        env={**_environment(folder), "COVERAGE_FILE": str(measured)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=False,
    )
    failed = [
        line.split(" - ")[0].partition(" ")[2] for line in done.stdout.splitlines() if _FAILED.match(line)
    ]
    if done.returncode not in {0, 1}:  # not even collected
        return tests
    failed = [
        test
        for test in failed
        if subprocess.run(  # noqa: S603 - our own tests
            [*command[:4], "0", *command[5:], test],
            cwd=folder,
            env=_environment(folder),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
        ).returncode
    ]
    if not failed:
        shutil.copyfile(measured, file)
    return failed


def _environment(folder: Path) -> dict[str, str]:
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # what does not change is compiled once
    return environment


class Runner:
    """Runs tests of changed code: in forks of a process that has taken in the tests and the unchanged code.

    Args:
        folder: The copy.
        tests: All that may be asked for.
    """

    def __init__(self, folder: Path, tests: list[str]) -> None:
        self._folder = folder
        self._fail_in_any_case: list[str] = []
        self._process = subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, str(Path(__file__).parent / "mutant_runner.py"), *tests],
            cwd=folder,
            env=_environment(folder),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answer()  # a file that was changed before would be taken in, changed, for good

    def failed_test(self, mutant: Mutant, tests: list[str], limit_s: float) -> str:
        """Return a test that fails with the change, twice, and passes here without it; empty if none does.

        In brackets is returned why it is left open: the tests took longer than ``limit_s``, or gave no
        answer.
        """
        path = self._folder / mutant.module
        original = path.read_text("utf-8")

        def first_failed(source: str, asked: list[str], without: Sequence[str] = ()) -> str:
            _write(path, source)
            return self._first_failed(mutant.module, original, source, asked, without, limit_s)

        try:
            return _noticed(first_failed, original, mutant.source, tests, limit_s, self._fail_in_any_case)
        finally:
            _write(path, original)

    def _first_failed(
        self,
        module: str,
        original: str,
        changed: str,
        tests: list[str],
        without: Sequence[str],
        limit_s: float,
    ) -> str:
        assert self._process.stdin is not None
        asked = {
            "module": module,
            "original": original,
            "changed": changed,
            "tests": tests,
            "without": list(without),
            "limit_s": limit_s,
        }
        self._process.stdin.write(f"{json.dumps(asked)}\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        lines = iter(self._process.stdout.readline, "")
        answer = next((line for line in lines if line.startswith('{"failed"')), None)  # pytest may say things
        if answer is None:
            raise SystemExit("mutants: the process that runs the tests has ended")
        return str(json.loads(answer)["failed"])

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def _noticed(
    first_failed: Callable[..., str],
    original: str,
    changed: str,
    tests: list[str],
    limit_s: float,
    fail_in_any_case: list[str],
    clock: Callable[[], float] = time.monotonic,
) -> str:
    """Return which test notices a change, by the rule of :meth:`Runner.failed_test`.

    Args:
        first_failed: Takes a source, the tests that are run with it, and those of them that are left out.
            Returns the first that fails, empty if none does; in brackets why there is no answer.
        original: The source without the change.
        changed: The source with it.
        tests: All that are asked.
        limit_s: After which no other test is asked, s.
        fail_in_any_case: Those that failed without a change before, and are not asked again; added to.
        clock: Monotonic, s.
    """
    until = clock() + limit_s
    without = list(fail_in_any_case)
    no_answer = ""  # of a test that was asked once more
    while clock() <= until:
        failed = first_failed(changed, tests, without)
        if failed == USAGE and first_failed(original, tests, without) == USAGE:
            raise SystemExit(f"mutants: {failed}: {' '.join(tests)}")
        if failed == "":
            return no_answer
        if _is_no_answer(failed):
            return failed
        if failed in without:  # a file that now and then cannot be read: its tests cannot be asked
            return UNREADABLE
        again = first_failed(changed, [failed])
        if again == failed:
            if first_failed(original, [failed]) == "":
                return failed
            _say(f"          without any change fails {failed}")
            fail_in_any_case.append(failed)
        no_answer = again if _is_no_answer(again) else no_answer
        # It was late, met the change by chance, or fails in any case: what do the others say?
        without.append(failed)
    return UNDECIDED


def _is_no_answer(failed: str) -> bool:
    """Whether it says in brackets why no test can be named."""
    return failed.startswith("(")


def sample(modules: list[str], count: int, seed: int) -> list[Mutant]:
    """Return changes chosen at random from all that can be made, in the order of the files."""
    every = [make for module in modules for make in mutants_of(module, (ROOT / module).read_text("utf-8"))]
    random.Random(seed).shuffle(every)  # noqa: S311 - a choice that repeats
    made = (make() for make in every)
    chosen = islice((mutant for mutant in made if mutant is not None), count)
    return sorted(chosen, key=lambda m: (m.module, m.line, m.after))


def _word(failed_test: str) -> str:
    """Return what is said of a change that this test notices, if any."""
    if _is_no_answer(failed_test):
        return OPEN
    return CAUGHT if failed_test else SURVIVED


def summary(counts: Mapping[str, int], at_least: float) -> tuple[str, bool]:
    """Return what is said of all changes, and whether it is enough.

    Args:
        counts: How many were caught, survived, or are open.
        at_least: Percentage that is to be caught of those that are decided.
    """
    decided, are_open = counts[CAUGHT] + counts[SURVIVED], counts[OPEN]
    percent = 100.0 * counts[CAUGHT] / max(1, decided)
    line = f"{counts[CAUGHT]} of {decided} caught ({percent:.1f} %), {are_open} open"
    too_many = are_open * 100.0 > OPEN_AT_MOST_PERCENT * (decided + are_open)
    if too_many:
        line += f" (more than {OPEN_AT_MOST_PERCENT:g} %)"
    return line, percent >= at_least and not (too_many and at_least > 0.0)


def _part(text: str) -> tuple[int, int]:
    """Return which part of how many."""
    part, _, parts = text.partition("/")
    if not (part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts)):
        raise argparse.ArgumentTypeError(f"{text!r}: expected a part of the sample such as 2/3")
    return int(part), int(parts)


def _write(path: Path, source: str) -> None:
    """Write a module, and forget what was compiled of it: that is told by size and second alone."""
    path.write_text(source, "utf-8")
    for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*.pyc"):
        compiled.unlink()


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> int:
    """Sample, run, and tell."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seed", type=int, default=0, help="of the choice (default 0)")
    parser.add_argument("--mutants", type=int, default=200, help="how many (default 200)")
    parser.add_argument("--modules", nargs="+", default=list(DEFAULT_MODULES), help="files and folders")
    parser.add_argument(
        "--at-least", type=float, default=0.0, metavar="PERCENT", help="caught, for exit code 0"
    )
    parser.add_argument(
        "--part", type=_part, default=(1, 1), metavar="K/N", help="of the sample, for a run at another time"
    )
    parser.add_argument(
        "--coverage", type=Path, metavar="FILE", help="what a run of the tests told; made where it is missing"
    )
    parser.add_argument(
        "--limit-s",
        type=float,
        default=300.0,
        help="after which it is left open whether the tests notice a change",
    )
    parser.add_argument("--list", action="store_true", help="show the changes and run nothing")
    args = parser.parse_args()
    if args.coverage is not None and not args.coverage.absolute().parent.is_dir():
        parser.error(f"--coverage {args.coverage}: there is no folder {args.coverage.absolute().parent}")
    chosen = sample(modules_under(args.modules), args.mutants, args.seed)
    # What the coverage of all parts needs: it may be kept for the others.
    every_named = sorted({test for m in chosen for test in tests_of(m.module)})
    part, parts = args.part
    chosen = chosen[len(chosen) * (part - 1) // parts : len(chosen) * part // parts]
    if args.list:
        _say("\n".join(map(str, chosen)))
        return 0
    with tempfile.TemporaryDirectory(prefix="mutants-") as name:
        folder = Path(name)
        for part in COPIED:
            copied = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
            copied(ROOT / part, folder / part)
        named = sorted({test for m in chosen for test in tests_of(m.module)})
        file = args.coverage or folder / "coverage"
        if not file.exists():
            failed = covered(folder, every_named, file)
            if failed:
                _say(f"mutants: without any change fails {', '.join(failed)}")
                return 2
        coverage = Coverage(folder, file)
        runner = Runner(folder, named)
        counts: Counter[str] = Counter()
        for mutant in chosen:
            concerned = coverage.tests_of(mutant, tests_of(mutant.module))
            failed_test = runner.failed_test(mutant, concerned, args.limit_s) if concerned else ""
            word = _word(failed_test)
            counts[word] += 1
            how = f"  by {failed_test}" if word == CAUGHT else f"  {failed_test}"
            how = how if concerned else "  (no test comes through it)"
            _say(f"{word:8} {mutant}{how}".rstrip())
        runner.close()
    line, is_enough = summary(counts, args.at_least)
    _say(f"{line}, seed {args.seed}")
    return 0 if is_enough else 1


if __name__ == "__main__":
    sys.exit(main())
