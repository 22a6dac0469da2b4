"""In which order the files of a whole run begin."""

from __future__ import annotations

from pathlib import Path

from support.schedule import EXPECTED_S, begun_in_turn

ROOT = Path(__file__).parents[2]
WAITING = {
    "tests/integration/test_hil.py": 5,
    "tests/faults/test_loss.py": 20,
    "tests/embedded/test_life.py": 1,
}
COMPUTING = {f"tests/unit/test_{n}.py": n for n in range(1, 9)}


def test_every_file_begins_once() -> None:
    assert sorted(begun_in_turn(WAITING | COMPUTING)) == sorted(WAITING | COMPUTING)


def test_of_each_kind_the_longest_begins_first() -> None:
    turn = begun_in_turn(WAITING | COMPUTING)
    assert [file for file in turn if file in WAITING] == list(WAITING)
    assert [file for file in turn if file in COMPUTING] == list(reversed(COMPUTING))


def test_files_that_wait_begin_among_those_that_compute_and_none_at_the_end() -> None:
    turn = begun_in_turn(WAITING | COMPUTING)
    kinds = ["wait" if file in WAITING else "compute" for file in turn]
    assert set(kinds[:2]) == {"wait", "compute"}
    assert kinds[-1] == "compute"
    assert kinds.index("compute") < turn.index("tests/embedded/test_life.py")


def test_one_kind_alone_begins_by_its_length() -> None:
    assert begun_in_turn(COMPUTING) == list(reversed(COMPUTING))
    assert begun_in_turn({}) == []


def test_the_files_that_are_known_to_be_long_are_there() -> None:
    assert [file for file in EXPECTED_S if not (ROOT / file).exists()] == []
