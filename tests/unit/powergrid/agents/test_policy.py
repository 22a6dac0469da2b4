"""A policy that a scenario names decides in every mode alike; what is wrong with it is one line."""

from __future__ import annotations

import copy
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from heron_mqtt.errors import ConfigError
from heron_mqtt.messaging.impairment import ImpairmentTable
from heron_mqtt.messaging.memory import InMemoryBroker
from powergrid.agents.policy import (
    AgentPolicy,
    PolicyContext,
    PolicyView,
    check_policy,
    checked_setpoints,
    load_policy,
)
from powergrid.envs import BatchedMicrogrids, MultiAgentMicrogrids
from powergrid.scenario import PolicyTable, load_scenario, scenario_from_dict
from powergrid.simulation.build import build
from support.rows import each_row
from support.small_grid import scenario as small
from support.trajectories import assert_same, own_policies, some_random_actions, trajectory

pytestmark = pytest.mark.usefixtures("built_once")

HERE = f"{Path(__file__).resolve()}"
MGS = ["MG1", "MG2", "MG3"]
RUNNING = {"microgrids.MG1.devices.gen.initial_running": True}


class Thermostat(AgentPolicy):
    """Looks at everything there is, and remembers; works on numbers."""

    def __init__(self, context: PolicyContext, share: float = 0.5) -> None:
        super().__init__(context)
        self._share = share
        self._seen = 0.0

    def reset(self, episode: int, seed: int | None) -> None:
        self._seen = float((seed or 0) % 7)

    def get_state(self) -> Any:
        return self._seen

    def set_state(self, state: Any) -> None:
        self._seen = state

    def decide(self, view: PolicyView) -> Mapping[str, Any]:
        self._seen = 0.9 * self._seen + 0.1 * view.price
        assert view.clock_s is not None
        value = view.price - self._seen + 10.0 * (view.soc["ess"] - 0.5) + view.clock_s / 86_400.0
        value += 100.0 * (view.p_load_mw + view.p_available_mw["pv"] + view.p_mw["gen"])
        value += 10.0 * (view.vm_min_pu - 1.0) + view.loading_max_percent / 100.0 + view.q_load_mvar
        value += sum(foretold[0] for foretold in view.forecast.values())
        return {"p_ess": self._share * 0.01 * np.tanh(value / 20.0), "q_pv": 0.001 * np.sign(value)}


class OverCopies(AgentPolicy):
    """The like on numbers and arrays; it remembers what it was shown in the episode, and counts its steps."""

    decides_for_copies: ClassVar[bool] = True

    def __init__(self, context: PolicyContext) -> None:
        super().__init__(context)
        self._last: Any = None
        self._count: Any = 0.0
        self._is_new: Any = True

    def reset(self, episode: int, seed: int | None) -> None:
        assert seed is not None
        self._count, self._is_new = 0.3 * episode + seed % 7, True

    def reset_copies(self, copies: Any, episodes: Sequence[int], seeds: Sequence[int]) -> None:
        n = self.context.n or 0
        self._count, self._is_new = (np.broadcast_to(part, n).copy() for part in (self._count, self._is_new))
        self._count[copies] = [0.3 * one + seed % 7 for one, seed in zip(episodes, seeds, strict=True)]
        self._is_new[copies] = True

    def decide(self, view: PolicyView) -> Mapping[str, Any]:
        now = view.p_mw["ess"], view.soc["ess"]
        before = now if self._last is None else self._last
        last = tuple(np.where(self._is_new, *pair) for pair in zip(now, before, strict=True))
        here = True if view.asked is None else view.asked
        self._last = tuple(np.where(here, *pair) for pair in zip(now, last, strict=True))
        self._is_new = self._is_new & ~np.asarray(here)
        self._count = self._count + np.where(here, 1.0, 0.0)
        change = 30.0 * (now[0] - last[0]) + 9.0 * (now[1] - last[1]) + 0.1 * np.sin(self._count)
        return {"p_ess": 0.01 * np.tanh((view.price - 60.0) / 20.0 + now[1] + view.clock_s / 9e4 + change)}


class Wrong(AgentPolicy):
    """Decides for what there is not, or no number."""

    def __init__(self, context: PolicyContext, field: str, value: float = 0.0) -> None:
        super().__init__(context)
        self._decided = {field: value}

    def decide(self, view: PolicyView) -> Mapping[str, Any]:
        return self._decided


def scenario(policy: Any, **changes: Any) -> dict[str, Any]:
    named = {f"microgrids.{agent}.policy": policy for agent in MGS}
    return small({**named, "forecast": {"kind": "noisy", "horizon": 8}, **changes})


@pytest.mark.parametrize("name", ["Thermostat", "OverCopies"])
@pytest.mark.parametrize("act", [own_policies, some_random_actions])
def test_it_decides_alike_centralized_and_over_messages(name: str, act: Any) -> None:
    config: dict[str, Any] = {"scenario": scenario(f"{HERE}:{name}"), "observation": "full"}
    central = trajectory(MultiAgentMicrogrids(config), act)
    env = MultiAgentMicrogrids({**config, "centralized": False, "message_broker": InMemoryBroker()})
    assert_same(central, trajectory(env, act))
    env.close()
    rules = trajectory(MultiAgentMicrogrids({**config, "scenario": scenario({})}), act)
    path = "info/MG1/p_mw/ess"
    assert any(mine[path] != theirs[path] for mine, theirs in zip(central[1:], rules[1:], strict=True))


@pytest.mark.parametrize("name", ["Thermostat", "OverCopies"])
def test_it_decides_alike_in_a_batch(name: str) -> None:
    made = scenario(f"{HERE}:{name}", randomisation={"start": "random", "load_noise": 0.1}, **RUNNING)
    batch = BatchedMicrogrids({"scenario": made, "num_envs": 3})
    singles = [MultiAgentMicrogrids({"scenario": made}) for _ in range(3)]
    batch.reset(seed=4)
    for copy_, env in enumerate(singles):
        env.reset(seed=4 + copy_)
    for _ in range(20):
        _, rewards, _, truncated, infos = batch.step()
        for copy_, env in enumerate(singles):
            alone = env.step({})
            for agent in MGS:
                assert rewards[agent][copy_] == pytest.approx(alone[1][agent], rel=1e-9, abs=1e-9)
                mine = infos[agent]["p_mw"]["ess"][copy_]
                assert mine == pytest.approx(alone[4][agent]["p_mw"]["ess"], rel=1e-9, abs=1e-12)
            if truncated["MG1"][copy_]:
                env.reset()


def test_where_nothing_was_heard_it_is_not_asked_in_a_batch_either() -> None:
    lossy = ImpairmentTable.model_validate({"rules": [{"pattern": "#", "loss": 0.2}]})
    config = {"scenario": scenario(f"{HERE}:OverCopies"), "networks": [lossy]}
    batch, lost = BatchedMicrogrids({**config, "num_envs": 3}), 0
    batch.reset(seed=4, options={"start_rows": [8, 8, 8]})
    singles = [MultiAgentMicrogrids(config) for _ in range(3)]
    for copy_, env in enumerate(singles):
        env.reset(seed=4 + copy_, options={"start_row": 8})
    for _ in range(6):
        infos = batch.step()[4]
        for copy_, env in enumerate(singles):
            for agent, info in env.step({})[4].items():
                mine = infos[agent]["p_mw"]["ess"][copy_]
                assert mine == pytest.approx(info["p_mw"]["ess"], rel=1e-9, abs=1e-12)
                lost += info["fallback"] is not None
    assert lost > 5


def test_its_memory_goes_along_with_copies() -> None:
    env = MultiAgentMicrogrids({"scenario": scenario(f"{HERE}:Thermostat")})
    env.reset(seed=5)
    env.step({})
    other = copy.deepcopy(env)
    assert [env.step({})[1] for _ in range(4)] == [other.step({})[1] for _ in range(4)]


def test_a_command_comes_before_it_and_limits_hold() -> None:
    made = scenario({"use": f"{HERE}:Wrong", "arguments": {"field": "p_ess", "value": 99.0}})
    env = MultiAgentMicrogrids({"scenario": made})
    env.reset(seed=1)
    infos = env.step({})[4]
    assert 0.0 < infos["MG1"]["p_mw"]["ess"] <= 0.01
    infos = env.step({"MG1": np.array([-1.0, -0.5, 1.0, 0.0])})[4]
    assert infos["MG1"]["p_mw"]["ess"] == pytest.approx(-0.004)


def first_step(policy: Any) -> None:
    env = MultiAgentMicrogrids({"scenario": scenario(policy)})
    env.reset(seed=1)
    env.step({})


@each_row(
    ("policy", "expected"),
    [
        ("no_such_module:Policy", r"policy 'no_such_module:Policy': cannot be imported: No module"),
        ("no_such_file.py:Policy", r"cannot be imported: no such file: "),
        ("math:sqrt", r"policy 'math:sqrt': math has no class sqrt derived from AgentPolicy"),
        (f"{HERE}:Nobody", r"has no class Nobody derived from AgentPolicy"),
        ({"use": f"{HERE}:Thermostat", "arguments": {"colour": 1}}, r"arguments: .*colour"),
        ("math", r"should match pattern"),
        (
            {"use": f"{HERE}:Wrong", "arguments": {"field": "p_nothing"}},
            r"of MG1 decided 'p_nothing': no such",
        ),
        (
            {"use": f"{HERE}:Wrong", "arguments": {"field": "p_ess", "value": float("1e999")}},
            r"finite number",
        ),
    ],
)
def test_what_is_wrong_with_it_is_said_in_one_line(policy: Any, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected) as caught:
        first_step(policy)
    assert "\n" not in caught.value.problems[0]


def test_a_file_is_found_beside_the_scenario(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from heron_mqtt.config import shipped_config

    monkeypatch.chdir("/")
    text = (shipped_config() / "three_microgrids.toml").read_text(encoding="utf-8")
    text = text.replace("policy = { charge_below = 41.0, discharge_above = 63.0 }", 'policy = "mine.py:Mine"')
    (tmp_path / "site.toml").write_text(text, encoding="utf-8")
    (tmp_path / "mine.py").write_text(
        "from powergrid.agents.policy import AgentPolicy\n"
        "class Mine(AgentPolicy):\n    def decide(self, view):\n        return {'p_ess': 0.001}\n",
        encoding="utf-8",
    )
    loaded = load_scenario(tmp_path / "site.toml")
    use = loaded.scenario.microgrids["MG2"].policy.use
    assert use is not None
    assert load_policy(use).__name__ == "Mine"
    env = MultiAgentMicrogrids({"scenario": loaded})
    env.reset(seed=1)
    assert env.step({})[4]["MG2"]["p_mw"]["ess"] == pytest.approx(0.001)


def test_a_file_has_one_name_in_every_process(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("from powergrid.agents.policy import AgentPolicy\nclass Mine(AgentPolicy): ...\n")
    module = load_policy(f"{path}:Mine").__module__
    assert module == f"policy_of_mine_{zlib.crc32(str(path.resolve()).encode()):08x}"
    assert load_policy("mine.py:Mine", tmp_path).__module__ == module


class Plain(AgentPolicy):
    """Takes no arguments."""

    def decide(self, view: PolicyView) -> Mapping[str, Any]:
        return {}


class NeedsOne(Plain):
    """Cannot be made without an argument."""

    def __init__(self, context: PolicyContext, until_h: float, share: float = 0.5) -> None:
        super().__init__(context)


@pytest.mark.parametrize(
    ("kind", "arguments", "expected"),
    [
        (Thermostat, {"shar": 0.4}, "no argument 'shar'; Thermostat takes share"),
        (Plain, {"share": 0.4}, "no argument 'share'; Plain takes none"),
        (NeedsOne, {"share": 0.4}, "argument 'until_h' is missing; NeedsOne takes until_h, share"),
    ],
)
def test_an_argument_that_it_does_not_take_is_found_before_a_run(
    kind: type[AgentPolicy], arguments: dict[str, Any], expected: str
) -> None:
    table = PolicyTable(use=f"{HERE}:{kind.__name__}", arguments=arguments)
    with pytest.raises(ConfigError, match=f"arguments: {expected}"):
        check_policy(table)
    with pytest.raises(ConfigError, match=r"microgrids\.MG1\.policy: .*arguments: "):
        build(scenario_from_dict(scenario({"use": table.use, "arguments": arguments})))


@pytest.mark.parametrize(
    "decided",
    [
        *({"p_ess": value} for value in ("much", "0.01", None, True, [0.1, 0.2], 10**400, 1j)),
        *(None, [0.1], 0.1),
    ],
    ids=lambda decided: str(decided)[:20],
)
def test_what_is_no_number_is_refused_in_one_line(decided: Any) -> None:
    with pytest.raises(ConfigError, match=r"^policy X of MG1 decided .*: expected a "):
        checked_setpoints(decided, {"ess": None}, "policy X of MG1")


def test_numbers_of_numpy_are_numbers() -> None:
    decided = {"p_ess": np.float32(0.5), "q_ess": np.array(0.25)}
    assert checked_setpoints(decided, {"ess": None}, "it") == {"p_ess": 0.5, "q_ess": 0.25}
