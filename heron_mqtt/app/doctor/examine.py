"""``heron-mqtt doctor``: connects as every user of a site, and says whether a run may rely on the broker.

Probes have an environment of their own (``<env_id>-doctor``): no device of a site is on their topics, and
nothing is left behind there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any

from heron_mqtt.app.broker_probe import probe_features
from heron_mqtt.app.doctor.access import examine_strangers, examine_tls
from heron_mqtt.app.doctor.clocks import examine_clocks
from heron_mqtt.app.doctor.findings import BrokerFinding, Examination
from heron_mqtt.app.doctor.hosts import examine_hosts, host_of
from heron_mqtt.app.doctor.kept import examine_kept_session
from heron_mqtt.app.doctor.logins import Login
from heron_mqtt.app.doctor.rights import examine_rights
from heron_mqtt.app.doctor.stall import examine_stall
from heron_mqtt.app.doctor.traffic import examine_order, examine_qos, examine_round_trip, examine_size
from heron_mqtt.errors import BrokerError, ConfigError
from heron_mqtt.messaging.base import Received
from heron_mqtt.messaging.mqtt import MqttBroker
from heron_mqtt.messaging.mqtt.options import MqttOptions
from heron_mqtt.messaging.schemes import scheme_of, without_login
from heron_mqtt.messaging.stamping import new_boot

if TYPE_CHECKING:
    from powergrid.scenario import LoadedScenario

OWN_LOGIN = Login("operator", "operator")
LEFT_S = 0.5
TAKEN_S = 60.0
"""Bound of one check: a broker that never answers must not keep the others from being tried."""
STRANGER_CHANNEL = "devices/doctor-agent/doctor-device/setpoint"
LIMIT_CHANGE = "use another broker, or switch it on (mosquitto: retain_available true)"
NEED_RIGHTS = {"QoS", "order", "kept session", "round trip", "message size", "stalled reader"}
RIGHTS_CHANGE = "give this user the rights of its role: heron-mqtt acl SCENARIO --doctor"


def doctor_env(env_id: str) -> str:
    """Return the environment of the probes beside an environment in use."""
    return f"{env_id}-doctor"


async def examine(
    url: str,
    logins: list[Login],
    *,
    loaded: LoadedScenario | None = None,
    env_id: str | None = None,
    stall: bool = False,
    tell: Callable[[BrokerFinding], None] = lambda _: None,
) -> Examination:
    """Examine a broker.

    Args:
        url: Of the broker.
        logins: Users to connect as; empty = with the login of this process alone, as the operator.
        loaded: The scenario that is to run there: its environment, agents and deadlines.
        env_id: The environment of the probes, where it shall be another one.
        stall: Stop a reader, too, and count what the broker has kept for it: 3,000 messages.
        tell: Called with each finding as it comes.

    Raises:
        ConfigError: URL, settings or logins are wrong.
    """
    if not scheme_of(url).is_address or scheme_of(url).name not in {"mqtt", "mqtts", "ws", "wss"}:
        raise ConfigError(f"--broker {without_login(url)}: expected mqtt://host:port (or mqtts, ws, wss)")
    _check_names(logins, loaded)
    in_use = None if loaded is None else loaded.scenario.topic_env_id
    env_id = env_id or doctor_env(in_use or "heron")
    defaults = None if loaded is None else loaded.broker_settings()

    def connect(login: Login, env: str = env_id, url: str = url, **options: Any) -> MqttBroker:
        settings: dict[str, Any] = {**login.settings, **options}
        # The class, and no other scheme: MQTT is examined.
        broker = MqttBroker(url, env_id=env, defaults=defaults, **settings)
        broker.stats.is_trial = True  # what it finds stands in its lines
        return broker

    users = logins or [OWN_LOGIN]
    operator = next((login for login in users if login.role == "operator"), None)
    if operator is None:
        raise ConfigError(
            "--logins: has no operator, which is needed to see what the others may publish; add [operator]"
        )
    examination = Examination(connect(operator).options.address, env_id)

    def add(finding: BrokerFinding) -> None:
        examination.findings.append(finding)
        tell(finding)

    alive = [login for login in users if await _log_in(connect, login, add)]
    if operator not in alive:
        return examination
    as_operator = partial(connect, operator)
    async with as_operator() as broker:
        checks = _checks(broker, as_operator, alive, logins, operator, connect, env_id, loaded)
        if stall:
            checks.append(("stalled reader", partial(examine_stall, broker)))
        else:
            add(BrokerFinding("stalled reader", "not tried", "asked for by --stall"))
        if in_use is not None:
            checks.append(("clocks", partial(_listen, as_operator, in_use)))
        else:
            add(
                BrokerFinding(
                    "clocks",
                    "not tried",
                    "MQTT does not give the time of the broker; name a SCENARIO to listen",
                )
            )
        checks.append(("left behind", partial(_left_behind, as_operator)))
        checks += _vendor_checks(connect, alive, operator, loaded)
        for name, check in checks:
            if name in NEED_RIGHTS and examination.has("retained by name", RIGHTS_CHANGE):
                add(BrokerFinding(name, "not tried", "messages of the operator do not arrive: see above"))
                continue
            for finding in await _bounded(name, check):
                add(finding)
    return examination


BrokerCheck = Callable[[], Coroutine[Any, Any, list[BrokerFinding] | BrokerFinding]]


def _checks(
    broker: MqttBroker,
    as_operator: Callable[..., MqttBroker],
    alive: list[Login],
    logins: list[Login],
    operator: Login,
    connect: Callable[..., MqttBroker],
    env_id: str,
    loaded: LoadedScenario | None,
) -> list[tuple[str, BrokerCheck]]:
    deadline_s = None if loaded is None else loaded.scenario.deadlines.device_s
    checks: list[tuple[str, BrokerCheck]] = []
    places = broker.options.places()
    for place in places:
        where = f" at {host_of(place)}" if len(places) > 1 else ""
        at_place = partial(_at, place, connect, operator)
        checks += [
            (f"TLS{where}", partial(examine_tls, place, where)),
            (f"no login{where}", partial(_strangers, at_place, where, has_logins=bool(logins))),
        ]
    if len(places) > 1:
        checks.append(("hosts", partial(examine_hosts, [partial(_at, p, connect, operator) for p in places])))
    checks.append(("retained and will", partial(_features, as_operator, "run", "")))
    for login in alive:
        if login.role == "agent":
            parent = f"agents/{login.name}"
            checks.append(
                (
                    f"retained and will, {login.name}",
                    partial(_features, partial(connect, login), parent, login.name),
                )
            )
    checks.append(("rights", partial(_rights, connect, alive, operator, env_id, has_logins=bool(logins))))
    checks += [
        ("QoS", partial(examine_qos, as_operator)),
        ("order", partial(examine_order, as_operator)),
        ("kept session", partial(examine_kept_session, as_operator)),
        ("round trip", partial(examine_round_trip, as_operator, deadline_s)),
        ("message size", partial(examine_size, as_operator)),
    ]
    return checks


def _vendor_checks(
    connect: Callable[..., MqttBroker], alive: list[Login], operator: Login, loaded: LoadedScenario | None
) -> list[tuple[str, BrokerCheck]]:
    if loaded is None or not loaded.scenario.mapped_devices:
        return []
    from heron_mqtt.app.doctor.vendor_topics import examine_vendor_device
    from heron_mqtt.app.vendor_adapters import mappings_at_broker  # 0.15 s, for those who have one

    checks: list[tuple[str, BrokerCheck]] = []
    for (agent, name), mapping in mappings_at_broker(loaded).items():
        serving = [operator, *(one for one in alive if one.role == "agent" and one.name == agent)]
        device = f"{agent}/{name}"
        checks.append(
            (f"topics of {device}", partial(examine_vendor_device, connect, serving, device, mapping))
        )
    return checks


def _at(place: MqttOptions, connect: Callable[..., MqttBroker], login: Login) -> MqttBroker:
    """Return a connection to one of several hosts, not open yet."""
    url = place.address
    options = {"username": place.username, "password": place.password}  # they may stand in the URL given
    return connect(login, url=url, **{name: value for name, value in options.items() if value is not None})


async def _strangers(
    at_place: Callable[[], MqttBroker], where: str, *, has_logins: bool
) -> list[BrokerFinding]:
    try:
        async with at_place() as broker:
            return await examine_strangers(broker, STRANGER_CHANNEL, where, has_logins=has_logins)
    except BrokerError as exc:
        return [BrokerFinding(f"no login{where}", "not tried", str(exc))]


def _check_names(logins: list[Login], loaded: LoadedScenario | None) -> None:
    if loaded is None:
        return
    grids = loaded.scenario.microgrids
    known = {*grids, *(f"{agent}/{name}" for agent, grid in grids.items() for name in grid.devices)}
    wrong = [login.name for login in logins if login.role in {"agent", "device"} and login.name not in known]
    if wrong:
        raise ConfigError(
            f"--logins: {', '.join(wrong)}: not in {loaded.source}; it has {', '.join(sorted(known))}"
        )


async def _bounded(name: str, check: BrokerCheck) -> list[BrokerFinding]:
    try:
        async with asyncio.timeout(TAKEN_S):
            found = await check()
    except TimeoutError:
        return [BrokerFinding(name, "no-go", f"not done within {TAKEN_S:g} s: the broker does not answer")]
    except BrokerError as exc:
        return [BrokerFinding(name, "no-go", str(exc))]
    return found if isinstance(found, list) else [found]


async def _log_in(
    connect: Callable[..., MqttBroker], login: Login, add: Callable[[BrokerFinding], None]
) -> bool:
    """Connect once as a user; return whether that works."""
    loop = asyncio.get_running_loop()
    begun_s = loop.time()
    try:
        async with connect(login) as broker:
            took_ms = 1e3 * (loop.time() - begun_s)
            name = broker.options.username
            who = f"as {name!r}" if name else "without a login"
            add(
                BrokerFinding(
                    f"login of {login.label}",
                    "go",
                    f"connected {who} in {took_ms:.0f} ms, MQTT {broker.options.protocol}",
                    figures={"took_ms": round(took_ms, 1)},
                )
            )
    except BrokerError as exc:
        add(BrokerFinding(f"login of {login.label}", "no-go", str(exc)))
        return False
    return True


async def _features(another: Callable[..., MqttBroker], parent: str, who: str) -> list[BrokerFinding]:
    async with another() as broker:
        probes = await probe_features(broker, another, parent, new_boot())
    suffix = f", {who}" if who else ""
    findings = []
    for probe in probes:
        check = f"{probe.feature}{suffix}"
        if probe.problem is None:
            findings.append(BrokerFinding(check, "go", "found over other connections"))
        else:
            change = RIGHTS_CHANGE if probe.is_right else LIMIT_CHANGE
            findings.append(BrokerFinding(check, "no-go", probe.problem, change))
    return findings


async def _rights(
    connect: Callable[..., MqttBroker],
    alive: list[Login],
    operator: Login,
    env_id: str,
    *,
    has_logins: bool,
) -> list[BrokerFinding]:
    findings = await examine_rights(connect, alive, operator, env_id)
    if not has_logins:
        findings.append(
            BrokerFinding(
                "rights of agents and devices",
                "not tried",
                "only one login was given",
                "name the login of every user in a file: --logins FILE",
            )
        )
    return findings


async def _listen(as_operator: Callable[..., MqttBroker], in_use: str) -> BrokerFinding:
    async with as_operator(in_use) as broker:
        return await examine_clocks(broker)


async def _left_behind(another: Callable[..., MqttBroker]) -> BrokerFinding:
    """See that nothing of ours is retained at the broker; take away what is."""
    left: dict[str, None] = {}

    def on_message(message: Received) -> None:
        if message.retained and message.get("type") == "probe":
            left[message.channel] = None

    async with another() as broker:
        subscription = broker.subscribe("#", on_message)
        await subscription
        await asyncio.sleep(LEFT_S)
        subscription()
        for channel in left:
            await broker.publish(channel, {}, retain=True)
    if left:
        return BrokerFinding(
            "left behind", "note", f"{', '.join(left)} was still retained, and is removed now"
        )
    return BrokerFinding("left behind", "go", "the broker keeps no message of this examination")
