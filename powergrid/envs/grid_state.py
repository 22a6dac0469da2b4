"""What the environment knows between two steps, as arrays: of one grid, or of many copies at once."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from itertools import accumulate, islice, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from heron_mqtt.errors import ConfigError, PowerFlowDiverged
from powergrid.devices.base import make_tuple
from powergrid.envs.agent_view import AgentView
from powergrid.envs.observation_bounds import state_bounds
from powergrid.envs.observation_form import AgentObservation, ObservationForm, ObservationScale
from powergrid.envs.state_layout import Layout
from powergrid.powerflow import Loadings
from powergrid.rewards import Rewards, StepAccount
from powergrid.rewards.group_reduce import GroupedReducer, consecutive
from powergrid.rewards.violations import LimitViolations
from powergrid.simulation.grid_simulation import GridSimulation
from powergrid.simulation.time_series import Outlook

if TYPE_CHECKING:
    from gymnasium.spaces import Box, Dict

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]

_ZERO = np.array(0.0)  # numpy takes an array of its own in half the time of a number


class GridState:
    """Device powers, grid results, outlook and trades, and the observations made of them.

    The arrays are views into one vector, so that an observation is one gather. Powers are positive when
    injected; ``...`` is ``shape``.

    Args:
        simulation: The grid.
        full: Observations show the whole grid instead of the agent's own part.
        shape: () for one grid, (n_copies,) for copies of it.
        horizon: How many steps are foretold.
        scale: Of the observations of learners; what policies see is in the scenario's scale.
        named: Observations are dicts by name instead of flat arrays.

    Attributes:
        p_mw, q_mvar: (..., n_devices) MW and Mvar in the last step.
        soc: (..., n_storage) state of charge at its end, fraction.
        p_load_mw, q_load_mvar: (..., n_agents) loads of the coming step, negative = consuming.
        p_available_mw: (..., n_profiled) what PV offers (>= 0) and loads want (<= 0) in the coming step, MW.
        price: (..., 1) of the coming step, $/MWh.
        vm_min_pu, vm_max_pu, loading_max_percent: (..., n_agents) extremes of the last step.
        traded_mwh: (..., n_agents, n_agents) sold by the row's agent to the column's, negative = bought.
        net_mwh: (..., n_agents) net injection in the last step.
        views: By agent, names for its part of ``plain()`` and ``snapshot()``.
        whole: The whole grid, flat: what ``state()`` of an environment returns.

    Raises:
        ConfigError: The grid without devices has no power-flow solution.
    """

    def __init__(
        self,
        simulation: GridSimulation,
        *,
        full: bool,
        shape: tuple[int, ...] = (),
        horizon: int = 0,
        scale: ObservationScale = "si",
        named: bool = False,
    ) -> None:
        scenario, n_agents = simulation.scenario, len(simulation.agents)
        self._full, self._named = full, named
        at_rest, n_bus = _at_rest(simulation).side_by_side, len(simulation.flow.bus_index)
        live = ~np.isnan(at_rest)  # what has no supply now never has
        live_buses = np.flatnonzero(live[:n_bus])
        layout = Layout(simulation, live_buses, horizon)
        self._values = np.zeros((*shape, layout.size))
        self._sections, self._n_local = layout.sections, layout.n_local
        self.views = {agent: AgentView(simulation, layout, agent) for agent in simulation.agents}
        self.price, self._hour = self._view("price"), self._view("hour")
        self.p_load_mw, self.q_load_mvar = self._view("p_load_mw"), self._view("q_load_mvar")
        self.p_mw, self.q_mvar = self._view("p_mw"), self._view("q_mvar")
        of_series = slice(layout.sections["price"].start, layout.sections["p_available_mw"].stop)
        self._of_series = self._values[..., of_series]  # all that the time series say
        of_devices = slice(layout.sections["p_mw"].start, layout.sections["soc"].stop)
        self._of_devices = self._values[..., of_devices]  # powers and states of charge, which are neighbours
        self.soc, self.p_available_mw = self._view("soc"), self._view("p_available_mw")
        self.vm_min_pu, self.vm_max_pu = self._view("vm_min_pu"), self._view("vm_max_pu")
        self.loading_max_percent = self._view("loading_max_percent")
        highest = slice(layout.sections["vm_max_pu"].start, layout.sections["loading_max_percent"].stop)
        self._highest, self._n_agents = self._values[..., highest], n_agents  # neighbours, too
        self.traded_mwh = self._view("traded_mwh").reshape(*shape, n_agents, n_agents)
        self.net_mwh, self._grid = self._view("net_mwh"), self._view("grid")
        self._price_ahead = self._view("price_ahead")
        self._p_load_ahead_mw = self._view("p_load_ahead_mw").reshape(*shape, horizon, n_agents)
        self._p_available_ahead_mw = self._view("p_available_ahead_mw").reshape(
            *shape, horizon, self.p_available_mw.shape[-1]
        )

        self._initial_soc = [device.spec.soc_at_reset for device in simulation.devices if device.has_soc]
        self._dt_h = np.array(scenario.step_s / 3600.0)
        self._devices = GroupedReducer(simulation.positions())
        self._rewards = Rewards(scenario)
        places = simulation.microgrids.values()
        n_line = len(simulation.flow.line_index)
        in_grid = np.concatenate([live_buses, np.arange(n_bus, len(live))])
        self._in_grid = consecutive(in_grid)
        # Limits are read where the quantities stand in the vector; what has no supply stands nowhere.
        stand_at = np.full(len(live) + self.soc.shape[-1], -1)
        stand_at[in_grid] = layout.sections["grid"].start + np.arange(len(in_grid))
        stand_at[len(live) :] = layout.sections["soc"].start + np.arange(self.soc.shape[-1])
        self._limits = LimitViolations(
            scenario.reward,
            buses=[index.buses for index in places],
            branches=[np.concatenate([index.lines, n_line + index.trafos]) for index in places],
            batteries=simulation.banded(),
            live=live,
            n_bus=n_bus,
            places=stand_at,
        )
        self._outside = np.zeros((*shape, 3, n_agents))
        self._outside_by_row = self._outside.reshape(*shape, 3 * n_agents)  # a view

        bounds = state_bounds(simulation, layout, at_rest, n_bus)
        self.whole = ObservationForm(*layout.whole(), bounds, scale)
        self._own = {agent: ObservationForm(*layout.own(agent), bounds, scale) for agent in simulation.agents}
        ends = accumulate((len(form.names) for form in self._own.values()), initial=0)
        self._part = {agent: slice(*at) for agent, at in zip(self._own, pairwise(ends), strict=True)}
        self._of_policies = {  # a network stays the same whatever scale learners beside it ask for
            agent: ObservationForm(*layout.own(agent), bounds, scenario.observation_scale)
            for agent in simulation.agents
        }

    def _view(self, section: str) -> Array:
        return self._values[..., self._sections[section]]

    def plain(self) -> list[float]:
        """Return the microgrids' quantities of one grid as numbers, for ``views``."""
        return self._values[: self._n_local].tolist()  # type: ignore[no-any-return]

    def snapshot(self) -> Array:
        """Return the microgrids' quantities of (n_copies,) grids, a row each, for ``views``."""
        return self._values[:, : self._n_local].T.copy()

    def get_state(self) -> tuple[Array, Array]:
        """Return everything there is to know; copies."""
        return self._values.copy(), self._outside.copy()

    def set_state(self, state: tuple[Array, Array]) -> None:
        """Put it back, into the arrays that others have views of."""
        self._values[...], self._outside[...] = state

    def put_back(self, state: tuple[Array, Array], where: Flags) -> None:
        """Put it back in the copies ``where``, (n,) bool; in the others nothing changes."""
        for mine, given in zip((self._values, self._outside), state, strict=True):
            mine[where] = given[where]

    # -- what happens ------------------------------------------------------------------------------

    def reset(self, where: Any = ..., soc: ArrayLike | None = None) -> None:
        """Put devices at rest and forget trades, in all copies or ``where``: an episode begins.

        Args:
            where: Which copies.
            soc: (..., n_storage) with which storage begins; None = as the nameplates say.
        """
        for quantity in (self.p_mw, self.q_mvar, self.traded_mwh, self.net_mwh):
            quantity[where] = 0.0
        self.soc[where] = self._initial_soc if soc is None else soc

    def take_devices(self, p_mw: list[float], q_mvar: list[float], soc: list[float]) -> None:
        """Take what the devices of one grid did; entries as in the attributes of these names."""
        self._of_devices[:] = p_mw + q_mvar + soc

    def look_ahead(self, outlook: Outlook | Array | None, clock_s: Any) -> None:
        """Take what holds in the coming step.

        Args:
            outlook: Of (...) copies, or the same as one vector (``TimeSeries.vector``); None = the time
                series have ended, and the last values stay.
            clock_s: (...) seconds since local midnight.
        """
        self._hour[...] = _of_one_hour(clock_s) if isinstance(clock_s, float) else _hour(clock_s)
        if isinstance(outlook, np.ndarray):
            self._of_series[...] = outlook
        elif outlook is not None:
            self.price[..., 0] = outlook.price
            self.p_load_mw[...], self.q_load_mvar[...] = outlook.p_load_mw, outlook.q_load_mvar
            self.p_available_mw[...] = outlook.p_available_mw

    def look_further(self, ahead: Outlook) -> None:
        """Take what is foretold; see ``Forecaster.outlook``."""
        self._price_ahead[...] = ahead.price
        self._p_load_ahead_mw[...] = ahead.p_load_mw
        self._p_available_ahead_mw[...] = ahead.p_available_mw

    def account(self) -> None:
        """Work out the net energy of each microgrid from what its devices did and its loads drew."""
        np.add(self._devices.sums(self.p_mw), self.p_load_mw, out=self.net_mwh)
        self.net_mwh *= self._dt_h

    def apply(self, result: Loadings, where: Any = ...) -> None:
        """Take the power flow's results, of all copies or ``where``."""
        of_grid = result.side_by_side[..., self._in_grid]
        if where is ...:
            np.fmax(of_grid, _ZERO, out=self._grid)  # without supply: 0
            values = self._values
        else:
            self._grid[where] = np.fmax(of_grid, _ZERO)
            values = self._values[where]
        n = self._n_agents
        lowest, highest, self._outside_by_row[where] = self._limits.read(values)
        self.vm_min_pu[where], self._highest[where] = lowest[..., :n], highest[..., : 2 * n]

    def results(self, where: Any = ...) -> tuple[Array, ...]:
        """Return the results of the last power flow that was applied, copies; see ``put_results``."""
        return tuple(result[where].copy() for result in self._flow_results())

    def put_results(self, results: tuple[Array, ...], where: Any = ...) -> None:
        """Put results back."""
        for result, values in zip(self._flow_results(), results, strict=True):
            result[where] = values

    def _flow_results(self) -> tuple[Array, ...]:
        return self.vm_min_pu, self.vm_max_pu, self.loading_max_percent, self._outside, self._grid

    def forget_results(self, where: Any = ...) -> None:
        """Make every result NaN, in all copies or ``where``: the power flow diverged."""
        for result in self._flow_results():
            result[where] = np.nan

    def reward_terms(self, cost: Array, traded_usd: Array) -> Array:
        """Return (..., n_terms, n_agents) $ of the step under way; see ``powergrid.rewards.Rewards.terms``.

        Args:
            cost: (..., n_agents) generation cost, $.
            traded_usd: (..., n_agents) earned minus paid in trades, $.
        """
        return self._rewards.terms(self._account_of(cost, traded_usd))

    def terms_by_agent(self, cost: list[float], traded_usd: list[float]) -> list[list[float]]:
        """Return the same of one grid in plain numbers: for each agent its terms."""
        net, sold = self.net_mwh.tolist(), np.add.reduce(self.traded_mwh, -1).tolist()
        price, outside = self.price.item(), self._outside
        accounts = [
            make_tuple(StepAccount, (*numbers, price, outside, None, None, None))
            for numbers in zip(cost, net, sold, traded_usd, strict=True)
        ]
        return self._rewards.terms_by_agent(
            accounts, outside.tolist(), lambda: self._account_of(np.array(cost), np.array(traded_usd))
        )

    def _account_of(self, cost: Array, traded_usd: Array) -> StepAccount:
        return StepAccount(
            cost,
            self.net_mwh,
            np.add.reduce(self.traded_mwh, -1),
            traded_usd,
            self.price,
            self._outside,
            self.p_mw,
            self.q_mvar,
            self._devices.sums,
        )

    @property
    def reward_names(self) -> tuple[str, ...]:
        """Names of the terms, in the order of ``reward_terms``."""
        return self._rewards.names

    # -- what it tells -----------------------------------------------------------------------------

    def space(self, agent: str) -> Box | Dict:
        """Return an agent's observation space; always the same object."""
        form = self._form(agent)
        return form.named_space if self._named else form.flat_space

    def names(self, agent: str) -> tuple[str, ...]:
        """Return what each entry of an agent's flat observation is."""
        return self._form(agent).names

    def observations(self, agents: Iterable[str]) -> dict[str, AgentObservation]:
        """Return each agent's (..., n) float32, laid out as ``names`` says; the arrays are the caller's."""
        whole = self.everything()  # each agent's own part stands in it: at once it takes a third of the time
        if not self._full:
            seen: dict[str, AgentObservation] = {
                agent: self._shown(self._own[agent], whole[..., self._part[agent]].copy()) for agent in agents
            }
            return seen
        if not self._named:
            found: dict[str, AgentObservation] = dict.fromkeys(agents, whole)
            for agent in islice(found, 1, None):  # the first has it as it is
                found[agent] = whole.copy()
            return found
        return {agent: self.whole.split(whole) for agent in agents}

    def own(self, agent: str) -> NDArray[np.float32]:
        """Return the (..., n) that an agent's policy may see: its own part, flat, in the scenario's scale."""
        return self._of_policies[agent].flat(self._values)

    def everything(self) -> NDArray[np.float32]:
        """Return the (..., n) whole grid, flat."""
        return self.whole.flat(self._values)

    def _form(self, agent: str) -> ObservationForm:
        return self.whole if self._full else self._own[agent]

    def _shown(self, form: ObservationForm, flat: NDArray[np.float32]) -> AgentObservation:
        return form.split(flat) if self._named else flat


def _hour(clock_s: Any) -> Array:
    """Return (..., 2) sine and cosine of a time of day, (...) s since midnight."""
    angle = (2.0 * np.pi / 86_400.0) * clock_s
    return np.stack((np.sin(angle), np.cos(angle)), -1)


_of_one_hour = functools.lru_cache(maxsize=1024)(_hour)  # the same times come every day


def check_length(simulation: GridSimulation, n_steps: int, what: str) -> None:
    """Refuse an episode that continues past the end of the time series.

    Raises:
        ConfigError: It does; says how many steps there are.
    """
    series, start = simulation.series, simulation.scenario.profiles.start_row
    source = simulation.blueprint.loaded.source
    if not series.has(start + n_steps - 1):
        raise ConfigError(
            f"{what}: max_episode_steps = {n_steps}: the time series of {source} have {series.n_rows} rows "
            f"and begin at profiles.start_row = {start}; at most {series.n_rows - start} steps, or "
            "profiles.repeat = true"
        )


def no_beginning(seed: int, row: int, reason: str) -> PowerFlowDiverged:
    """Return what to raise where the grid that an episode would begin with has no power-flow solution."""
    return PowerFlowDiverged(
        f"the episode of seed {seed} cannot begin: no power-flow solution with the loads of row {row} and "
        f"every device at rest ({reason}); narrow load_scale and load_noise of [randomisation], or begin at "
        "another row"
    )


def _at_rest(simulation: GridSimulation) -> Loadings:
    row, nothing = simulation.scenario.profiles.start_row, np.zeros(len(simulation.devices))
    source = simulation.blueprint.loaded.source
    try:
        return simulation.solve(row, nothing, nothing)
    except PowerFlowDiverged as exc:
        raise ConfigError(
            f"{source}: network: no power-flow solution with the loads of row {row} and every device at rest "
            f"({exc.reason}); check the network and the scale of its loads, or ask "
            "for less with network.tolerance_mva"
        ) from None
