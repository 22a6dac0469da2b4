"""PresenceState: the worst that is said counts, live words win over kept ones, and silence is an end."""

from __future__ import annotations

from typing import Any

import pytest

from heron_mqtt.errors import MessageError
from heron_mqtt.field.vendor.presence_state import PresenceState
from heron_mqtt.field.vendor.tables import AvailabilityTable
from heron_mqtt.field.vendor.telemetry import AvailabilityReader
from heron_mqtt.messages import Status


def reader(topic: str = "box/there", **table: Any) -> AvailabilityReader:
    words = {"topic": topic, "online": ["on"], "offline": ["off"], "fault": ["ill"]}
    complaints: list[tuple[str, str]] = []
    made = AvailabilityReader(
        AvailabilityTable.model_validate({**words, **table}),
        lambda key, text: complaints.append((key, text)),
    )
    assert complaints == []
    return made


def state(presence: PresenceState, now_s: float | None = None) -> str | None:
    status = presence.status(now_s)
    return None if status is None else status.state


@pytest.mark.parametrize(
    ("words", "worst"),
    [
        (["on", "on"], "online"),
        (["on", "ill"], "fault"),
        (["ill", "off"], "offline"),
        (["off", "on"], "offline"),
    ],
)
def test_the_worst_that_its_topics_say_counts(words: list[str], worst: str) -> None:
    readers = [reader("box/a"), reader("box/b")]
    presence = PresenceState(readers)
    assert state(presence) is None
    assert not presence.is_surely_online(0.0)
    for each, word in zip(readers, words, strict=True):
        presence.take(each, each.topic, word.encode(), 0.0, retained=False)
    assert state(presence) == worst
    assert presence.is_surely_online(0.0) is (worst == "online")


def test_why_it_is_not_there_is_said_with_topic_and_word_and_cut_to_its_limit() -> None:
    made = reader()
    presence = PresenceState([made])
    presence.take(made, made.topic, b"ill", 0.0, retained=False)
    status = presence.status()
    assert status is not None
    assert status.reason == "box/there: ill"
    presence.take(made, "t" * 600, b"off", 0.0, retained=False)
    status = presence.status()
    assert status is not None
    assert status.reason == "t" * 500
    presence.take(made, made.topic, b"on", 0.0, retained=False)
    status = presence.status()
    assert status is not None
    assert status.reason is None


def test_a_live_word_wins_over_a_kept_one_until_the_next_connection() -> None:
    made = reader()
    presence = PresenceState([made])
    presence.take(made, made.topic, b"off", 0.0, retained=True)
    assert state(presence) == "offline"
    presence.take(made, made.topic, b"on", 0.0, retained=True)
    assert state(presence) == "online", "two that were kept: the newer one"
    presence.take(made, made.topic, b"off", 0.0, retained=False)
    presence.take(made, made.topic, b"on", 0.0, retained=True)
    assert state(presence) == "offline"
    presence.reconnected()
    assert state(presence) == "offline"
    presence.take(made, made.topic, b"on", 0.0, retained=True)
    assert state(presence) == "online"


def test_after_a_connection_it_is_surely_online_once_every_topic_has_said_so_again() -> None:
    readers = [reader("box/a"), reader("box/b")]
    presence = PresenceState(readers)
    for each in readers:
        presence.take(each, each.topic, b"on", 0.0, retained=False)
    presence.reconnected()
    assert state(presence) == "online"
    for each, is_sure in zip(readers, (False, True), strict=True):
        assert not presence.is_surely_online(0.0)
        presence.take(each, each.topic, b"on", 0.0, retained=True)
        assert presence.is_surely_online(0.0) is is_sure


def test_a_topic_that_is_silent_for_too_long_says_that_the_device_is_gone() -> None:
    made = reader(timeout_s=5.0)
    presence = PresenceState([made])
    presence.take(made, made.topic, b"on", 10.0, retained=False)
    assert state(presence, 15.0) == "online", "to the moment"
    late = presence.status(15.1)
    assert late is not None
    assert (late.state, late.reason) == ("offline", "box/there: nothing for 5 s")
    assert state(presence) == "online", "where silence is not looked at"
    presence.take(made, made.topic, b"off", 10.0, retained=False)
    late = presence.status(99.0)
    assert late is not None
    assert late.reason == "box/there: off", "it has said so itself"


def test_what_has_no_limit_may_be_silent() -> None:
    made = reader()
    presence = PresenceState([made])
    presence.take(made, made.topic, b"on", 0.0, retained=False)
    presence.say("node", Status(state="online"), 0.0)
    assert state(presence, 1e9) == "online"
    presence.say("node", Status(state="offline", reason="its death"), 0.0)
    assert state(presence, 1e9) == "offline"
    presence.say("node", Status(state="online"), 0.0, retained=True)
    assert state(presence, 1e9) == "online", "a birth that was kept counts, too"


def test_a_word_that_is_not_known_is_left_out_where_the_mapping_says_so() -> None:
    made = reader(other="ignore")
    presence = PresenceState([made])
    with pytest.raises(MessageError, match="expected one of on, off, ill"):
        presence.take(made, made.topic, b"asleep", 0.0, retained=False)
    assert state(presence) is None
    made = reader(other="fault")
    presence.take(made, made.topic, b"asleep", 0.0, retained=False)
    assert state(presence) == "fault"


def test_a_payload_without_the_word_says_nothing() -> None:
    made = reader(path="state")
    presence = PresenceState([made])
    presence.take(made, made.topic, b'{"other": 1}', 0.0, retained=False)
    assert state(presence) is None
    presence.take(made, made.topic, b'{"state": "ill"}', 0.0, retained=False)
    assert state(presence) == "fault"
    presence.take(made, made.topic, b"off", 0.0, retained=False)
    assert state(presence) == "offline", "a bare word, as the will of some devices is"


def test_what_is_said_otherwise_is_said_live_unless_it_was_kept() -> None:
    made = reader()
    for retained, wins in ((None, False), (False, False), (True, True)):
        presence = PresenceState([made])
        said = {} if retained is None else {"retained": retained}
        presence.say(made.topic, Status(state="fault"), 0.0, **said)
        presence.take(made, made.topic, b"on", 0.0, retained=True)
        assert state(presence) == ("online" if wins else "fault")
    presence = PresenceState([made])
    presence.take(made, made.topic, b"ill", 0.0)
    presence.take(made, made.topic, b"on", 0.0, retained=True)
    assert state(presence) == "fault"
