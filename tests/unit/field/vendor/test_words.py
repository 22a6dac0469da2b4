"""Words of devices: the very word first, then in any case, then patterns in their order."""

from __future__ import annotations

from heron_mqtt.field.vendor.words import Words, is_off


def test_what_is_no_word_means_what_is_not_listed() -> None:
    words = Words({"a": 1, "B": 2, "b": 3, "c*d": 4}, "words", lambda key, text: None)
    assert [words.find(raw, 9) for raw in ([1], None, {"a": 1}, "A", "b", "CxxD", "c", "x")] == [
        9, 9, 9, 1, 3, 4, 9, 9,
    ]  # fmt: skip
    assert words.find("x") is None


def test_words_for_no_power_are_known_in_any_case() -> None:
    assert all(map(is_off, ("OFF", " Idle ", "stand-by", "0", "0.0", 0, 0.0, False)))
    assert not any(map(is_off, ("on", "charge", "auto", "1", 1, True)))
