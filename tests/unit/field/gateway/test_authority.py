"""The ladder of authority: which gate refuses which step of it, and that going down needs no consent."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime

import pytest

from heron_mqtt.errors import ConfigError
from heron_mqtt.field.gateway.authority import (
    HAS_WAITED,
    LADDER,
    REAL_LEVELS,
    SENDS,
    Authority,
    Evidence,
    gates,
    lower,
)
from heron_mqtt.field.gateway.settings import BandTable, GatewayTable
from heron_mqtt.messages import AuthorityState, Level
from support.field_rig import BAND, Rig
from support.rows import each_row

NOW = datetime(2026, 1, 1, tzinfo=UTC)
GOOD = Evidence("online", True, 4)
DOWN = [(a, b) for a, b in itertools.product(LADDER, LADDER) if LADDER.index(b) <= LADDER.index(a)]
UP = [(a, b) for a, b in itertools.product(LADDER, LADDER) if LADDER.index(b) > LADDER.index(a)]


def ask(before: Level, level: Level, evidence: Evidence, *, has_band: bool = True) -> str:
    authority = Authority(before, gate_steps=4, has_band=has_band)
    authority.level = before
    change = authority.request(level, evidence, who="ann", why="test", at=NOW, step=3)
    assert change.granted == (change.reason == "")
    assert authority.level == (level if change.granted else before)
    assert authority.history == [change]
    assert (change.who, change.why, change.at, change.step) == ("ann", "test", NOW, 3)
    return change.reason


@each_row(("before", "level"), DOWN)
@each_row("health", ["online", "stale", "fault", "offline"])
def test_going_down_is_always_allowed(before: Level, level: Level, health: str) -> None:
    assert ask(before, level, Evidence(health, False, 0), has_band=False) == ""


@each_row(("before", "level"), UP)
def test_going_up_with_good_evidence_is_granted_but_for_the_last_rung(before: Level, level: Level) -> None:
    reason = ask(before, level, GOOD)
    if level == "full" and before != "limited":
        assert reason == f"gate ladder: full is reached from limited, not from {before}"
    else:
        assert reason == ""


@each_row(("before", "level"), UP)
@each_row("health", ["stale", "fault", "offline"])
def test_gate_health(before: Level, level: Level, health: str) -> None:
    assert ask(before, level, Evidence(health, True, 99)) == (
        f"gate health: the device is {health}, it must be online"
    )


@each_row(("before", "level"), UP)
def test_gate_telemetry(before: Level, level: Level) -> None:
    assert ask(before, level, Evidence("online", False, 99)).startswith("gate telemetry: ")


@pytest.mark.parametrize("before", ["simulated", "emulated", "shadow"])
def test_gate_band(before: Level) -> None:
    assert ask(before, "limited", GOOD, has_band=False) == (
        "gate band: limited needs a band; set gateway.band in the scenario"
    )


@pytest.mark.parametrize(
    ("before", "level"),
    [("simulated", "limited"), ("emulated", "limited"), ("shadow", "limited"), ("limited", "full")],
)
def test_gate_residual(before: Level, level: Level) -> None:
    assert ask(before, level, Evidence("online", True, 3)) == (
        "gate residual: 3 steps in a row were steady, 4 are needed"
    )


def test_history_is_bounded() -> None:
    authority = Authority("simulated", gate_steps=1, has_band=True)
    for _ in range(1_100):
        authority.request("simulated", GOOD, who="a", why="", at=NOW, step=0)
    assert len(authority.history) == 1_000


@pytest.mark.parametrize(("low", "high"), [(0.1, 0.2), (-0.2, -0.1)])
def test_a_band_without_the_safe_state_is_refused(low: float, high: float) -> None:
    with pytest.raises((ConfigError, ValueError), match="a band must hold 0"):
        GatewayTable(band=BandTable(p_min_mw=low, p_max_mw=high))


@each_row(
    ("scenario", "kept", "is_lower", "ceiling", "level"),
    [
        ("full", {"level": "shadow", "ceiling": "shadow", "demoted": True}, True, "shadow", "shadow"),
        (
            "full",
            {"level": "simulated", "ceiling": "simulated", "demoted": True},
            True,
            "simulated",
            "simulated",
        ),
        ("full", {"level": "shadow", "ceiling": "limited", "demoted": True}, True, "limited", "shadow"),
        ("full", {"level": "shadow", "ceiling": "shadow", "demoted": False}, False, "full", "shadow"),
        ("full", {"level": "full", "ceiling": "full", "demoted": True}, False, "full", "shadow"),
        ("limited", {"level": "full", "ceiling": "full", "demoted": True}, False, "limited", "shadow"),
        ("shadow", {"level": "shadow", "ceiling": "shadow", "demoted": True}, False, "shadow", "shadow"),
        ("full", {"level": "shadow"}, True, "shadow", "shadow"),  # of one that knew no ceilings
        ("simulated", {"level": "shadow"}, False, "simulated", "simulated"),
    ],
)
def test_of_the_scenario_and_what_an_earlier_run_left_the_lower_holds(
    scenario: Level, kept: dict[str, object], is_lower: bool, ceiling: Level, level: Level
) -> None:
    authority = Authority(scenario, gate_steps=4, has_band=True)
    assert authority.resume(AuthorityState.model_validate(kept)) is is_lower
    assert (authority.ceiling, authority.level, authority.is_demoted) == (ceiling, level, is_lower)


def test_a_request_below_the_scenario_is_a_demotion_until_a_request_at_it() -> None:
    authority = Authority("limited", gate_steps=4, has_band=True)
    for level, is_demoted in (("shadow", True), ("simulated", True), ("shadow", True), ("limited", False)):
        authority.request(level, GOOD, who="ann", why="", at=NOW, step=0)
        assert (authority.ceiling, authority.is_demoted) == (level, is_demoted)


@pytest.mark.parametrize(
    ("ceiling", "before", "level", "is_raised"),
    [
        ("full", "limited", "full", True),
        ("full", "shadow", "shadow", False),
        ("full", "full", "limited", False),
        ("shadow", "shadow", "limited", True),
        ("simulated", "simulated", "simulated", False),
        ("simulated", "shadow", "shadow", True),  # it stood above its ceiling
    ],
)
def test_a_request_that_has_waited_raises_nothing(
    ceiling: Level, before: Level, level: Level, is_raised: bool
) -> None:
    authority = Authority(ceiling, gate_steps=4, has_band=True)
    authority.level = before
    change = authority.request(level, GOOD, who="ann", why="", at=NOW, step=0, has_waited=True)
    assert change.reason == (HAS_WAITED if is_raised else "")
    assert authority.ceiling == (ceiling if is_raised else level)


@pytest.mark.parametrize(
    ("ceiling", "has_band", "plausible", "steps"),
    [
        ("full", True, 4, ["limited", "full"]),
        ("full", False, 4, ["full"]),
        ("limited", True, 4, ["limited"]),
        ("full", True, 3, []),
        ("simulated", True, 4, []),
    ],
)
def test_it_rises_rung_by_rung_by_enough_telemetry_and_then_by_steady_steps(
    ceiling: Level, has_band: bool, plausible: int, steps: list[Level]
) -> None:
    authority = Authority(ceiling, gate_steps=4, has_band=has_band)
    rungs = []
    while (
        change := authority.rise(Evidence("online", True, 4, plausible=plausible), at=NOW, step=7)
    ) is not None:
        assert (change.granted, change.who, change.step) == (True, "scenario", 7)
        rungs.append(authority.level)
    assert rungs == steps
    if plausible < 4:
        assert authority.waits_for == (
            "gate telemetry: 3 plausible telemetry messages in a row, 4 are needed"
        )
    else:
        assert authority.waits_for == ""


def test_from_limited_it_does_not_rise_without_steady_steps() -> None:
    authority = Authority("full", gate_steps=4, has_band=True)
    authority.level = "limited"
    assert authority.rise(Evidence("online", True, 3, plausible=99), at=NOW, step=0) is None
    assert authority.waits_for == "gate residual: 3 steps in a row were steady, 4 are needed"
    assert authority.rise(Evidence("online", True, 4), at=NOW, step=0) is not None


def test_a_device_without_a_birth_rises_to_nothing() -> None:
    for level in ("shadow", "limited"):
        assert ask("simulated", level, Evidence("online", True, 9, is_born=False)) == (
            "gate health: the device has not said that it is online (its birth, retained)"
        )


@pytest.mark.parametrize("level", LADDER)
def test_a_real_device_is_never_held_at_a_level_for_emulators(level: Level) -> None:
    authority = Authority("full", gate_steps=1, has_band=True, is_real=True)
    authority.level = "full"
    change = authority.request(level, GOOD, who="ann", why="", at=NOW, step=0)
    assert change.granted is (level in REAL_LEVELS)
    if not change.granted:
        assert change.reason == (
            f"gate kind: a real device is at the other end, {level} is for emulators; "
            "expected simulated, shadow, limited, full"
        )
    assert Authority(level, gate_steps=1, has_band=True, is_real=True).ceiling == (
        "shadow" if level == "emulated" else level
    )


def test_the_lower_of_two_levels() -> None:
    for one, other in itertools.product(LADDER, LADDER):
        assert lower(one, other) == LADDER[min(LADDER.index(one), LADDER.index(other))]


def test_a_change_is_shown_with_its_reason() -> None:
    authority = Authority("simulated", gate_steps=4, has_band=True)
    granted = authority.request("simulated", GOOD, who="ann", why="", at=NOW, step=3)
    assert str(granted) == "step 3: simulated -> simulated by ann: granted"
    refused = authority.request("full", GOOD, who="bob", why="noon", at=NOW, step=4)
    assert str(refused) == (
        "step 4: simulated -> full by bob (noon): "
        "gate ladder: full is reached from limited, not from simulated"
    )
    assert authority.history == [granted, refused]


# -- in the gateway --------------------------------------------------------------------------------


async def test_a_birth_alone_promotes_nobody() -> None:
    rig = await Rig("simulated").open(measure=False)
    assert rig.ask("shadow") == "gate telemetry: there is no fresh telemetry of the device"
    rig.measure()
    assert rig.ask("shadow") == ""


async def test_the_way_up_needs_steady_steps_and_the_way_down_none() -> None:
    rig = await Rig("shadow").open()
    for _ in range(4):
        assert rig.ask("limited").startswith(("gate residual", "gate telemetry"))
        rig.measure()
        rig.step()
        rig.measure()
    rig.step()
    assert rig.ask("limited") == ""
    assert rig.ask("full").startswith("gate residual: 0 steps")
    for _ in range(4):
        rig.step()
    assert rig.ask("full") == ""
    rig.say("status", state="offline")
    assert rig.ask("simulated") == ""


async def test_a_residual_above_the_gate_starts_the_count_again() -> None:
    rig = await Rig("limited", gate_residual_mw=0.001).open()
    for _ in range(3):
        rig.step(0.005)
    rig.answer = lambda rig, setpoint: rig.measure(ack=setpoint, p_mw=setpoint["p_mw"] + 0.002)
    rig.step(0.005)
    assert rig.ask("full").startswith("gate residual: 0 steps")


async def test_limited_sends_within_its_band_and_says_so() -> None:
    rig = await Rig("limited").open()
    rig.step(0.04)
    assert rig.sent[-1]["p_mw"] == BAND.p_max_mw
    assert rig.bound == "band of limited authority"
    rig.step(-0.04)
    assert rig.sent[-1]["p_mw"] == BAND.p_min_mw


async def test_shadow_and_simulated_send_nothing_at_all() -> None:
    for level in ("shadow", "simulated"):
        rig = await Rig(level).open()
        for _ in range(5):
            rig.measure()
            rig.step()
        rig.gateway._renew()
        rig.gateway.close()
        assert rig.sent == []


async def test_a_demotion_is_in_force_at_once_also_between_clearing_and_sending() -> None:
    for level, most_mw in (("shadow", None), ("simulated", None), ("limited", BAND.p_max_mw)):
        rig = await Rig("full").open()
        rig.step(0.04)
        allowed = rig.gateway.clamp_setpoints(rig.agent.wanted())
        assert rig.ask(level) == ""
        before = len(rig.sent)
        rig.gateway.send(allowed, dt_s=900.0, episode=1, step=1)
        later = [setpoint["p_mw"] for setpoint in rig.sent[before:]]
        assert later == ([] if most_mw is None else [most_mw]), level
        rig.gateway.settle(allowed)


async def test_what_the_new_level_does_not_allow_is_not_renewed() -> None:
    for level in ("shadow", "limited"):
        rig = await Rig("full").open()
        rig.step(0.04)
        rig.gateway._renew()
        assert len(rig.sent) == 2
        assert rig.ask(level) == ""
        rig.gateway._renew()
        assert [s for s in rig.sent[2:] if not s.get("release")] == [], level
        assert [s["p_mw"] for s in rig.sent[2:]] == ([0.0] if level == "shadow" else []), "it is given back"
    rig = await Rig("full").open()
    rig.step(0.004)
    rig.ask("limited")
    rig.gateway._renew()
    assert len(rig.sent) == 2, "what is inside the band goes on"


async def test_a_change_of_level_makes_no_jump() -> None:
    rig = await Rig("full").open()
    rig.soc = 0.83
    rig.step(0.02)
    rig.ask("simulated")
    rig.step(0.02)
    assert rig.agent.report().soc["ess"] == pytest.approx(0.83, abs=0.03), "one step of 15 minutes at most"
    rig.soc, rig.p_mw = 0.31, -0.01
    rig.measure()
    assert rig.ask("shadow") == ""
    assert rig.agent.devices["ess"].state.soc == 0.31  # type: ignore[attr-defined]
    assert rig.agent.devices["ess"].state.p_mw == -0.01


async def test_a_real_device_s_state_counts_from_the_first_setpoint_of_an_episode() -> None:
    rig = await Rig("full").open()
    rig.say("status", state="online")  # hardware: it follows no episodes
    rig.soc = 0.1  # empty: it can give nothing
    rig.measure()
    rig.agent.reset(2, None)
    rig.gateway.begin_episode()
    rig.step(0.05)
    assert rig.sent[-1]["p_mw"] == 0.0
    assert rig.bound is not None or rig.p_done_mw == 0.0


async def test_every_change_is_recorded_announced_and_retained() -> None:
    rig = await Rig("full").open()
    rig.step(0.02)
    rig.ask("shadow", who="ann", why="maintenance")
    rig.measure()
    rig.ask("full", who="bob")
    assert rig.gateway.report()["ess"]["changes"] == [
        "step 0: full -> shadow by ann (maintenance): granted",
        "step 0: shadow -> full by bob (test): gate ladder: full is reached from limited, not from shadow",
    ]
    told: list[dict[str, object]] = []
    rig.broker.subscribe("devices/MG1/ess/authority_state", lambda m: told.append({**m, "kept": m.retained}))
    (state,) = told
    assert state["kept"]
    assert (state["level"], state["requested"], state["granted"]) == ("shadow", "full", False)
    assert str(state["reason"]).startswith("gate ladder")


async def test_a_retained_request_promotes_nobody_after_a_restart() -> None:
    rig = Rig("simulated")
    request = {"type": "authority_request", "level": "shadow", "who": "ann"}
    rig.broker.publish("devices/MG1/ess/authority", request, retain=True)
    await rig.open()
    assert rig.gateway.authority.history("ess") == ()
    assert "must not be retained" in rig.broker.stats.reports[-1].what


async def test_a_request_that_is_none_is_refused_and_named() -> None:
    rig = await Rig("simulated").open()
    rig.broker.publish("devices/MG1/ess/authority", {"type": "authority_request", "level": "god", "who": "x"})
    assert rig.gateway.authority.level("ess") == "simulated"
    assert "level" in rig.broker.stats.reports[-1].what
    assert rig.broker.stats.callback_errors == 0


def test_the_levels_that_send() -> None:
    assert {"emulated", "limited", "full"} == SENDS


def test_the_ladder_begins_at_the_bottom_and_a_device_that_was_not_heard_has_proven_nothing() -> None:
    assert LADDER == ("simulated", "emulated", "shadow", "limited", "full")
    assert REAL_LEVELS == ("simulated", "shadow", "limited", "full")
    assert Evidence("online", True, 0).plausible == 0


def test_over_a_real_device_no_authority_begins_at_the_level_of_emulators() -> None:
    authority = Authority("emulated", gate_steps=1, has_band=True, is_real=True)
    assert (authority.level, authority.ceiling) == ("shadow", "shadow")


@each_row(("before", "level"), [*DOWN, *UP])
def test_the_gates_that_are_shown_beforehand_are_those_that_refuse(before: Level, level: Level) -> None:
    shown = {gate.partition(":")[0] for gate in gates(before, level)}
    refusing = set()
    for evidence in (
        *(Evidence("offline", True, 9), Evidence("online", False, 9), Evidence("online", True, 0), GOOD),
        Evidence("online", True, 9, is_born=False),
    ):
        for has_band, is_real in itertools.product((True, False), repeat=2):
            authority = Authority(before, gate_steps=4, has_band=has_band, is_real=is_real)
            authority.level = before
            change = authority.request(level, evidence, who="ann", why="test", at=NOW, step=3)
            if not change.granted:
                refusing.add(change.reason.removeprefix("gate ").partition(":")[0])
    assert refusing <= shown
    assert shown - refusing <= {"residual"}, "residual is asked for last, after the ladder"


@pytest.mark.parametrize("wanted_mw", [0.02, -0.02])
async def test_limited_without_a_band_is_told_nothing_but_zero(wanted_mw: float) -> None:
    """The scenario and the gate refuse it; were it there all the same, it must not be full power."""
    rig = await Rig("limited", band=None).open()
    rig.step(wanted_mw)
    assert [setpoint["p_mw"] for setpoint in rig.sent] == [0.0]
