"""Rights of the embedded broker: what a row gives, to whom, and what a file may say."""

from __future__ import annotations

from pathlib import Path

import pytest

from heron_mqtt.errors import DataError
from heron_mqtt.messaging.embedded.auth import acl
from heron_mqtt.messaging.embedded.auth.acl import Acl, AclRow, ClientGrant
from support.rows import each_row

FILE = """\
# a comment
topic read open/#

user MG1
topic write heron/+/agents/%u/action
topic readwrite heron/+/agents/%u/#
topic deny heron/+/agents/%u/secret/#
topic subscribe only/subscribe
topic receive only/receive
topic plain words
user two words
topic publish two
pattern read clients/%c/#
"""


@pytest.fixture
def rights(tmp_path: Path) -> Acl:
    (tmp_path / "acl").write_text(FILE, encoding="utf-8")
    return Acl.load(tmp_path / "acl")


def may(grant: ClientGrant, topic: str) -> str:
    """Return the rights to a topic: p, s and r."""
    found = [grant.may_publish(topic), grant.may_subscribe(topic), grant.may_receive(topic)]
    return "".join(letter for letter, given in zip("psr", found, strict=True) if given)


@pytest.mark.parametrize(
    ("user", "topic", "given"),
    [
        (None, "open/a", "sr"),
        (None, "heron/e/agents/MG1/action", ""),
        ("MG1", "open/a", ""),
        ("MG1", "heron/e/agents/MG1/action", "psr"),
        ("MG1", "heron/e/agents/MG2/action", ""),
        ("MG1", "heron/e/agents/MG1/secret/x", ""),
        ("MG1", "only/subscribe", "s"),
        ("MG1", "only/receive", "r"),
        ("MG1", "plain words", "psr"),
        ("two words", "two", "p"),
        ("stranger", "open/a", ""),
        ("stranger", "clients/c1/x", "sr"),
        ("stranger", "clients/c2/x", ""),
    ],
)
def test_a_user_has_the_rights_of_its_rows_and_no_others(
    rights: Acl, user: str | None, topic: str, given: str
) -> None:
    grant = rights.grant(user, "c1")
    assert may(grant, topic) == given
    assert may(grant, topic) == given, "the answer is remembered"


def test_a_subscription_needs_one_row_that_covers_all_of_it(rights: Acl) -> None:
    grant = rights.grant("MG1", "c1")
    assert grant.may_subscribe("heron/+/agents/MG1/#")
    assert not grant.may_subscribe("heron/+/agents/+/#")
    assert not grant.may_subscribe("heron/#")
    assert not grant.may_subscribe("heron/e/agents/MG1/secret/#")


@pytest.mark.parametrize("user", ["+", "#", "a+b", "", None])
def test_a_name_that_would_widen_a_row_has_none_of_it(user: str | None) -> None:
    row = AclRow(frozenset({"publish"}), "a/%u")
    assert row.filled_in(user, "c1") is None
    assert AclRow(frozenset({"publish"}), "a/b").filled_in(user, "c1") is not None


@pytest.mark.parametrize("client_id", ["+", "#", "a/b", ""])
def test_a_client_id_that_would_widen_a_row_has_none_of_it(client_id: str) -> None:
    assert AclRow(frozenset(), "a/%c").filled_in("u", client_id) is None
    assert AclRow(frozenset(), "a/b").filled_in("u", client_id) is not None


def test_names_are_put_in_once() -> None:
    row = AclRow(frozenset(), "%u/%c/%u").filled_in("%c", "me")
    assert row is not None
    assert row.topic_filter == "%c/me/%c"


@each_row(
    ("rows", "in_charge"),
    [
        ([("publish", "heron/e/estop")], True),
        ([("publish", "heron/+/estop")], True),
        ([("publish", "heron/#")], True),
        ([("publish", "#")], True),
        ([("publish", "heron")], False),
        ([("publish", "heron/e/agents/MG1/#")], False),
        ([("receive", "heron/#")], False),
        ([("publish", "heron/#"), ("", "heron/+/estop")], False),
        ([("publish", "heron/e/estop"), ("", "heron/f/estop")], True),
        ([], False),
    ],
)
def test_who_may_stop_one_environment_is_in_charge(rows: list[tuple[str, str]], in_charge: bool) -> None:
    made = [AclRow(frozenset({right} - {""}), topic_filter) for right, topic_filter in rows]
    assert ClientGrant(made).is_in_charge() is in_charge


def test_remembered_answers_are_bounded_and_stay_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acl, "_MAX_CACHED_ANSWERS", 3)
    grant = ClientGrant([AclRow(frozenset({"publish"}), "a/+")])
    held = []
    for number in range(5):
        assert grant.may_publish(f"a/{number}")
        held.append(len(grant._answers))
        assert not grant.may_publish(f"b/{number}")
        held.append(len(grant._answers))
    assert held == [1, 2, 3, 1, 2, 3, 1, 2, 3, 1], "what was asked before is remembered up to the bound"


@pytest.mark.parametrize(
    ("text", "row"),
    [
        ("user", 1),
        ("topic", 1),
        ("\ntopic read a#", 2),
        ("nonsense here", 1),
        ("topic deny", 1),
        ("pattern", 1),
        ("# fine\n\npattern read a/#/b", 3),
    ],
)
def test_a_row_that_is_wrong_is_named_with_its_number(tmp_path: Path, text: str, row: int) -> None:
    path = tmp_path / "acl"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=f"row {row}: ") as caught:
        Acl.load(path)
    assert len(caught.value.problems) == 1


def test_a_file_that_is_no_text_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "acl").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="cannot be read as UTF-8"):
        Acl.load(tmp_path / "acl")


@each_row(
    ("row", "in_charge"),
    [
        ("sites/7/heron/e/estop", True),
        ("sites/7/heron/+/estop", True),
        ("sites/7/heron/#", True),
        ("sites/#", True),
        ("+/+/heron/#", True),
        ("#", True),
        ("heron/#", False),
        ("sites/8/heron/#", False),
        ("sites/7/heron/e/agents/#", False),
    ],
)
def test_who_may_stop_is_in_charge_below_a_prefix_and_only_there(row: str, in_charge: bool) -> None:
    assert ClientGrant([AclRow(frozenset({"publish"}), row)]).is_in_charge("sites/7/") is in_charge
