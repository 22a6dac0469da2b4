"""What counts as caught by a test in a sample of changes, and what is left open."""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

FIRST, SECOND, THIRD = (f"tests/test_it.py::test_{k}" for k in ("one", "two", "three"))
FILE = "tests/test_it.py"


@pytest.fixture
def mutants(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "scripts"))
    return importlib.import_module("mutants")


class Tests:
    """Stands for runs of tests.

    Args:
        fails: By test what comes of each time it is run with the change, the last for good: 1 = it fails.
        in_any_case: Those that fail without it.
        alone: What is said, other than a test, where one of these is run alone with the change.
    """

    __test__ = False

    def __init__(
        self,
        fails: dict[str, str],
        in_any_case: Sequence[str] = (),
        alone: dict[str, str] | None = None,
    ) -> None:
        self.fails = {test: list(each) for test, each in fails.items()}
        self.in_any_case = in_any_case
        self.alone = alone or {}
        self.clock_s = 0.0
        self.asked = 0

    def first_failed(self, source: str, asked: list[str], without: Sequence[str] = ()) -> str:
        self.asked += 1
        self.clock_s += 1.0
        if len(asked) == 1 and asked[0] in self.alone:
            return self.alone[asked[0]]
        for test in self.fails:
            if (test in without and test != FILE) or not (test in asked or FILE in asked):
                continue  # of a file that cannot be read, no test can be left out
            if source == "original" and test in self.in_any_case:
                return test
            left = self.fails[test]
            if source == "changed" and (left.pop(0) if len(left) > 1 else left[0]) == "1":
                return test
        return ""

    def noticed(
        self, mutants: ModuleType, limit_s: float = 100.0, fail_in_any_case: list[str] | None = None
    ) -> str:
        known = [] if fail_in_any_case is None else fail_in_any_case
        sources = "original", "changed"
        found = mutants._noticed(self.first_failed, *sources, [FILE], limit_s, known, lambda: self.clock_s)
        return str(found)


def test_a_test_that_fails_twice_and_passes_without_the_change_has_noticed_it(mutants: ModuleType) -> None:
    assert Tests({FIRST: "0", SECOND: "1"}).noticed(mutants) == SECOND


def test_one_failure_of_each_of_two_tests_is_no_second_failure_of_one(mutants: ModuleType) -> None:
    assert Tests({FIRST: "10", SECOND: "10"}).noticed(mutants) == ""


def test_the_others_of_a_file_are_asked_after_a_failure_that_is_not_repeated(mutants: ModuleType) -> None:
    assert Tests({FIRST: "10", SECOND: "10", THIRD: "1"}).noticed(mutants) == THIRD


def test_what_fails_without_the_change_has_not_noticed_it(mutants: ModuleType) -> None:
    assert Tests({FIRST: "1"}, in_any_case=[FIRST]).noticed(mutants) == ""
    assert Tests({FIRST: "1", SECOND: "1"}, in_any_case=[FIRST]).noticed(mutants) == SECOND


def test_what_fails_without_a_change_is_not_asked_of_the_next_one(mutants: ModuleType) -> None:
    known: list[str] = []
    tests = Tests({FIRST: "1", SECOND: "1"}, in_any_case=[FIRST])
    tests.noticed(mutants, fail_in_any_case=known)
    assert known == [FIRST]
    before = tests.asked
    assert tests.noticed(mutants, fail_in_any_case=known) == SECOND
    assert tests.asked - before == 3  # with the change, once more, and without it


def test_what_gives_no_answer_is_open(mutants: ModuleType) -> None:
    assert Tests({}, alone={FILE: "(exit code 3)"}).noticed(mutants) == "(exit code 3)"
    assert Tests({FIRST: "1"}, alone={FIRST: "(not decided)"}).noticed(mutants) == "(not decided)"
    assert Tests({FILE: "101"}).noticed(mutants) == mutants.UNREADABLE
    assert mutants._word("(exit code 3)") == mutants.OPEN


def test_a_test_that_gives_no_answer_alone_leaves_the_others_to_be_asked(mutants: ModuleType) -> None:
    tests = Tests({FIRST: "1", SECOND: "1"}, alone={FIRST: "(not decided)"})
    assert tests.noticed(mutants) == SECOND


def test_a_name_that_is_of_no_test_ends_the_run(mutants: ModuleType) -> None:
    with pytest.raises(SystemExit, match=r"\(no such test\): tests/test_it.py"):
        Tests({}, alone={FILE: mutants.USAGE}).noticed(mutants)


def test_tests_that_fail_in_turn_are_asked_until_the_limit(mutants: ModuleType) -> None:
    tests = Tests({f"{FIRST}[{k}]": "10" for k in range(100)})
    assert tests.noticed(mutants, limit_s=9.0) == mutants.UNDECIDED
    assert tests.asked == 10


def test_only_the_test_of_just_this_name_is_left_out(mutants: ModuleType) -> None:
    runner = importlib.import_module("mutant_runner")
    items = [SimpleNamespace(nodeid=name) for name in (FIRST, f"{FIRST}_more", SECOND)]
    runner.FirstFailure({FIRST}, print).pytest_collection_modifyitems(items)
    assert [item.nodeid for item in items] == [f"{FIRST}_more", SECOND]


@pytest.mark.parametrize(
    ("caught", "survived", "are_open", "at_least", "is_enough"),
    [
        (95, 5, 5, 95.0, True),
        (94, 6, 0, 95.0, False),
        (95, 0, 5, 95.0, True),
        (94, 0, 6, 95.0, False),
        (94, 0, 6, 0.0, True),
        (0, 0, 0, 95.0, False),
    ],
)
def test_a_percentage_is_enough_where_few_are_open(
    mutants: ModuleType, caught: int, survived: int, are_open: int, at_least: float, is_enough: bool
) -> None:
    counts = Counter({mutants.CAUGHT: caught, mutants.SURVIVED: survived, mutants.OPEN: are_open})
    line, enough = mutants.summary(counts, at_least)
    assert f", {are_open} open" in line
    assert enough is is_enough
