"""LearnedLevels: the instance of a device that is read, and when another one may follow it."""

from __future__ import annotations

import pytest

from heron_mqtt.field.vendor.learned_levels import LearnedLevels, LevelNote


class Learning:
    def __init__(self, **relearn_after_s: float) -> None:
        self.levels = LearnedLevels(relearn_after_s)
        self.notes: list[LevelNote] = []

    def hears(self, serial: str, now_s: float = 0.0, *, retained: bool = False) -> bool:
        return self.levels.takes({"serial": serial}, now_s, retained, self.notes)


def test_the_first_that_speaks_is_learned_and_another_beside_it_is_named_once_and_not_read() -> None:
    made = Learning()
    assert made.levels.values == {}
    assert made.hears("A")
    assert made.hears("A", 1.0)
    for _ in range(2):
        assert not made.hears("B", 2.0)
    assert not made.hears("C", 2.0)
    assert made.levels.values == {"serial": "A"}
    assert made.notes == [
        LevelNote("serial is A", False),
        LevelNote("serial is A, but B is there too and not read: give the parameter", True),
        LevelNote("serial is A, but C is there too and not read: give the parameter", True),
    ]


@pytest.mark.parametrize("relearn_after_s", [{}, {"serial": 5.0}])
def test_another_follows_only_after_a_silence(relearn_after_s: dict[str, float]) -> None:
    after_s = relearn_after_s.get("serial", 30.0)
    made = Learning(**relearn_after_s)
    made.hears("A", 10.0)
    made.hears("A", 20.0)
    assert not made.hears("B", 20.0 + after_s), "to the moment"
    assert made.hears("B", 20.1 + after_s)
    assert made.levels.values == {"serial": "B"}
    assert made.notes[-1] == LevelNote("serial is B instead of A", True)


def test_what_the_broker_has_kept_is_learned_and_gives_way_to_the_first_that_lives() -> None:
    made = Learning()
    assert made.hears("A", 0.0, retained=True)
    assert not made.hears("B", 0.0, retained=True)
    assert made.notes == [LevelNote("serial is A", False)], "an old one that was kept is no other device"
    assert made.hears("A", 0.0, retained=True)
    assert made.hears("B", 0.1)
    assert not made.hears("A", 0.2, retained=True)
    assert made.levels.values == {"serial": "B"}


def test_what_was_kept_is_no_sign_of_life() -> None:
    made = Learning()
    made.hears("A", 0.0)
    made.hears("A", 50.0, retained=True)
    assert made.hears("B", 50.0)


def test_of_several_names_each_has_to_be_the_one_that_was_learned() -> None:
    levels, notes = LearnedLevels({}), list[LevelNote]()
    assert levels.takes({"serial": "A", "port": "1"}, 0.0, False, notes)
    assert not levels.takes({"serial": "A", "port": "2"}, 1.0, False, notes)
    assert levels.values == {"serial": "A", "port": "1"}
