"""What the emulators share: a field device whose physics is the model that the simulation uses too."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Iterable
from typing import TYPE_CHECKING, Any

from heron_mqtt.field.device import FieldDevice, SetpointRejected
from heron_mqtt.json_object import Json
from heron_mqtt.messages import Fault, RunState, Setpoint, Status, Telemetry
from heron_mqtt.messaging import topics
from heron_mqtt.messaging.base import Callback, Received
from heron_mqtt.messaging.stamping import new_boot
from powergrid.devices import DeviceSpecBase, Measurement, make_device
from powergrid.devices.draws import draw_delays, draw_device, drawn_device
from powergrid.emulators.faults import SILENT, FaultState
from powergrid.emulators.imperfections import Imperfections
from powergrid.scenario import EmulatorTable, RandomisationTable

if TYPE_CHECKING:
    from powergrid.emulators.history import DeviceHistory, PastStep

log = logging.getLogger("heron_mqtt.emulator")

SAME = 1e-9  # MW, or state of charge

REAL_TIME_DT_S = 1.0  # what a setpoint without dt_s moves an emulator by: there is no simulated time


class Emulator(FieldDevice):
    """A device that answers a setpoint with what its model does, ideal or with imperfections and faults.

    ``dt_s`` and ``p_available_mw`` of a setpoint stand for what a real device has by itself: the time
    that passes and the sun that shines. Faults come from the command line or, while it runs, on
    ``devices/<agent>/<device>/fault``.

    Args:
        spec: Its nameplate.
        table: What differs from the model.
        faults: Those planned on the command line.
        randomisation: The values that an episode's seed draws for it; None = nothing.
        history: Its recorded steps in an interrupted run that continues; None = nothing.
    """

    follows_episodes = True
    watches_its_rest = is_model = True  # there is no hardware that could fail to
    kind: str  # type: ignore[misc] # that of its nameplate

    def __init__(
        self,
        spec: DeviceSpecBase,
        table: EmulatorTable,
        faults: FaultState,
        *args: Any,
        randomisation: RandomisationTable | None = None,
        history: DeviceHistory | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.kind = spec.kind
        self._nameplate = spec
        self._table = table
        self._faults = faults
        self._history = history
        self._is_asked_where = False  # a run continues: it is waited for, whatever its fault is
        self._model_spec = spec.derated(table.efficiency_factor)
        self._model = make_device(self._model_spec)
        varies = randomisation is not None and (randomisation.varies_devices or randomisation.varies_delays)
        self._randomisation = randomisation if varies else None
        self._imperfect = self._new_imperfections(table, episode=0)
        self._telemetry = self._at_rest()

    # -- the device --------------------------------------------------------------------------------

    def apply(self, setpoint: Setpoint) -> Awaitable[None] | None:
        """Let the model take the step, as far as the fault in force lets it; at once, if it is not slow."""
        if (delay_s := self._imperfect.answer_delay_s()) > 0.0:
            return self._move_later(setpoint, delay_s)
        self._move(setpoint)
        return None

    async def _move_later(self, setpoint: Setpoint, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        self._move(setpoint)

    def _move(self, setpoint: Setpoint) -> None:
        kind = self._faults.kind
        if kind == "reject_setpoints":
            raise SetpointRejected("fault on demand: this device rejects setpoints")
        dt_s = setpoint.dt_s or REAL_TIME_DT_S
        model = self._model
        wanted_mw = model.state.p_mw if kind == "stuck" else setpoint.p_mw
        available_mw = setpoint.p_available_mw if model.spec.profile_says is not None else None
        try:
            target_mw = model.project(wanted_mw, dt_s, available_mw)
        except ValueError as exc:  # a sun that takes power away, a load that gives it
            raise SetpointRejected(str(exc)) from exc
        mean_mw = self._imperfect.respond(target_mw, dt_s)
        done = model.step(mean_mw, setpoint.q_mvar, dt_s, available_mw)
        if done.p_mw != mean_mw:
            self._imperfect.p_mw = done.p_mw  # a limit of the device came first
        if kind != "frozen":
            self._telemetry = self._shown(done)

    def measure(self) -> Telemetry:
        """Return what the device shows."""
        fault = self._faults.active
        if fault is not None and fault.kind == "offset":
            return self._telemetry.model_copy(update={"p_mw": self._telemetry.p_mw + fault.value})
        return self._telemetry

    def go_safe(self, reason: str) -> None:
        """Rest, or continue as it is, by its kind; time does not move: the elapsed time is unknown."""
        if not self._nameplate.rests_when_safe:
            return
        self._imperfect.p_mw = 0.0
        self._telemetry = self._telemetry.model_copy(update={"p_mw": 0.0, "q_mvar": 0.0})

    def begin_episode(self, run_state: RunState) -> None:
        """Go back to the model's initial state, or to the one that the episode's seed draws."""
        table = self._table
        if self._randomisation is not None and run_state.seed is not None:
            delays = draw_delays(self._randomisation, run_state.seed, self.agent_id, self.name)
            table = table.model_copy(
                update={
                    "response_delay_s": table.response_delay_s + delays.response_delay_s,
                    "answer_delay_s": table.answer_delay_s + delays.answer_delay_s,
                }
            )
            draw = draw_device(self._randomisation, run_state.seed, self.agent_id, self.name)
            self._model = drawn_device(self._model_spec, draw)
        else:
            self._model.reset()
        self._faults.restart()
        self._imperfect = self._new_imperfections(table, run_state.episode or 0)
        self._telemetry = self._at_rest()
        if self._history is not None and self._history.episode == run_state.episode:
            self._relive(self._history.steps)
            self._is_asked_where = True

    def _relive(self, steps: Iterable[PastStep]) -> None:
        """Take what was taken in an interrupted run, in which no time passes and nothing is said."""
        last: PastStep | None = None
        for past in steps:
            was = self._faults.kind
            for fault in past.faults:
                self._faults.begin(fault)
            if self._faults.on_step(past.number) and was == "reboot":
                self.go_safe("rebooted")
            kind = self._faults.kind
            # What answers nothing, or nonsense, has taken the setpoint for all that.
            was_taken = past.is_answered or kind in {"reject_setpoints", "garbage"}
            if past.setpoint is not None and was_taken:
                self._imperfect.answer_delay_s()  # its random numbers
                with contextlib.suppress(SetpointRejected):
                    self._move(past.setpoint)
            if past.is_safe:
                self.go_safe("as it was")
            last = past if past.p_mw is not None else last
        if last is not None and not self._shows(last):
            log.warning(
                "%s: does not reach its recorded state of step %d; it continues from there",
                self.label,
                last.number,
            )
            assert last.p_mw is not None
            self._model.restore(last.p_mw, last.soc)
            self._imperfect.p_mw = last.p_mw
            self._telemetry = self._telemetry.model_copy(update={"p_mw": last.p_mw, "soc": last.soc})

    def _shows(self, past: PastStep) -> bool:
        shown = self.measure()
        pairs = [(shown.p_mw, past.p_mw), (shown.soc, past.soc)]
        return all(a is None or b is None or abs(a - b) <= SAME for a, b in pairs)

    def nameplate(self) -> dict[str, Any]:
        """Return the nameplate's limits."""
        low, high = self._nameplate.power_range_mw
        return {
            "p_min_mw": low,
            "p_max_mw": high,
            "max_e_mwh": getattr(self._nameplate, "max_e_mwh", None),
            "soc": getattr(self._model.state, "soc", None),
        }

    # -- faults ------------------------------------------------------------------------------------

    def channels(self) -> list[tuple[str, Callback]]:
        """Return the channel of faults on demand."""
        return [(topics.device(self.agent_id, self.name, "fault"), self._on_fault)]

    async def _on_fault(self, message: Received) -> None:
        fault = self._broker.parsed(message, Fault)
        if fault is None:
            return
        log.warning("%s: fault on demand: %s for %d steps", self.label, fault.kind, fault.steps)
        self._faults.begin(fault)
        if fault.kind == "reboot":
            self._say(self._stamped(Status(state="offline", reason="rebooting")))

    def on_run_state(self, run_state: RunState) -> Awaitable[None] | None:
        """Let the faults of the step begin and end."""
        if run_state.state == "running" and run_state.step is not None and self._ends_reboot(run_state.step):
            return self._restart()
        return None

    def _ends_reboot(self, step: int | None) -> bool:
        """Let the faults of a step begin and end; whether a reboot has just ended."""
        was, self._is_asked_where = self._faults.kind, False
        return self._faults.on_step(step) and was == "reboot"

    def heeds(self, setpoint: Setpoint) -> Awaitable[bool] | bool:
        """Hear no setpoint while the fault in force is silence, or to ignore them; no renewal either."""
        if not setpoint.renewal and self._ends_reboot(setpoint.step):
            return self._heeds_again()
        return self._hears

    @property
    def _hears(self) -> bool:
        kind = self._faults.kind
        return kind not in SILENT and kind != "ignore_setpoints"

    async def _heeds_again(self) -> bool:
        await self._restart()
        return self._hears

    def shown(self, telemetry: Telemetry) -> Telemetry | Json | None:
        """Return nothing, or nonsense, where the fault in force is that."""
        kind = self._faults.kind
        if self._is_asked_where:
            return telemetry
        if kind in SILENT:
            return None
        if kind == "garbage":
            return {"type": "telemetry", "p_mw": "?", "sender": self.label}
        return telemetry

    async def _restart(self) -> None:
        """Come back as a device that lost its memory but not its state of charge: in its safe state."""
        self._stamper.boot = new_boot()
        self._forget_setpoints()
        self._lease.end()
        self.is_safe = True
        self.go_safe("rebooted")
        self._say(self._birth())
        self._tell_holder()
        await self._publish_telemetry()  # until it has measured it is sent nothing

    # -- helpers -----------------------------------------------------------------------------------

    def _shown(self, done: Measurement) -> Telemetry:
        return Telemetry(
            p_mw=self._imperfect.measure(done.p_mw), q_mvar=done.q_mvar, soc=done.soc, running=done.running
        )

    def _at_rest(self) -> Telemetry:
        """Return what it shows until the first setpoint: also a generator that runs at first gives nothing.

        From which power it ramps with that setpoint is the model's matter, as where devices are simulated.
        """
        state = self._model.state
        return Telemetry(
            p_mw=0.0 if self._nameplate.rests_when_safe else state.p_mw,
            soc=getattr(state, "soc", None),
            running=getattr(state, "running", None),
        )

    def _new_imperfections(self, table: EmulatorTable, episode: int) -> Imperfections:
        rng = random.Random(f"{self._table.seed}/{self.label}/{episode}")  # noqa: S311 - not for secrets
        return Imperfections(table, rng, self._model.state.p_mw)
