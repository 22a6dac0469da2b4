"""The fate of a message: repeatable, independent of all others, and distributed as the rule says.

Counts over many messages are compared with the rule's own figures within four standard deviations, and
with the exact number that this seed gives: a change of the latter means that recorded runs no longer repeat.
"""

from __future__ import annotations

import itertools
import math
import statistics
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heron_mqtt.messaging.impaired.sampler import UNTOUCHED, Impairment, ImpairmentSampler, jitter_s
from heron_mqtt.messaging.impairment import RuleTable

N = 20_000
EVERYTHING = {
    "delay_s": 0.01,
    "jitter": "lognormal",
    "jitter_s": 0.02,
    "loss": 0.1,
    "burst": {"enter": 0.05, "leave": 0.3, "loss": 0.8},
    "duplicate": 0.1,
    "reorder": 0.1,
    "reorder_s": 0.1,
}


def _rule(**keys: Any) -> RuleTable:
    return RuleTable.model_validate(keys)


def _impairments(rule: RuleTable, n: int = N, *, seed: int = 1, stream: str = "out/c") -> list[Impairment]:
    sampler = ImpairmentSampler(rule, seed, stream)
    return [sampler.sample() for _ in range(n)]


def _within_four_sigma(count: int, n: int, p: float) -> bool:
    return abs(count - n * p) <= 4.0 * math.sqrt(n * p * (1.0 - p))


def test_without_a_rule_or_with_an_exempt_one_nothing_happens() -> None:
    for rule in (None, _rule(exempt=True), _rule()):
        sampler = ImpairmentSampler(rule, 1, "out/c")
        assert {sampler.sample() for _ in range(100)} == {UNTOUCHED}
        assert sampler.sampled == 100


def test_the_same_seed_and_stream_give_the_same_fates() -> None:
    rule = _rule(**EVERYTHING)
    assert _impairments(rule, 500) == _impairments(rule, 500)


@pytest.mark.parametrize("other", [{"seed": 2}, {"stream": "in/c"}, {"stream": "out/d"}])
def test_another_seed_direction_or_channel_gives_others(other: dict[str, Any]) -> None:
    rule = _rule(**EVERYTHING)
    same = sum(a == b for a, b in zip(_impairments(rule, 500), _impairments(rule, 500, **other), strict=True))
    assert same < 25


@given(st.lists(st.sampled_from("abc"), max_size=60))
def test_fates_do_not_depend_on_how_streams_interleave(order: list[str]) -> None:
    rule = _rule(**EVERYTHING)
    mixed = {name: ImpairmentSampler(rule, 7, f"out/{name}") for name in "abc"}
    got: dict[str, list[Impairment]] = {name: [] for name in "abc"}
    for name in order:
        got[name].append(mixed[name].sample())
    for name, impairments in got.items():
        assert impairments == _impairments(rule, len(impairments), seed=7, stream=f"out/{name}")


def test_what_else_a_rule_asks_for_does_not_change_who_is_lost() -> None:
    only_loss = [impairment.lost for impairment in _impairments(_rule(loss=0.1))]
    with_more = [impairment.lost for impairment in _impairments(_rule(loss=0.1, delay_s=1.0, duplicate=0.5))]
    assert only_loss == with_more


@pytest.mark.parametrize(
    ("keys", "attribute", "p", "exactly"),
    [
        ({"loss": 0.05}, "lost", 0.05, 947),
        ({"duplicate": 0.02}, "duplicated", 0.02, 402),
        ({"reorder": 0.2, "reorder_s": 1.0}, "held_back", 0.2, 3948),
    ],
)
def test_shares_are_those_of_the_rule(keys: dict[str, Any], attribute: str, p: float, exactly: int) -> None:
    count = sum(getattr(impairment, attribute) for impairment in _impairments(_rule(**keys)))
    assert _within_four_sigma(count, N, p)
    assert count == exactly


@pytest.mark.parametrize(("p", "expected"), [(0.0, 0), (1.0, N)])
def test_never_is_never_and_always_is_always(p: float, expected: int) -> None:
    impairments = _impairments(_rule(loss=p, duplicate=p))
    assert sum(impairment.lost for impairment in impairments) == expected
    assert sum(impairment.duplicated for impairment in impairments) == expected


def test_independent_losses_have_no_memory() -> None:
    lost = [impairment.lost for impairment in _impairments(_rule(loss=0.2))]
    after_a_loss = [now for before, now in itertools.pairwise(lost) if before]
    assert _within_four_sigma(sum(after_a_loss), len(after_a_loss), 0.2)


def test_bursts_have_the_share_and_the_length_of_the_model() -> None:
    lost = [impairment.lost for impairment in _impairments(_rule(burst={"enter": 0.01, "leave": 0.2}))]
    runs = [len(run) for run in "".join("x" if one else "." for one in lost).split(".") if run]
    share, length = sum(lost) / N, statistics.mean(runs)
    # share enter / (enter + leave), length 1 / leave; successive messages are correlated, so the variance
    # of the share is about (2 / 0.21 - 1) times that of independent ones
    assert abs(share - 0.01 / 0.21) < 4.0 * math.sqrt(0.0476 * 0.9524 / N * (2 / 0.21 - 1))
    assert abs(length - 5.0) < 4.0 * math.sqrt((1 - 0.2) / 0.2**2 / len(runs))
    assert (sum(lost), len(runs), max(runs)) == (936, 179, 38)


def test_losses_in_and_outside_bursts_are_told_apart() -> None:
    impairments = _impairments(_rule(loss=0.01, burst={"enter": 0.02, "leave": 0.2, "loss": 0.5}))
    in_bursts = sum(impairment.in_burst for impairment in impairments)
    assert all(impairment.lost for impairment in impairments if impairment.in_burst)
    assert 0 < in_bursts < sum(impairment.lost for impairment in impairments)


@pytest.mark.parametrize(
    ("keys", "mean_s", "sd_s"),
    [
        ({"jitter": "uniform", "jitter_s": 0.06}, 0.03, 0.06 / math.sqrt(12)),
        (
            {"jitter": "normal", "jitter_s": 0.05},
            0.05 * math.sqrt(2 / math.pi),
            0.05 * math.sqrt(1 - 2 / math.pi),
        ),
        (
            {"jitter": "lognormal", "jitter_s": 0.02, "jitter_shape": 0.5},
            0.02 * math.exp(0.125),
            0.02 * math.exp(0.125) * math.sqrt(math.exp(0.25) - 1),
        ),
        ({"jitter": "pareto", "jitter_s": 0.09, "jitter_shape": 10.0}, 0.01, 0.01 * math.sqrt(10 / 8)),
    ],
    ids=lambda value: value["jitter"] if isinstance(value, dict) else "",
)
def test_delays_have_the_mean_and_spread_of_the_distribution(
    keys: dict[str, Any], mean_s: float, sd_s: float
) -> None:
    delays = [impairment.delay_s for impairment in _impairments(_rule(delay_s=0.1, **keys))]
    assert min(delays) >= 0.1
    assert abs(statistics.mean(delays) - 0.1 - mean_s) < 4.0 * sd_s / math.sqrt(N)
    assert statistics.stdev(delays) == pytest.approx(sd_s, rel=0.05)


def test_a_constant_delay_is_constant() -> None:
    assert {impairment.delay_s for impairment in _impairments(_rule(delay_s=0.1), 100)} == {0.1}


@pytest.mark.parametrize("jitter", ["uniform", "normal", "lognormal", "pareto"])
@given(u=st.floats(2.0**-53, 1.0 - 2.0**-53), scale=st.floats(1e-6, 3600.0))
def test_jitter_is_never_negative_and_always_a_number(jitter: str, u: float, scale: float) -> None:
    for shape in [None] if jitter in {"uniform", "normal"} else [None, 0.1, 10.0]:
        value = jitter_s(_rule(jitter=jitter, jitter_s=scale, jitter_shape=shape), u)
        assert value >= 0.0
        assert math.isfinite(value)


def test_the_longest_delay_is_bounded() -> None:
    rule = _rule(delay_s=0.1, jitter="pareto", jitter_s=10.0, jitter_shape=0.5, max_delay_s=2.0)
    delays = [impairment.delay_s for impairment in _impairments(rule, 1000)]
    assert max(delays) == 2.0
    assert min(delays) < 2.0
