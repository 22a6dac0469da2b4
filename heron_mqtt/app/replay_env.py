"""ReplayEnv: a recorded day as an environment: its loads, sun, prices, network and devices."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from heron_mqtt.app.other_network import OtherNetwork
from heron_mqtt.app.recorded_world import (
    RecordedStep,
    episode_seed,
    recorded_loaded,
    recorded_scenario,
    steps,
)
from heron_mqtt.app.replay_exchange import ReplayExchange
from heron_mqtt.errors import DataError, PowerFlowDiverged
from heron_mqtt.messaging.impairment import ImpairmentTable
from heron_mqtt.record.deliveries import Deliveries
from heron_mqtt.record.reader import RecordFile
from powergrid.envs import MultiAgentMicrogrids
from powergrid.envs.copies import EnvState
from powergrid.rewards import traded


class ReplayEnv(MultiAgentMicrogrids):
    """The environment of a record: step it without actions, and it gives the recorded trajectory.

    With other actions, another price or another scenario value, the trajectory differs from there on. A
    device answers as recorded while its setpoint and state are those of the record. After that, its power is
    that of its model plus the residual that was recorded in that step.

    Args:
        run: The record of a run (of an environment).
        episode: Which one of it; None = the first.
        without_impairment: Every message arrives in time, and devices answer that a network kept silent.
        network: Another network than the recorded one.
        price: Makes of a recorded price, $/MWh, the one that holds; None = the recorded one.
        changes: Values of the scenario by dotted key (``market.import_adder_per_mwh``).
        n_steps: Length of the episode; None = as many steps as were recorded.

    Raises:
        DataError: It is no record, or one of a proxy, or without steps.
        ConfigError: A change does not fit.
    """

    def __init__(
        self,
        run: str | Path,
        *,
        episode: int | None = None,
        without_impairment: bool = False,
        network: ImpairmentTable | None = None,
        price: Callable[[float], float] | None = None,
        changes: Mapping[str, Any] | None = None,
        n_steps: int | None = None,
    ) -> None:
        with RecordFile(run) as record:
            if record.meta.get("role") != "environment":
                raise DataError(f"{record.path}: the record of a proxy; replay the one of the environment")
            every = list(steps(record))
            episodes = [one.at[0] for one in every]
            if not every or (episode is not None and episode not in episodes):
                raise DataError(
                    f"{record.path}: no step{'' if episode is None else f' of episode {episode}'}"
                )
            number = episodes[0] if episode is None else episode
            self.recorded: dict[int, RecordedStep] = {one.at[1]: one for one in every if one.at[0] == number}
            """The recorded steps, by number."""
            scenario = recorded_scenario(record, changes)
            self.deliveries = Deliveries(record, scenario.deadlines.peer_s)
            """Which messages arrived in time."""
            self._seed = episode_seed(record, number)
            observation = scenario.observation or (
                "full" if record.meta["mode"] == "centralized" else "local"
            )
            with tempfile.TemporaryDirectory(prefix="heron-record-") as folder:
                super().__init__(
                    {
                        "scenario": recorded_loaded(record, scenario, Path(folder)),
                        "max_episode_steps": n_steps or len(self.recorded),
                        "observation": observation,
                    }
                )
        if price is not None:
            self.simulation.series.change_prices(price)
        self._row_of_first = self.recorded[min(self.recorded)].step["row"]
        self.exchange = ReplayExchange(
            self.scenario,
            self.recorded,
            self.deliveries,
            self._clear if self.scenario.envelope.grid_check else None,
            heals=without_impairment,
            network=None if network is None else OtherNetwork(network, self._seed, self.scenario.deadlines),
        )
        """The agents; ``exchange.apart_since`` says which devices have left the record, and when."""
        self._direct = self.exchange

    def get_state(self) -> EnvState:
        """Refuse: where a device has left the record is not part of the state.

        Raises:
            TypeError: Always.
        """
        raise TypeError("a recorded day cannot be copied, pickled or set back: make another ReplayEnv of it")

    def reached(self) -> EnvState:
        """Return where the steps that were taken have led, for an environment that continues from there."""
        return super().get_state()

    def put_as_recorded(self, number: int) -> None:
        """Put devices and grid where the record has them after a step that was just taken."""
        one, state = self.recorded[number], self._state
        for i, device in enumerate(self.simulation.devices):
            if (row := one.devices.get((device.agent, device.name))) is not None:
                state.p_mw[i], state.q_mvar[i] = row["p_mw"] or 0.0, row["q_mvar"] or 0.0
        socs = [one.devices.get(at, {}).get("soc") for at in self.states_of_charge()]
        state.soc[:] = [
            before if soc is None else soc for soc, before in zip(socs, state.soc.tolist(), strict=True)
        ]
        state.traded_mwh[:], traded_usd = traded(self.simulation.agents, one.trades)
        self._records.traded_usd = traded_usd.tolist()
        factor = self._noise.load_at(number)
        with contextlib.suppress(PowerFlowDiverged):
            state.apply(self.simulation.solve(one.step["row"], state.p_mw, state.q_mvar, factor))
        self.exchange.put_as_recorded(one)

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
        """Begin the recorded episode again; see ``MultiAgentMicrogrids.reset``."""
        row = {"start_row": self._row_of_first}
        return super().reset(self._seed if seed is None else seed, {**row, **(options or {})})
