"""The vertical protocols: a stale price never replaces a newer one, a command holds for its step alone."""

from __future__ import annotations

import random

import pytest

from heron_mqtt.messages import Command, PriceSignal
from heron_mqtt.protocols.price import PriceFollower
from heron_mqtt.protocols.setpoint import CommandFollower, StepCommand

MAX_AHEAD = 16


def price(
    value: float, episode: int | None = None, step: int | None = None, boot: str | None = "b1"
) -> PriceSignal:
    return PriceSignal(value=value, episode=episode, step=step, boot=boot)


def command(p: float, episode: int | None = None, step: int | None = None) -> Command:
    return Command.model_validate({"episode": episode, "step": step, "p_gen": p})


# -- price ---------------------------------------------------------------------------------------------


def test_before_the_first_price_there_is_none() -> None:
    follower = PriceFollower()
    assert follower.value is None
    assert not follower.is_for(1, 0)


def test_the_newest_price_counts() -> None:
    follower = PriceFollower()
    assert follower.receive(price(50.0, 1, 0))
    assert follower.receive(price(60.0, 1, 1))
    assert follower.value == 60.0
    assert follower.is_for(1, 1)
    assert not follower.is_for(1, 0)


@pytest.mark.parametrize("late", [(1, 3), (1, 0), (0, 9)])
def test_a_stale_price_is_ignored(late: tuple[int, int]) -> None:
    follower = PriceFollower()
    follower.receive(price(60.0, 1, 4))
    assert not follower.receive(price(10.0, *late))
    assert follower.value == 60.0
    assert follower.is_for(1, 4)


def test_a_repeated_price_changes_nothing_and_a_corrected_one_counts() -> None:
    follower = PriceFollower()
    follower.receive(price(60.0, 1, 4))
    follower.receive(price(60.0, 1, 4))
    assert follower.value == 60.0
    follower.receive(price(61.0, 1, 4))
    assert follower.value == 61.0


def test_a_price_from_a_person_counts_from_when_it_arrives() -> None:
    follower = PriceFollower()
    follower.receive(price(60.0, 1, 4))
    assert follower.receive(price(99.0))
    assert follower.value == 99.0
    follower.receive(price(61.0, 1, 5))
    assert follower.value == 61.0


def test_a_new_episode_begins_with_its_own_prices_at_any_step() -> None:
    follower = PriceFollower()
    follower.receive(price(60.0, 2, 90))
    follower.restart(1, "b1")
    assert not follower.is_for(2, 90)
    assert follower.value == 60.0, "still the best known"
    assert follower.receive(price(50.0, 1, 0))
    assert follower.is_for(1, 0)


def test_a_price_that_came_before_its_episode_was_prepared_is_kept() -> None:
    follower = PriceFollower()
    follower.receive(price(60.0, 1, 40))
    follower.restart(1, "b1")
    assert follower.is_for(1, 40)


def test_an_operator_that_starts_again_is_followed_from_its_first_step() -> None:
    follower = PriceFollower()
    follower.receive(price(60.0, 1, 95, boot="b1"))
    follower.restart(1, "b2")  # the same episode number, of another run
    assert not follower.is_for(1, 95)
    assert follower.receive(price(50.0, 1, 0, boot="b2"))
    assert follower.value == 50.0
    assert follower.is_for(1, 0)


@pytest.mark.parametrize(
    ("boot", "run", "is_kept"),
    [("b1", "b1", True), ("b1", None, True), (None, "b2", True), ("b1", "b2", False)],
)
def test_a_price_of_the_same_episode_is_forgotten_only_if_it_is_of_another_run(
    boot: str | None, run: str | None, is_kept: bool
) -> None:
    follower = PriceFollower()
    follower.restart(1, run)
    follower.receive(price(60.0, 1, 0, boot=boot))
    follower.restart(1, run)
    assert follower.is_for(1, 0) is is_kept
    assert follower.value == 60.0


@pytest.mark.parametrize(("episode", "step"), [(1, None), (None, 3)])
def test_a_price_without_a_whole_step_counts_from_when_it_arrives(
    episode: int | None, step: int | None
) -> None:
    follower = PriceFollower()
    follower.receive(price(60.0, 1, 4))
    assert follower.receive(price(99.0, episode, step))
    assert (follower.value, follower.is_for(1, 4)) == (99.0, True)


# -- command -------------------------------------------------------------------------------------------


def test_a_command_holds_for_exactly_its_step() -> None:
    follower = CommandFollower()
    assert follower.receive(command(1.0, 1, 3))
    assert follower.take(1, 2) is None
    assert follower.has(1, 3)
    assert follower.take(1, 3) == command(1.0, 1, 3)
    assert follower.take(1, 3) is None
    assert follower.take(1, 4) is None


def test_the_first_command_of_a_step_counts() -> None:
    follower = CommandFollower()
    assert follower.receive(command(1.0, 1, 3))
    assert not follower.receive(command(2.0, 1, 3))
    assert follower.take(1, 3) == command(1.0, 1, 3)


def test_a_command_that_comes_after_its_step_is_refused() -> None:
    follower = CommandFollower()
    follower.take(1, 3)
    assert not follower.receive(command(1.0, 1, 3))
    assert not follower.receive(command(1.0, 1, 2))
    assert not follower.has(1, 3)


def test_a_command_from_a_person_holds_for_the_next_step_that_begins_and_no_longer() -> None:
    follower = CommandFollower()
    follower.receive(command(1.0))
    follower.receive(command(2.0))
    assert follower.take(1, 7) == command(2.0), "the newest word"
    assert follower.take(1, 8) is None


def test_a_command_for_the_step_wins_over_one_without_a_step() -> None:
    follower = CommandFollower()
    follower.receive(command(1.0))
    follower.receive(command(2.0, 1, 7))
    assert follower.take(1, 7) == command(2.0, 1, 7)
    assert follower.take(1, 8) is None, "the other one was for the step that began"


def test_a_flood_of_commands_for_the_future_stays_bounded_and_does_not_displace_the_next_one() -> None:
    follower = CommandFollower()
    future = [(episode, step) for episode in (1, 2, 99) for step in range(1, 200)]
    random.Random(7).shuffle(future)
    for at in future:
        follower.receive(command(9.0, *at))
    assert sum(follower.has(*at) for at in future) <= MAX_AHEAD
    assert follower.receive(command(1.0, 1, 0))
    assert follower.take(1, 0) == command(1.0, 1, 0)


def test_when_too_many_are_kept_the_one_furthest_ahead_is_refused() -> None:
    follower = CommandFollower()
    for step in range(MAX_AHEAD):
        assert follower.receive(command(1.0, 1, step))
    assert not follower.receive(command(1.0, 1, MAX_AHEAD))
    assert all(follower.has(1, step) for step in range(MAX_AHEAD))


def test_a_new_episode_forgets_the_commands_of_others() -> None:
    follower = CommandFollower()
    follower.take(2, 95)
    follower.receive(command(1.0, 2, 96))
    follower.restart(1)
    assert not follower.has(2, 96)
    assert follower.receive(command(2.0, 1, 0)), "its steps count from the beginning"
    assert follower.take(1, 0) == command(2.0, 1, 0)


def test_the_plain_form_of_a_command_says_what_its_message_says() -> None:
    plain = StepCommand(2, 5, {"ess": 0.25, "pv": 0.5}, {"pv": -0.125})
    message = Command.model_validate(plain.to_fields())
    assert (message.episode, message.step, message.boot) == (plain.episode, plain.step, plain.boot)
    assert message.model_extra == plain.setpoints() == {"p_ess": 0.25, "p_pv": 0.5, "q_pv": -0.125}
    for prefix in ("p_", "q_"):
        assert message.values(prefix) == plain.values(prefix)
    follower = CommandFollower()
    assert follower.receive(plain)
    assert follower.take(2, 5) is plain
    assert plain.values("soc_") == {}


@pytest.mark.parametrize(("episode", "step"), [(1, None), (None, 3)])
def test_a_command_without_a_whole_step_holds_for_the_next_one(episode: int | None, step: int | None) -> None:
    follower = CommandFollower()
    assert follower.receive(command(1.0, episode, step))
    assert follower.take(9, 9) == command(1.0, episode, step)


def test_commands_of_steps_that_were_left_out_are_forgotten() -> None:
    follower = CommandFollower()
    for step in (2, 3, 4):
        follower.receive(command(float(step), 1, step))
    assert follower.take(1, 3) == command(3.0, 1, 3)
    assert [follower.has(1, step) for step in (2, 3, 4)] == [False, False, True]


@pytest.mark.parametrize(
    ("boot", "run", "is_kept"),
    [("b1", "b1", True), ("b1", None, True), (None, "b2", True), ("b1", "b2", False)],
)
def test_a_command_that_came_before_its_episode_was_prepared_is_kept_unless_it_is_of_another_run(
    boot: str | None, run: str | None, is_kept: bool
) -> None:
    follower = CommandFollower()
    follower.receive(command(1.0, 2, 0).model_copy(update={"boot": boot}))
    follower.receive(command(1.0, 1, 95))
    follower.restart(2, run)
    assert (follower.has(2, 0), follower.has(1, 95)) == (is_kept, False)
