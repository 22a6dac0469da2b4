"""``heron-mqtt what-if``: a recorded day with something changed, compared with the record step by step."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from heron_mqtt.app.policies import actions_of, load_policy
from heron_mqtt.app.replay_env import ReplayEnv
from heron_mqtt.app.verify_files import files_changed
from heron_mqtt.errors import ConfigError
from heron_mqtt.messaging.impairment import load_impairment
from heron_mqtt.record.reader import RecordFile

EXACT = 1e-9


@dataclass(slots=True)
class Comparison:
    """A replay beside its record.

    Attributes:
        steps: Compared.
        rewards: By agent: recorded and replayed, $.
        costs: Likewise, without penalties, $.
        energy_mwh: Likewise, net.
        largest: Largest difference of any power (MW), state of charge, voltage (pu) or reward ($).
        first: Where the first difference beyond 1e-9 is; empty = there is none.
        apart: AGENT/DEVICE -> step in which the device left the record.
        unsure: Messages of which the record cannot tell whether they were in time.
        changed: Models and policies that are other ones here than in the run, a line each.
        differences: By step and agent, reward replayed minus recorded, where beyond 1e-9.
    """

    steps: int = 0
    rewards: dict[str, tuple[float, float]] = field(default_factory=dict)
    costs: dict[str, tuple[float, float]] = field(default_factory=dict)
    energy_mwh: dict[str, tuple[float, float]] = field(default_factory=dict)
    largest: float = 0.0
    first: str = ""
    apart: dict[str, int] = field(default_factory=dict)
    unsure: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    differences: list[tuple[int, str, float]] = field(default_factory=list)

    @property
    def is_exact(self) -> bool:
        """Whether nothing differs by more than 1e-9."""
        return not self.first


def what_if(
    run: str | Path,
    *,
    policy: str | None = None,
    without_impairment: bool = False,
    network: str | None = None,
    price: str | None = None,
    changes: Mapping[str, Any] | None = None,
) -> Comparison:
    """Run a recorded day again, with something changed or nothing.

    Args:
        run: The record.
        policy: ``module:Class`` of another policy; None = the agents' own, with the recorded commands.
        without_impairment: As if the network had been perfect.
        network: A file of an impaired network, or the name of a shipped one, instead of the recorded one.
        price: ``x1.2`` (a factor), ``+5`` or ``-5`` (added, $/MWh) or ``80`` (instead, $/MWh).
        changes: Values of the scenario by dotted key.

    Raises:
        ConfigError: An argument is wrong.
        DataError: It is no record that can be replayed.
    """
    change = None if price is None else price_change(price)
    if without_impairment and network is not None:
        raise ConfigError("--network and --without-impairment: one or the other")
    other_network = None if network is None else load_impairment(network)
    env = ReplayEnv(
        run, without_impairment=without_impairment, network=other_network, price=change, changes=changes
    )
    other = None if policy is None else load_policy(policy, env)
    found = Comparison()
    observations, _ = env.reset()
    for number in sorted(env.recorded):
        if not env.agents:
            break
        actions = {} if other is None else actions_of(other, env, observations)
        observations, rewards, _, _, infos = env.step(actions)
        compare_step(found, env, number, rewards, infos)
    env.close()
    with RecordFile(run) as record:
        found.changed = files_changed(record)
    found.apart = dict(env.exchange.apart_since)
    found.unsure = list(dict.fromkeys(env.deliveries.unsure))
    return found


def price_change(text: str) -> Callable[[float], float]:
    """Return the function of a price that a text describes; see ``what_if``.

    Raises:
        ConfigError: It is none of these.
    """
    found = re.fullmatch(r"([x+-]?)(\d+(?:\.\d+)?)", text.strip())
    if found is None:
        raise ConfigError(f"--price {text}: expected x1.2 (a factor), +5, -5 (added) or 80 (instead), $/MWh")
    kind, value = found[1], float(found[2])
    if kind == "x":
        return lambda price: price * value
    if kind in {"+", "-"}:
        return lambda price: price + (value if kind == "+" else -value)
    return lambda _price: value


def compare_step(
    found: Comparison,
    env: ReplayEnv,
    number: int,
    rewards: Mapping[str, float],
    infos: Mapping[str, Mapping[str, Any]],
) -> None:
    """Compare a replayed step with its record.

    Args:
        found: Takes what is found.
        env: The replay.
        number: Of the step that it has just taken.
        rewards: By agent, as it returned them.
        infos: Likewise.
    """
    one = env.recorded[number]
    found.steps += 1
    for agent, info in infos.items():
        said = one.agents[agent]
        terms, before = info["reward_terms"], json.loads(said["reward_terms"])
        names = ("generation", "grid", "trades")
        _add(found.rewards, agent, said["reward"], rewards[agent])
        _add(found.costs, agent, -sum(before[n] or 0.0 for n in names), -sum(terms[n] for n in names))
        _add(found.energy_mwh, agent, said["net_mwh"], info["net_mwh"])
        pairs = [
            ("reward", said["reward"], rewards[agent]),
            ("net_mwh", said["net_mwh"], info["net_mwh"]),
            ("vm_min_pu", said["vm_min_pu"], info["vm_pu"]["min"]),
            ("loading_max_percent", said["loading_max_percent"], info["loading_max_percent"]),
        ]
        for (owner, device), row in one.devices.items():
            if owner == agent:
                pairs.append((f"p_mw of {device}", row["p_mw"], info["p_mw"][device]))
                if device in info["soc"]:
                    pairs.append((f"soc of {device}", row["soc"], info["soc"][device]))
        for name, recorded, replayed in pairs:
            if recorded is None:
                continue
            apart = abs(replayed - recorded)
            found.largest = max(found.largest, apart)
            if apart > EXACT * max(1.0, abs(recorded)) and not found.first:
                found.first = (
                    f"step {number} {agent}: {name} {recorded:.9g} recorded, {replayed:.9g} replayed"
                )
        change = rewards[agent] - (said["reward"] or 0.0)
        if abs(change) > EXACT:
            found.differences.append((number, agent, change))


def _add(sums: dict[str, tuple[float, float]], agent: str, recorded: float | None, replayed: float) -> None:
    one, other = sums.get(agent, (0.0, 0.0))
    sums[agent] = (one + (recorded or 0.0), other + replayed)
