"""One look at a broker: which environments are alive, who is in them, and whether all is well."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import datetime
from typing import NamedTuple

from heron_mqtt.app.operator_client.environments import (
    GOING,
    AgentSeen,
    DeviceSeen,
    Environments,
    EnvironmentSeen,
)
from heron_mqtt.app.operator_client.observer import PRESENCE, Observer
from heron_mqtt.field.emergency_stop import told_by
from heron_mqtt.json_object import Json
from heron_mqtt.messages import Message, Owner
from heron_mqtt.messaging import topics
from heron_mqtt.units import KW_PER_MW

CHANNELS = (
    *PRESENCE,
    "agents/+/owner",
    "devices/+/+/owner",
    "devices/+/+/lease",
    "devices/+/+/telemetry",
    "devices/+/+/authority_state",
    "estop",
    "estop/confirm/+",
    "estop/confirm/+/+",
    "session/+/+/outbox",
)
LISTEN_S = 2.0
LOOK_AGAIN_S = 0.1
SIGN_OF_LIFE_S = 10.0
"""A run says where it stands at least as often, unless its leases are longer than 40 s."""
OUTBOX_TOLD_S = 30.0
"""A client with an outbox reports it every 10 s at least: an older report is out of date."""
OLD_S = 60.0  # of a measurement: no mapping or device of ours takes longer unless told so
BEYOND_SHARE = 0.1  # of the nameplate: so far beyond it a power is a mistake, not a measurement


class Problem(NamedTuple):
    """What is not well, and since when by the reporter's clock; None = not reported."""

    text: str
    since: datetime | None = None


async def look(url: str, env_id: str | None, *, listen_s: float = LISTEN_S) -> Json:
    """Return what a broker has kept and what comes within a while, as one JSON object.

    ``well`` says whether all is: something is alive, and no environment has ``problems``.

    Args:
        url: Of the broker.
        env_id: The environment to look at; None = all.
        listen_s: How long to listen for telemetry, s.

    Raises:
        ConfigError: The URL or the environment is wrong.
        BrokerError: The broker is not there or refuses.
    """
    env_id = topics.checked_env_id(env_id)
    found = Environments()
    loop = asyncio.get_running_loop()
    async with Observer(url, env_id, CHANNELS, found.take) as observer:
        begun_s = loop.time()
        await observer.settle()
        await asyncio.sleep(max(0.0, begun_s + listen_s - loop.time()))
        while any(map(_may_stand_still, found.values())):
            if loop.time() - begun_s >= SIGN_OF_LIFE_S:
                break
            await asyncio.sleep(LOOK_AGAIN_S)
        now_s = loop.time()
    alive = []
    for name in found.alive:
        silent_s = now_s - begun_s if _may_stand_still(found[name]) else None
        alive.append(environment(found[name], now_s, listen_s, silent_s=silent_s))
    gone = [
        {"env_id": name, "run": view.run.state}
        for name, view in sorted(found.items())
        if not view.is_alive and view.run is not None
    ]
    return {
        "broker": observer.options.address,
        "well": bool(alive) and not any(each["problems"] for each in alive),
        "environments": alive,
        "not_alive": gone,
    }


def _may_stand_still(view: EnvironmentSeen) -> bool:
    """Whether only the broker says that a run goes on, and a device that it should drive is not driven."""
    return view.run_at_s is None and bool(view.undriven)


def environment(
    view: EnvironmentSeen,
    now_s: float,
    listen_s: float,
    *,
    with_outboxes: bool = True,
    silent_s: float | None = None,
) -> Json:
    """Return what is known of one environment.

    Args:
        view: What was heard.
        now_s: The time, by the clock that telemetry was stamped with on arrival.
        listen_s: For how long telemetry was listened for, s.
        with_outboxes: Whether to say what clients say of their outboxes.
        silent_s: For how long nothing was received from a run that does not drive its devices; None = it
            drives them, or was received.
    """
    run, stop = view.run, view.stop.stop
    problems = list(_problems(view, listen_s))
    if silent_s is not None:
        undriven = ", ".join(view.undriven)
        text = (
            f"nothing was received from the run for {silent_s:.0f} s, and the lease of {undriven} is free: "
        )
        problems.insert(0, Problem(f"{text}it may stand still"))
    return {
        "env_id": view.env_id,
        "run": None
        if run is None
        else {
            "state": run.state,
            "scenario": run.scenario,
            "episode": run.episode,
            "step": run.step,
            "clock": None if run.clock is None else run.clock.isoformat(),
            "owner": _owner(view.run_owner),
        },
        "stop": None if stop is None else {"who": stop.who, "why": stop.why, "since": _moment(stop)},
        "agents": {name: _agent(agent) for name, agent in sorted(view.agents.items())},
        "devices": {
            label: _device(device, now_s, listen_s) for label, device in sorted(view.devices.items())
        },
        **({"outboxes": _outboxes(view, now_s)} if with_outboxes else {}),
        "unreadable": dict(sorted(view.unreadable.items())),
        "notes": list(_notes(view)),
        "problems": [problem.text for problem in problems],
        "problems_since": [
            None if problem.since is None else problem.since.isoformat() for problem in problems
        ],
    }


def _moment(said: Message) -> str | None:
    return None if said.sent_at is None else said.sent_at.isoformat()


def _owner(owner: Owner | None) -> Json | None:
    if owner is None or owner.state != "holds":
        return None
    return {
        "who": owner.who,
        "boot": owner.boot,
        "since": None if owner.since is None else owner.since.isoformat(),
    }


def _agent(agent: AgentSeen) -> Json:
    return {
        "state": None if agent.status is None else agent.status.state,
        "reason": None if agent.status is None else agent.status.reason,
        "owner": _owner(agent.owner),
    }


def _outboxes(view: EnvironmentSeen, now_s: float) -> Json:
    fields = {"messages", "size_bytes", "max_bytes", "age_s", "dropped", "disk_errors", "kinds"}
    return {
        _client_of(user, client): report.model_dump(include=fields)
        for (user, client), (report, at_s) in sorted(
            view.outboxes.items(), key=lambda item: (item[0][0] or "", item[0][1])
        )
        if now_s - at_s <= OUTBOX_TOLD_S
    }


def _client_of(user: str | None, client: str) -> str:
    """Return a client with its user before it; spaces within either are escaped, so that no two are alike."""
    names = [client] if user is None else [user, client]
    return " ".join(name.replace("%", "%25").replace(" ", "%20") for name in names)


def _device(device: DeviceSeen, now_s: float, listen_s: float) -> Json:
    authority, lease, telemetry = device.authority, device.lease, device.telemetry
    return {
        "health": health(device),
        "reason": None if device.status is None else device.status.reason,
        "kind": None if device.status is None else device.status.kind,
        "age_s": None if telemetry is None else round(now_s - device.telemetry_at_s, 3),
        "p_mw": None if telemetry is None else telemetry["p_mw"],
        "soc": None if telemetry is None else telemetry.get("soc"),
        "safe": None if telemetry is None else telemetry.get("safe"),
        "stopped": _knows_of_stop(device),
        "authority": None
        if authority is None
        else {
            "level": authority.level,
            "ceiling": authority.ceiling,
            "demoted": authority.demoted,
            "why": authority.reason,
        },
        "lease": None
        if lease is None
        else {
            "state": lease.state,
            "holder": lease.holder,
            "holder_boot": lease.holder_boot,
            "lease_s": lease.lease_s,
        },
        "manual": None
        if authority is None or authority.manual_by is None
        else {"who": authority.manual_by, "p_mw": authority.manual_p_mw, "for_s": authority.manual_s},
        "owner": _owner(device.owner),
    }


def health(device: DeviceSeen) -> str:
    """Return the health of a device.

    online; silent (its status is online, but no telemetry arrived while listening); fault; offline; unborn
    (telemetry, but no status); model (simulated, and nothing real is there); unknown.
    """
    state = None if device.status is None else device.status.state
    if state in {"fault", "offline"}:
        return str(state)
    if state is not None:
        return "online" if device.telemetry is not None else "silent"
    if device.telemetry is not None:
        return "unborn"
    is_simulated = device.authority is not None and device.authority.level == "simulated"
    return "model" if is_simulated else "unknown"


def _knows_of_stop(device: DeviceSeen) -> bool | None:
    """Return whether the device itself knows of a stop in force; what it said last counts."""
    if device.telemetry is not None:
        return device.telemetry.get("stopped") is True
    return None if device.status is None else device.status.stopped is True


def _problems(view: EnvironmentSeen, listen_s: float) -> Iterator[Problem]:
    stop = view.stop.stop
    if stop is not None:
        yield Problem(f"emergency stop {told_by(stop)}", stop.sent_at)
    yield from _run_problems(view)
    for name, agent in sorted(view.agents.items()):
        if agent.status is not None and agent.status.state == "fault":
            text = f"agent {name} is in a fault: {agent.status.reason or 'no reason given'}"
            yield Problem(text, agent.status.sent_at)
    for label, device in sorted(view.devices.items()):
        for what, since in _device_problems(device, view, listen_s):
            yield Problem(f"device {label} {what}", since)
        if _is_unsafe_in_stop(device, view) and not device.is_not_ours:
            yield Problem(f"device {label} is not safe in the emergency stop: {device.unsafe}")
        if device.lease is None:
            continue
        if device.lease.state == "held" and device.lease.holder == label:  # no setpoint: its own end
            if not view.stop.is_active:
                yield Problem(f"device {label} is not handed back yet", device.lease.sent_at)
            continue
        gateway = view.agents.get(label.partition("/")[0])
        if (stranger := _stranger(device, gateway)) is not None:
            yield Problem(f"device {label} is led by {stranger}", device.lease.sent_at)
    if view.beyond is not None:
        yield Problem(view.beyond)
    for channel, why in sorted(view.unreadable.items()):
        yield Problem(f"{channel} cannot be read: {why}")


def _is_unsafe_in_stop(device: DeviceSeen, view: EnvironmentSeen) -> bool:
    is_stopped = view.stop.is_active and device.is_present and device.telemetry_at_s > view.stop_at_s
    return is_stopped and device.unsafe is not None


def _notes(view: EnvironmentSeen) -> Iterator[str]:
    """Yield what a person should know and nothing here can change: it is no problem of ours."""
    for label, device in sorted(view.devices.items()):
        if _is_unsafe_in_stop(device, view) and device.is_not_ours and device.telemetry is not None:
            p_kw = KW_PER_MW * device.telemetry["p_mw"]
            yield (
                f"device {label} measures {p_kw:g} kW in the emergency stop, and it cannot be set from here: "
                f"it is only read, or only watched"
            )


def _run_problems(view: EnvironmentSeen) -> Iterator[Problem]:
    run, owner = view.run, view.run_owner
    if run is not None and run.state == "lost":
        yield Problem("the run was lost: its environment ended unexpectedly", run.sent_at)
    if run is None or run.state not in GOING:
        return
    if owner is not None and owner.state == "holds" and run.boot not in {None, owner.boot}:
        text = f"two runs: boot {run.boot} publishes, and boot {owner.boot} holds the name"
        yield Problem(text, owner.since)
    for name, agent in sorted(view.agents.items()):
        if agent.status is not None and agent.status.state == "offline":
            yield Problem(f"agent {name} is offline", agent.status.sent_at)


def _stranger(device: DeviceSeen, gateway: AgentSeen | None) -> str | None:
    """Return who holds a device's lease, as text for people, if it is not its agent's gateway."""
    lease = device.lease
    if lease is None or lease.state != "held" or not device.is_present:
        return None
    owner = None if gateway is None else gateway.owner
    if owner is not None and owner.state == "holds" and owner.boot == lease.holder_boot:
        return None
    if lease.holder is None:
        return "setpoints by hand: they have no sender"
    boot = "" if lease.holder_boot is None else f" (boot {lease.holder_boot})"
    if owner is None or owner.state != "holds":
        return f"{lease.holder}{boot}, and no gateway holds its agent's name"
    return f"{lease.holder}{boot}, which is not its agent's gateway (boot {owner.boot})"


def _device_problems(device: DeviceSeen, view: EnvironmentSeen, listen_s: float) -> Iterator[Problem]:
    since = None if device.status is None else device.status.sent_at
    match health(device):
        case "offline" if view.run is None or view.run.state != "finished":
            yield Problem("is offline", since)
        case "fault":
            reason = device.status.reason if device.status is not None else None
            yield Problem(f"is in a fault: {reason or 'no reason given'}", since)
        case "silent":
            lease = " although a lease is held" if device.is_held else ""
            yield Problem(f"has the status online, but has published nothing for {listen_s:g} s{lease}")
        case "unborn":
            yield Problem("publishes telemetry, but has no birth on its status channel")
        case _:
            pass
    if device.telemetry is not None:
        yield from _telemetry_problems(device, device.telemetry)
    authority = device.authority
    if authority is not None and authority.ceiling not in {None, authority.level}:
        why = f": {authority.reason}" if authority.reason else ""
        yield Problem(f"is at {authority.level}, below {authority.ceiling}{why}", authority.sent_at)
    if device.is_present and _knows_of_stop(device) and not view.stop.is_active:
        yield Problem("knows of an emergency stop that the broker does not keep")


def _telemetry_problems(device: DeviceSeen, telemetry: Json) -> Iterator[Problem]:
    """Yield what makes the newest telemetry say little of the power of now."""
    age_s = telemetry.get("age_s") or 0.0
    if age_s > OLD_S:
        yield Problem(f"has a measurement that is {age_s:.0f} s old")
    low_mw, high_mw = (
        (None, None) if device.status is None else (device.status.p_min_mw, device.status.p_max_mw)
    )
    if low_mw is None or high_mw is None:
        return
    slack_mw = BEYOND_SHARE * max(abs(low_mw), abs(high_mw))
    if not low_mw - slack_mw <= telemetry["p_mw"] <= high_mw + slack_mw:
        p_kw, low_kw, high_kw = (KW_PER_MW * mw for mw in (telemetry["p_mw"], low_mw, high_mw))
        yield Problem(
            f"measures {p_kw:g} kW, beyond its nameplate, {low_kw:g} to {high_kw:g} kW: wrong unit?"
        )
