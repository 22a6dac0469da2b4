"""Hashes of passwords are made as the page on the embedded broker says, and as costly."""

from __future__ import annotations

import pytest
from argon2 import PasswordHasher

from heron_mqtt.messaging.embedded.auth.users import hash_password, password_matches
from support.quick_hashes import hash_quickly

COSTLY = f"$argon2id$v=19$m={19 * 1024},t=2,p=1$"


@pytest.mark.usefixtures("costly_hashes")
def test_a_hash_is_argon2id_of_19_mib_in_2_passes() -> None:
    stored = hash_password(b"one")
    assert stored.startswith(COSTLY)
    assert password_matches(stored, b"one")
    assert not password_matches(stored, b"two")


@pytest.mark.usefixtures("costly_hashes")
def test_who_is_no_user_is_checked_against_a_hash_of_the_same_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[str] = []

    def verify(_self: PasswordHasher, stored: str, _password: bytes) -> bool:
        checked.append(stored)
        return True

    monkeypatch.setattr(PasswordHasher, "verify", verify)
    assert not password_matches(None, b"one")
    assert [stored.startswith(COSTLY) for stored in checked] == [True]


@pytest.mark.usefixtures("costly_hashes")  # and as before after it
def test_a_hash_of_the_tests_is_checked_as_it_was_made() -> None:
    hash_quickly()
    stored = hash_password(b"one")
    assert ",t=1," in stored
    assert password_matches(stored, b"one")
    assert not password_matches(stored, b"two")
