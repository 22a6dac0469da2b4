"""``heron-mqtt faults``: what it takes, and that what must not be is seen."""

from __future__ import annotations

import json
import random
import signal

import pytest

from heron_mqtt.cli.faults_commands import _print_end
from heron_mqtt.testing.faults import FAULT_TRIALS, FaultsOutcome, run_trials
from heron_mqtt.testing.faults.run import FaultResult
from heron_mqtt.testing.faults.stream import NumberedStream
from heron_mqtt.testing.faults.tally import FaultTally
from heron_mqtt.testing.faults.trial import FaultTrial
from heron_mqtt.testing.faults.trial_site import ENV, TrialSite
from support.heron_command import heron, run_heron


def test_the_faults_are_listed_with_their_promises() -> None:
    done = run_heron("faults", "--list")
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert len(lines) == len(FAULT_TRIALS)
    assert "kill -9 the broker; it returns with nothing kept; promised: " in done.out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--only", "kill-nobody"], "--only kill-nobody: no such fault; expected kill-run, "),
        (["--times", "0"], "--times 0: expected a number from 1 to 1000"),
        (["--on", "hivemq"], "--on hivemq: no such broker; expected mosquitto, embedded, nats"),
    ],
)
def test_wrong_arguments_are_named_with_what_was_expected(arguments: list[str], told: str) -> None:
    done = run_heron("faults", *arguments)
    assert done.code == 2
    assert len(done.errors) == 1
    assert told in done.errors[0]


def test_where_nothing_can_be_tried_that_is_no_success() -> None:
    def never(stream: NumberedStream) -> None:
        raise AssertionError("it was said that this cannot be tried")

    trial = FaultTrial("bad", "it cannot be tried", "nothing", in_stream=never, why_not=lambda: "no disk")
    outcome = run_trials([trial], ["embedded"], times=1, outcome=FaultsOutcome(0))
    (result,) = outcome.results
    assert (result.verdict, result.why_not, outcome.is_kept) == ("not tried", "no disk", False)


def test_what_was_asked_for_and_not_tried_is_named_and_no_success(capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = (FaultTrial(name, "nothing is done", "nothing") for name in ("good", "bad"))
    results = [
        FaultResult(good, "embedded", FaultTally(tried=1)),
        FaultResult(bad, "embedded", why_not="no disk"),
        *(FaultResult(trial, "nats", why_not="no nats") for trial in (good, bad)),
    ]
    left_out = FaultsOutcome(0, results=results)
    _print_end(left_out)
    assert left_out.is_kept
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.endswith("kept; not tried: bad on embedded (no disk); good, bad on nats (no nats)")

    asked = FaultsOutcome(0, frozenset({"nats", "embedded"}), results)
    _print_end(asked)
    assert (asked.is_kept, asked.as_dict()["kept"]) == (False, False)
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.endswith("kept; ASKED FOR AND NOT TRIED: good, bad on nats (no nats)")
    assert not FaultsOutcome(0, frozenset({"bad"}), results).is_kept
    assert FaultsOutcome(0, frozenset({"embedded"}), results).is_kept


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_quick_part_keeps_every_promise() -> None:
    with heron("faults", "--quick", "--json") as program:
        done = program.wait(580.0)
    assert done.code == 0, done.err[-3000:]
    told = json.loads(done.out)
    assert told["kept"] is True
    assert len(told["faults"]) == len([trial for trial in FAULT_TRIALS if trial.is_quick])


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", ["stop-proxy", "estop-forgotten", "replay"])
def test_a_site_on_the_embedded_broker_keeps_its_promises(name: str) -> None:
    with heron("faults", "--on", "embedded", "--only", name, "--times", "1", "--seed", "5") as program:
        done = program.wait(280.0)
    assert done.code == 0, done.out + done.err[-3000:]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_setpoints_that_must_not_be_are_seen() -> None:
    """A trial that breaks promises itself, as a gateway with a fault would, does not pass."""

    def misbehave(site: TrialSite, rng: random.Random) -> None:
        site.stopped.clear()
        for name, told in (
            ("MG1/ess", {"p_mw": 9.0, "lease_s": 1.0}),
            ("MG1/ess", {"p_mw": 0.001, "lease_s": 60.0}),
            ("MG3/ess", {"p_mw": 0.001, "lease_s": 1.0}),
        ):
            message = {"type": "setpoint", "sender": "MG1", "boot": "old", "seq": 0, **told}
            site.observer.publish(f"heron/{ENV}/devices/{name}/setpoint", message)
        site.is_over()

    trial = FaultTrial("bad", "it misbehaves", "nothing", at_site=misbehave)
    outcome = run_trials([trial], ["embedded"], times=1, outcome=FaultsOutcome(0))
    (result,) = outcome.results
    assert (result.tally.outside, result.tally.to_shadow, outcome.is_kept) == (2, 1, False)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_trial_that_fails_itself_is_broken_and_the_next_one_is_tried_on_a_whole_site() -> None:
    def fail(site: TrialSite, rng: random.Random) -> None:
        assert site.proxy is not None
        site.proxy.signal(signal.SIGSTOP)
        raise AssertionError("what it looked for was not there")

    def leave_out(site: TrialSite, rng: random.Random) -> None:
        site.was_not_tried("it was not the day for it")

    bad = FaultTrial("bad", "it fails", "nothing", at_site=fail)
    good = FaultTrial("good", "nothing is done", "nothing", at_site=lambda site, _: site.is_over())
    left_out = FaultTrial("out", "it cannot be done", "nothing", at_site=leave_out)
    outcome = run_trials([bad, good, left_out], ["embedded"], times=1, outcome=FaultsOutcome(0))
    assert [one.verdict for one in outcome.results] == ["BROKEN", "kept", "not tried"]
    assert outcome.results[0].tally.notes == [
        "the trial itself failed: AssertionError: what it looked for was not there"
    ]
    assert outcome.results[2].why_not == "it was not the day for it"
    assert not outcome.results[2].tally.recovered_s


@pytest.mark.slow
def test_a_message_that_nobody_misses_is_seen() -> None:
    def forget(stream: NumberedStream) -> None:
        stream.publish()
        stream.pause(0.2, 0.3)
        del stream.got[len(stream.got) // 2]  # it came, the receiver kept it to itself, and counts no gap
        stream.finish()

    trial = FaultTrial("bad", "it forgets", "nothing is lost", in_stream=forget)
    outcome = run_trials([trial], ["embedded"], times=1, outcome=FaultsOutcome(0))
    (result,) = outcome.results
    assert (result.tally.lost, result.tally.undetected, result.verdict) == (1, 1, "BROKEN")
