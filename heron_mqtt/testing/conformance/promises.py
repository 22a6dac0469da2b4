"""The promises of a device, each under its line of ``docs/safety.md``, and what each of them needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from heron_mqtt.testing.conformance import bench_checks
from heron_mqtt.testing.conformance.bench import ConformanceBench
from heron_mqtt.testing.device_checks import echoes, lease_ends, lease_owners, setpoints, stops, telemetry
from heron_mqtt.testing.device_harness import DeviceHarness

RULES: Final[Mapping[int, str]] = {
    1: "A setpoint proves its own age",
    2: "A lease has an owner, and of each name there is one",
    3: "Nothing is renewed for the dead",
    4: "The ladder has no side door",
    5: "A stop is a stop",
    6: "Coming back is not a jump",
    7: "A vendor's device is handed back",
    8: "One bad message, field or client harms nothing else",
    9: "Everything lost is counted",
}
"""The headings of ``docs/safety.md``."""

DeviceCheck = Callable[[DeviceHarness], None]
BenchCheck = Callable[[ConformanceBench], None]
Applies = Callable[[ConformanceBench], str]
"""Returns why a promise cannot be examined on a bench; empty: it can."""


@dataclass(frozen=True, slots=True)
class DevicePromise:
    """One line of a conformance report.

    Attributes:
        id: Short name, for ``--only`` and JUnit.
        rule: Number of its line in ``docs/safety.md``.
        text: What is promised.
        check: Returns if it is kept; raises ``CheckFailed`` if not. None: nothing on a bench can tell.
        requires: Promises that the check stands on: if one of them is broken, this one cannot be told.
        why_not: Why it cannot be examined on this bench; empty: it can.
        is_choice: It is a promise of devices that are set up in one way; of others it is not asked.
    """

    id: str
    rule: int
    text: str
    check: BenchCheck | None
    requires: tuple[str, ...] = ()
    why_not: Applies = lambda _bench: ""
    is_choice: bool = False


def _program(bench: ConformanceBench) -> str:
    if bench.program is not None or bench.ask is not None:
        return ""
    return "the kit did not start the device, and no person can switch its power off (--by-hand)"


def _own_program(bench: ConformanceBench) -> str:
    return "" if bench.program is not None else "the kit did not start the device's program"


def _broker(bench: ConformanceBench) -> str:
    return (
        "" if bench.broker is not None else "the broker does not belong to the kit, so it may not be stopped"
    )


def _by_hand(bench: ConformanceBench) -> str:
    return "the device is set to require proof (--requires-proof)" if bench.harness.requires_proof else ""


def _proof(bench: ConformanceBench) -> str:
    return "" if bench.harness.requires_proof else "the device is not set to require proof (--requires-proof)"


def _beyond(bench: ConformanceBench) -> str:
    return "real hardware gets no setpoints beyond its rating" if bench.harness.is_bounded else ""


def _ramp(bench: ConformanceBench) -> str:
    return "" if bench.ramp_mw_per_s is not None else "no ramp was named (--ramp)"


def _never(_bench: ConformanceBench) -> str:
    return "not visible on the wire: check the hardware's own control after the end, and sign for it"


def _check_ramp(bench: ConformanceBench) -> None:
    assert bench.ramp_mw_per_s is not None
    setpoints.check_ramp(bench.harness, bench.ramp_mw_per_s)


def _check_stop_in_a_ramp(bench: ConformanceBench) -> None:
    assert bench.ramp_mw_per_s is not None
    stops.check_stop_in_a_ramp(bench.harness, bench.ramp_mw_per_s)


def _wire(
    rule: int,
    name: str,
    text: str,
    check: DeviceCheck,
    requires: str = "pace",
    why_not: Applies = lambda _bench: "",
    *,
    is_choice: bool = False,
) -> DevicePromise:
    """Return a promise that is seen on the wire alone; ``requires`` are names with spaces between them."""
    return DevicePromise(
        name, rule, text, lambda bench: check(bench.harness), tuple(requires.split()), why_not, is_choice
    )


def _bench(
    rule: int,
    name: str,
    text: str,
    check: BenchCheck | None,
    requires: str,
    why_not: Applies,
    *,
    is_choice: bool = False,
) -> DevicePromise:
    """Return a promise that needs more of a bench than the wire."""
    return DevicePromise(name, rule, text, check, tuple(requires.split()), why_not, is_choice)


PROMISES: Final[tuple[DevicePromise, ...]] = (
    _wire(4, "birth", "its birth is retained, with kind and limits", telemetry.check_birth, ""),
    _wire(
        9,
        "telemetry",
        "telemetry is published without a request, numbered without gaps",
        telemetry.check_telemetry_is_numbered_and_periodic,
        "birth",
    ),
    _wire(4, "answer", "a setpoint is acknowledged by its number", setpoints.check_answer, "telemetry"),
    _wire(4, "sign", "positive power is injected into the grid", setpoints.check_sign, "answer"),
    _wire(4, "scale", "the unit of power is MW", setpoints.check_scale, "sign"),
    _wire(
        1,
        "pace",
        "it publishes at least three times a lease",
        telemetry.check_telemetry_follows_the_lease,
        "scale",
    ),
    _wire(
        4,
        "nameplate",
        "setpoints beyond the nameplate are clipped in both directions, and this is reported",
        setpoints.check_nameplate,
        why_not=_beyond,
    ),
    _bench(4, "ramp", "its power changes no faster than its ramp", _check_ramp, "pace", _ramp),
    _wire(
        3, "lease-end", "without renewal it is safe at the end of the lease", lease_ends.check_lease_runs_out
    ),
    _wire(
        1,
        "copies",
        "a setpoint is applied once: copies and older setpoints have no effect",
        setpoints.check_copies,
        "pace lease-end",
    ),
    _wire(
        3,
        "long-lease",
        "a lease of half a minute ends in time, too",
        lease_ends.check_long_lease_runs_out,
        "pace lease-end copies",
    ),
    _wire(1, "stale", "a setpoint older than its lease is refused", echoes.check_stale_echo),
    _wire(
        1,
        "echo",
        "the lease counts from the telemetry that a setpoint or renewal echoes",
        echoes.check_lease_counts_from_the_echo,
        "pace lease-end stale",
    ),
    _wire(
        3,
        "stale-renewal",
        "a stale renewal extends nothing",
        echoes.check_stale_renewal,
        "pace lease-end stale",
    ),
    _wire(
        1,
        "by-hand",
        "a setpoint by hand is applied when it arrives",
        setpoints.check_setpoint_by_hand,
        "pace lease-end",
        why_not=_by_hand,
        is_choice=True,
    ),
    _bench(
        1,
        "proof",
        "a setpoint without proof is refused",
        bench_checks.check_required_proof,
        "pace",
        _proof,
        is_choice=True,
    ),
    _wire(
        2, "owner", "while a lease holds, another sender is refused", lease_owners.check_lease_has_an_owner
    ),
    _wire(
        2,
        "owner-by-hand",
        "while a lease holds, a setpoint by hand is refused",
        lease_owners.check_owner_against_one_by_hand,
        "pace owner",
    ),
    _wire(
        2,
        "foreign-renewal",
        "a renewal of another sender extends nothing",
        lease_owners.check_foreign_renewal,
        "pace owner lease-end",
    ),
    _wire(
        3,
        "nothing-else",
        "nothing else extends a lease: no refused, repeated, broken or foreign setpoint",
        lease_owners.check_nothing_else_extends_a_lease,
        "pace lease-end stale copies owner foreign-renewal",
    ),
    _wire(
        1,
        "copies-of-many",
        "a copy is recognised after messages of six other senders",
        lease_owners.check_numbers_of_several_senders,
        "pace copies owner",
    ),
    _wire(5, "confirm", "a stop and its release are confirmed", stops.check_stop_is_confirmed),
    _wire(
        5,
        "stop",
        "a stop leads to the safe state, and no setpoint ends it",
        stops.check_stop,
        "pace confirm",
    ),
    _bench(
        5,
        "stop-ramp",
        "a stop while its power still rises turns it round at once",
        _check_stop_in_a_ramp,
        "stop ramp",
        _ramp,
    ),
    _wire(5, "stop-stays", "a stop stays until it is released", stops.check_stop_stays, "stop"),
    _wire(
        3,
        "reactive",
        "no reactive power remains after the end of its lease, after a release, or in a stop",
        lease_ends.check_no_reactive_power_stays,
        "pace lease-end stop",
    ),
    _wire(
        2,
        "lease-told",
        "the owner of its lease is published on `lease`",
        lease_owners.check_lease_is_told,
        "pace owner stop",
    ),
    _wire(
        5,
        "malformed-stop",
        "every message on `estop` that is not a valid release stops",
        stops.check_malformed_stops,
        "stop",
    ),
    _wire(
        5,
        "repeated-stop",
        "a repeated stop counts as a stop, a repeated release does not end a later stop",
        stops.check_repeated_stops,
        "stop",
    ),
    _wire(
        8, "formats", "numbers and flags in unambiguous formats are accepted", setpoints.check_number_formats
    ),
    _wire(8, "garbage", "an invalid setpoint moves nothing and ends nothing", setpoints.check_nonsense),
    _wire(8, "large", "a message of 200 kB does no harm", setpoints.check_large_message),
    _wire(8, "flood", "after a flood it still receives a stop", setpoints.check_flood, "stop owner stale"),
    _bench(
        6,
        "reconnect",
        "after a lost connection it publishes its birth again, with the same `boot`, and follows setpoints",
        bench_checks.check_reconnect,
        "pace lease-end",
        _broker,
    ),
    _bench(
        3,
        "silence",
        "without its broker it is safe by its own clock",
        bench_checks.check_without_its_broker,
        "pace lease-end reconnect",
        _broker,
    ),
    _bench(
        5,
        "stop-over-broker",
        "a stop that the broker loses stays in force",
        bench_checks.check_stop_over_a_lost_connection,
        "stop reconnect",
        _broker,
    ),
    _bench(
        4,
        "will",
        "if it is cut off, its will `offline` is published",
        bench_checks.check_will,
        "birth",
        _program,
    ),
    _bench(
        1, "new-boot", "each start has its own `boot`", bench_checks.check_new_boot, "telemetry", _program
    ),
    _bench(
        6,
        "start",
        "after a power cut it is safe until a setpoint comes",
        bench_checks.check_start_is_safe,
        "pace",
        _program,
    ),
    _bench(
        1,
        "replay",
        "setpoints from before its restart are refused",
        bench_checks.check_replays_of_an_earlier_life,
        "pace stale start",
        _program,
    ),
    _bench(
        1,
        "retained-setpoint",
        "a retained setpoint has no effect",
        bench_checks.check_retained_setpoint,
        "pace start",
        _program,
    ),
    _bench(
        5,
        "retained-stop",
        "a stop from before its start is in force",
        bench_checks.check_retained_stop,
        "stop start",
        _program,
    ),
    _bench(
        7,
        "end",
        "when its program ends, it is `offline` and has no power",
        bench_checks.check_end,
        "pace start will",
        _own_program,
    ),
    _bench(7, "hand-back", "it is under its own control again", None, "", _never),
)
"""Every promise, in the order in which they are examined: each after what it requires."""
