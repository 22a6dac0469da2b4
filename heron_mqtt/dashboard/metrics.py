"""What happens at a broker as Prometheus metrics: labels by environment and agent, not by device.

What an outbox holds has the label of its client: few have one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from heron_mqtt.json_object import Json

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BY_ENV = ("env_id",)
BY_AGENT = ("env_id", "agent")


class BrokerMetrics:
    """Makes metrics of ``LiveView.snapshot`` each time they are asked for.

    Args:
        snapshot: Returns the newest one.
    """

    def __init__(self, snapshot: Callable[[], Json]) -> None:
        self._snapshot = snapshot
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def text(self) -> bytes:
        """Return all of them in Prometheus' text format."""
        return bytes(generate_latest(self._registry))

    def collect(self) -> Iterator[Metric]:
        """Return the metrics; called by the registry."""
        snapshot = self._snapshot()
        connected = GaugeMetricFamily("heron_broker_connected", "Whether the broker is there.")
        connected.add_metric([], float(bool(snapshot.get("connected"))))
        yield connected
        environments = snapshot.get("environments", [])
        yield from _environments(environments)
        yield from _messages(environments)
        yield from _agents(environments)
        yield from _outboxes(environments)


def _environments(environments: list[Json]) -> Iterator[Metric]:
    step = GaugeMetricFamily("heron_step", "Step of the run.", labels=BY_ENV)
    age = GaugeMetricFamily("heron_step_age_seconds", "Since the last message of the run, s.", labels=BY_ENV)
    price = GaugeMetricFamily("heron_price_usd_per_mwh", "The operator's price, $/MWh.", labels=BY_ENV)
    stop = GaugeMetricFamily("heron_stop_active", "Whether an emergency stop is in force.", labels=BY_ENV)
    problems = GaugeMetricFamily("heron_problems", "How many things are not well.", labels=BY_ENV)
    for one in environments:
        env_id = [one["env_id"]]
        if one["run"] is not None and one["run"]["step"] is not None:
            step.add_metric(env_id, one["run"]["step"])
        for family, value in ((age, one["step_age_s"]), (price, one["price"])):
            if value is not None:
                family.add_metric(env_id, value)
        stop.add_metric(env_id, float(one["stop"] is not None))
        problems.add_metric(env_id, len(one["problems"]))
    yield from (step, age, price, stop, problems)


def _messages(environments: list[Json]) -> Iterator[Metric]:
    labels = ("env_id", "channel")
    for key, text in (
        ("messages", "Messages seen, by kind of channel."),
        ("lost", "Messages that never came although later ones did."),
        ("repeated", "Messages that came again."),
        ("held", "Messages that an outbox had kept while their sender had no connection."),
    ):
        name = "heron_messages" if key == "messages" else f"heron_messages_{key}"
        family = CounterMetricFamily(name, text, labels=labels)
        for one in environments:
            for channel, kind in one["channels"].items():
                family.add_metric([one["env_id"], channel], kind[key])
        yield family
    age = GaugeMetricFamily(
        "heron_messages_held_age_seconds",
        "For how long an outbox had kept a message of the last minute, at most; 0 = all came at once.",
        labels=labels,
    )
    for one in environments:
        for channel, kind in one["channels"].items():
            age.add_metric([one["env_id"], channel], kind["held_age_s"])
    yield age


def _outboxes(environments: list[Json]) -> Iterator[Metric]:
    by_client, by_kind = ("env_id", "client"), ("env_id", "client", "kind")
    age = GaugeMetricFamily(
        "heron_outbox_age_seconds", "For how long the oldest has waited, s.", labels=by_client
    )
    most = GaugeMetricFamily("heron_outbox_max_bytes", "What an outbox may hold.", labels=by_client)
    errors = CounterMetricFamily("heron_outbox_disk_errors", "Failures of its disk.", labels=by_client)
    waiting = GaugeMetricFamily("heron_outbox_messages", "Messages that wait in an outbox.", labels=by_kind)
    size = GaugeMetricFamily("heron_outbox_bytes", "What they count for.", labels=by_kind)
    dropped = CounterMetricFamily("heron_outbox_dropped", "Messages that it gave up.", labels=by_kind)
    for one in environments:
        for client, outbox in one["outboxes"].items():
            whose = [one["env_id"], client]
            age.add_metric(whose, outbox["age_s"] or 0.0)
            most.add_metric(whose, outbox["max_bytes"])
            errors.add_metric(whose, outbox["disk_errors"])
            for kind, of_kind in outbox["kinds"].items():
                waiting.add_metric([*whose, kind], of_kind["messages"])
                size.add_metric([*whose, kind], of_kind["size_bytes"])
                dropped.add_metric([*whose, kind], of_kind["dropped"])
    yield from (age, most, errors, waiting, size, dropped)


def _agents(environments: list[Json]) -> Iterator[Metric]:
    load = GaugeMetricFamily("heron_load_mw", "Load, MW, negative = consuming.", labels=BY_AGENT)
    power = GaugeMetricFamily("heron_devices_mw", "Power of all devices, MW, + = injected.", labels=BY_AGENT)
    low = GaugeMetricFamily("heron_vm_min_pu", "Lowest bus voltage, pu.", labels=BY_AGENT)
    high = GaugeMetricFamily("heron_vm_max_pu", "Highest bus voltage, pu.", labels=BY_AGENT)
    loading = GaugeMetricFamily("heron_loading_max_percent", "Highest loading, %.", labels=BY_AGENT)
    fallbacks = CounterMetricFamily(
        "heron_fallbacks", "Steps in which a model replaced a device.", labels=BY_AGENT
    )
    leases = GaugeMetricFamily("heron_leases_held", "Devices whose lease is held.", labels=BY_AGENT)
    health = GaugeMetricFamily("heron_devices", "Devices by health.", labels=(*BY_AGENT, "health"))
    level = GaugeMetricFamily("heron_authority", "Devices by authority.", labels=(*BY_AGENT, "level"))
    for one in environments:
        env_id = one["env_id"]
        for agent, seen in one["microgrids"].items():
            values = (
                (load, seen.get("load_mw")),
                (low, seen.get("vm_min_pu")),
                (high, seen.get("vm_max_pu")),
                (loading, seen.get("loading_max_percent")),
                (power, sum(seen["p_mw"].values()) if seen.get("p_mw") else None),
            )
            for family, value in values:
                if value is not None:
                    family.add_metric([env_id, agent], value)
        _count_devices(one, env_id, fallbacks, leases, health, level)
    yield from (load, power, low, high, loading, fallbacks, leases, health, level)


def _count_devices(
    one: Json,
    env_id: str,
    fallbacks: CounterMetricFamily,
    leases: GaugeMetricFamily,
    health: GaugeMetricFamily,
    level: GaugeMetricFamily,
) -> None:
    stood_in: Counter[str] = Counter()
    held: Counter[str] = Counter()
    healths: Counter[tuple[str, str]] = Counter()
    levels: Counter[tuple[str, str]] = Counter()
    for label, device in one["devices"].items():
        agent = label.partition("/")[0]
        stood_in[agent] += device["fallbacks"]
        held[agent] += int(device["lease"] is not None and device["lease"]["state"] == "held")
        healths[agent, device["health"]] += 1
        if device["authority"] is not None:
            levels[agent, str(device["authority"]["level"])] += 1
    for agent, count in stood_in.items():
        fallbacks.add_metric([env_id, agent], count)
        leases.add_metric([env_id, agent], held[agent])
    for (agent, name), count in healths.items():
        health.add_metric([env_id, agent, name], count)
    for (agent, name), count in levels.items():
        level.add_metric([env_id, agent, name], count)
