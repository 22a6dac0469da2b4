"""The filters held at the MQTT broker: all that is wanted is covered, nothing is covered twice."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from heron_mqtt.messaging.mqtt.subscriptions import BrokerSubscriptions, SubscriptionChange, covers

FILTERS = ["#", "a/#", "a/+", "a/b", "a/c", "+/b", "b", "a/b/c", "a/+/c", "+/+"]


class Model:
    """A broker that keeps its subscriptions, and refuses some."""

    def __init__(self, refuses: set[str]) -> None:
        self.refuses = refuses
        self.held: set[str] = set()
        self.wanted: set[str] = set()
        self.subscriptions = BrokerSubscriptions(lambda: self.wanted)

    def subscribe(self, f: str) -> None:
        if f in self.refuses:
            self.held.discard(f)
            self.apply(self.subscriptions.refused(f))
        else:
            self.held.add(f)
            self.apply(self.subscriptions.accepted(f))

    def apply(self, change: SubscriptionChange) -> None:
        for f in change.subscribe:
            self.subscribe(f)
        for f in change.unsubscribe:
            self.held.discard(f)


@given(
    st.lists(
        st.tuples(st.sampled_from(["want", "drop", "reconnect"]), st.sampled_from(FILTERS)), max_size=25
    ),
    st.sets(st.sampled_from(FILTERS), max_size=3),
)
def test_what_is_wanted_is_covered_once_whatever_comes_and_goes(
    steps: list[tuple[str, str]], refuses: set[str]
) -> None:
    model = Model(refuses)
    for what, f in steps:
        if what == "want":
            model.wanted.add(f)
            model.subscribe(model.subscriptions.add(f))
        elif what == "drop" and f in model.wanted:
            model.wanted.discard(f)
            model.apply(model.subscriptions.removed(f))
        elif what == "reconnect":
            model.held.clear()
            model.apply(model.subscriptions.restart())
        for w in model.wanted - refuses:
            assert any(covers(h, w) for h in model.held), f"{w} is not covered by {model.held}"
        for h in model.held:
            assert not any(covers(o, h) for o in model.held - {h}), f"{h} is covered twice: {model.held}"
            assert any(covers(h, w) for w in model.wanted), f"nobody wants {h}"


def test_a_second_subscription_asks_again_for_what_covers_it() -> None:
    subscriptions = BrokerSubscriptions(lambda: ["a/#", "a/b"])
    assert subscriptions.add("a/#") == "a/#"
    assert subscriptions.add("a/b") == "a/#"
    assert subscriptions.add("a/b") == "a/#"


def test_a_filter_that_becomes_superfluous_is_given_up_only_when_the_wide_one_is_granted() -> None:
    subscriptions = BrokerSubscriptions(lambda: ["a/#", "a/b"])
    subscriptions.add("a/b")
    subscriptions.accepted("a/b")
    assert subscriptions.add("a/#") == "a/#"
    assert subscriptions.accepted("a/#") == SubscriptionChange(unsubscribe=["a/b"])


def test_thousands_of_channels_are_held_in_little_time() -> None:
    wanted = [f"agents/MG{i}/{leaf}" for i in range(1_000) for leaf in ("observation", "command")]
    subscriptions = BrokerSubscriptions(lambda: wanted)
    for f in wanted:
        assert subscriptions.add(f) == f
    assert subscriptions.restart().subscribe == sorted(wanted)
