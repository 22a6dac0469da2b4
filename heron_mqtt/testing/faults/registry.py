"""Every fault that is tried, one line each: add a line, and nothing else names it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from heron_mqtt.testing.faults import message_faults as messages
from heron_mqtt.testing.faults import network_faults as network
from heron_mqtt.testing.faults import program_faults as programs
from heron_mqtt.testing.faults import stream_faults as of
from heron_mqtt.testing.faults.tcp_link import LinkFaults
from heron_mqtt.testing.faults.trial import SITE_BROKERS, FaultTrial, SiteFault, StreamFault

__all__ = ["FAULT_TRIALS"]

SAFE = "a device is in its safe state within its lease"
OBEYS = "nothing but 0 is sent until the release"
COUNTED = "what is lost is counted"
WHOLE = "nothing is lost, nothing comes twice"
KEPT = "all of it comes later, in order and once"


def _site(name: str, what: str, promise: str, fault: SiteFault, **more: Any) -> FaultTrial:
    return FaultTrial(name, what, promise, at_site=fault, brokers=SITE_BROKERS, **more)


def _stream(name: str, what: str, promise: str, fault: StreamFault, **more: Any) -> FaultTrial:
    return FaultTrial(name, what, promise, in_stream=fault, **more)


def _outbox(
    name: str, what: str, promise: str, fault: StreamFault, why: Callable[[], str] = lambda: "", **more: Any
) -> FaultTrial:
    far = {"is_receiver_far": False, "why_not": why, **more}
    return FaultTrial(name, what, promise, in_stream=fault, brokers=SITE_BROKERS, **far)


_GROUPS: Final[Mapping[str, tuple[FaultTrial, ...]]] = {
    "kill -9 at a random moment": (
        _site("kill-run", "kill -9 the run: the environment, two agents, their gateways", SAFE,
              programs.kill_run),
        _site("kill-environment", "kill -9 the environment of a remote agent, in mid-step", SAFE,
              programs.kill_environment_in_mid_step),
        _site("kill-proxy", "kill -9 a remote agent with its gateway", SAFE,
              programs.kill_proxy, is_quick=True),
        _site("kill-device", "kill -9 a device's program, or cut it off", "the others continue",
              programs.kill_device),
        _site("kill-broker", "kill -9 the broker; it returns with nothing kept", f"{SAFE}; {COUNTED}",
              programs.kill_broker_that_returns, is_quick=True),
        _site("kill-broker-for-good", "kill -9 the broker; it stays away", f"{SAFE}; the run ends on request",
              programs.kill_broker_for_good),
        _site("kill-environment-and-broker", "kill -9 run and broker; the broker returns", SAFE,
              programs.kill_environment_and_broker),
        _stream("stream-kill-broker", "kill -9 the broker; it returns with nothing kept", COUNTED,
                of.broker_killed, is_quick=True),
        _stream("stream-kill-publisher", "kill -9 the publisher; another one follows", COUNTED,
                of.publisher_killed),
        _outbox("outbox-kill", "cut off, then kill -9 the publisher; another one follows",
                "all but the last moment comes later", of.outbox_and_kill, is_quick=True),
    ),
    "SIGSTOP, SIGCONT": (
        _site("stop-run", "SIGSTOP the run, SIGCONT; half of the time an emergency stop meanwhile",
              f"{SAFE}; {OBEYS}", programs.pause_run),
        _site("stop-proxy", "SIGSTOP a remote agent with its gateway, SIGCONT; as above", f"{SAFE}; {OBEYS}",
              programs.pause_proxy, is_quick=True),
        _site("stop-device", "SIGSTOP a device's program, SIGCONT",
              "the others continue; it is safe as soon as it runs", programs.pause_device),
        _site("stop-broker", "SIGSTOP the broker, SIGCONT", SAFE, programs.pause_broker),
        _stream("stream-stop-broker", "SIGSTOP the broker, SIGCONT", WHOLE, of.broker_stopped),
        _stream("stream-stop-publisher", "SIGSTOP the publisher, SIGCONT", WHOLE, of.publisher_stopped),
    ),
    "network that is late, loses or resets": (
        _site("link-late", "every packet late by 0.05 to 0.4 s each way", SAFE, network.late_link),
        _site("link-chopped", "1 to 3 bytes at a time", SAFE, network.chopped_link),
        _site("link-loss-1", "1 % of the packets lost", SAFE, network.lossy_link(0.01)),
        _site("link-loss-20", "20 % of the packets lost", SAFE, network.lossy_link(0.2)),
        _site("link-silent", "nothing passes for up to 2 s, then all of it", SAFE,
              network.silent_link, is_quick=True),
        _site("link-reset", "connections reset", SAFE, network.reset_link),
        _site("link-half-closed", "connections closed in one direction", SAFE, network.half_closed_link),
        _site("messages-loss-1", "1 % of the run's messages lost", COUNTED, network.lost_messages(0.01)),
        _site("messages-loss-20", "20 % of the run's messages lost", COUNTED, network.lost_messages(0.2)),
        _site("telemetry-lost", "telemetry lost and repeated", "both are counted exactly",
              messages.lost_and_repeated),
        _stream("stream-late", "every packet late by up to 0.4 s each way", WHOLE,
                of.link_with(lambda s: LinkFaults(delay_s=s.rng.uniform(0.05, 0.4)))),
        _stream("stream-chopped", "1 to 3 bytes at a time", WHOLE,
                of.link_with(lambda s: LinkFaults(chop=s.rng.randrange(1, 4))), is_quick=True),
        _stream("stream-loss-1", "1 % of the packets lost", WHOLE,
                of.link_with(lambda _: LinkFaults(loss=0.01))),
        _stream("stream-loss-20", "20 % of the packets lost", WHOLE,
                of.link_with(lambda _: LinkFaults(loss=0.2))),
        _stream("stream-silent", "nothing passes for up to 2 s, then all of it", WHOLE,
                of.link_with(lambda _: LinkFaults(is_silent=True))),
        _stream("stream-reset", "connections reset", COUNTED, of.link_reset, is_quick=True),
        _stream("stream-half-closed", "connections closed in one direction", COUNTED, of.link_half_closed,
                is_quick=True),
        _stream("stream-messages-loss-1", "1 % of the messages lost", COUNTED, of.messages_lost(0.01)),
        _stream("stream-messages-loss-20", "20 % of the messages lost", COUNTED, of.messages_lost(0.2),
                is_quick=True),
    ),
    "emergency stop": (
        _site("estop-while-cut-off", "an emergency stop while an agent and a device are cut off",
              f"{OBEYS}; both find it", messages.stop_while_cut_off),
        _site("estop-malformed", "an emergency stop in a malformed form", f"{OBEYS}; all confirm it",
              messages.malformed_stop),
        _site("estop-forgotten", "an emergency stop that the broker forgets", f"{OBEYS}; it is said again",
              messages.stop_that_the_broker_forgets),
    ),
    "replayed, second or malformed": (
        _site("replay", "recorded setpoints replayed, as they were and changed", "nothing moves",
              messages.replay),
        _site("retained-setpoint", "setpoints retained for devices that start", "nothing moves",
              messages.retained_setpoint),
        _site("second-run", "a second run of the same environment", "it ends before it sends",
              programs.second_run),
        _site("second-proxy", "a second gateway of the same agent", "it ends before it sends",
              programs.second_proxy),
        _site("second-device", "a second device of the same name", "it ends before it sends",
              programs.second_device),
        _site("second-foreign-device", "a second device of another maker", "neither is driven",
              programs.second_plain_device),
        _site("huge-numbers", "a number of 401 digits on every channel", "all continue",
              messages.huge_number),
    ),
    "device born again, clock that jumps": (
        _site("battery-reborn", "a battery that is born again at minimum charge", "it is asked for nothing",
              messages.reborn_empty),
        _site("generator-reborn", "a generator that is born again at 0", "no jump beyond its ramp",
              messages.reborn_generator),
        _site("clock-jump", "the wall clock of an agent and a device jumps by up to a day", SAFE,
              programs.clock_jump,
              why_not=programs.why_no_clock),
    ),
    "publisher cut off, with an outbox": (
        _outbox("outbox", "the publisher cut off, with an outbox", KEPT, of.outbox_bridges, is_quick=True),
        _outbox("outbox-file-limit", "cut off while the outbox's file may not grow",
                f"{KEPT}; the failure is counted", of.outbox_full, is_quick=True),
        _outbox("outbox-disk-full", "cut off while the outbox's disk is full",
                f"{KEPT}; the failure is counted",
                of.outbox_disk_full, of.why_no_mount),
        _outbox("outbox-read-only", "cut off while the outbox's disk is read-only",
                f"{KEPT}; the failure is counted", of.outbox_read_only, of.why_no_mount),
    ),
}  # fmt: skip

FAULT_TRIALS: Final = tuple(
    replace(trial, group=name) for name, trials in _GROUPS.items() for trial in trials
)
"""All of them, a group after the other."""
