"""What a person may ask for, checked, and what became of it: proof or the lack of it, never a mere "sent"."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from heron_mqtt.app.live_view import LiveView
from heron_mqtt.app.operator_client import (
    Person,
    StopReport,
    ask_authority,
    inject_fault,
    set_stop,
    take_device,
)
from heron_mqtt.errors import ConfigError, HeronError
from heron_mqtt.field.gateway.authority import LADDER, gates
from heron_mqtt.json_object import Json
from heron_mqtt.messages import MAX_LEASE_S, AuthorityState, Fault, FaultKind, Level, explain

ShortName = Annotated[str, Field(min_length=1, max_length=200)]
AskedPower = Annotated[float, Field(ge=-1e6, le=1e6, allow_inf_nan=False)]


class ControlRequest(BaseModel):
    """What every request says."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
    env_id: ShortName
    why: str = Field("", max_length=500)


class StopRequest(ControlRequest):
    """The emergency stop, or its release."""

    do: Literal["stop", "release"]


class LevelRequest(ControlRequest):
    """Another level of authority."""

    do: Literal["authority"]
    device: ShortName
    level: Level


class TakeRequest(ControlRequest):
    """Manual control of one device; ``for_s`` 0 ends it. MW and Mvar, positive = injected."""

    do: Literal["take"]
    device: ShortName
    p_mw: AskedPower = 0.0
    q_mvar: AskedPower = 0.0
    for_s: float = Field(ge=0, le=MAX_LEASE_S)


class FaultRequest(ControlRequest):
    """A fault of an emulator."""

    do: Literal["fault"]
    device: ShortName
    kind: FaultKind
    steps: int = Field(1, ge=1, le=1_000_000)
    value: AskedPower = 0.0


class AcknowledgeRequest(ControlRequest):
    """A person has seen an event."""

    do: Literal["acknowledge"]
    event: int = Field(ge=1)


AnyRequest = Annotated[
    StopRequest | LevelRequest | TakeRequest | FaultRequest | AcknowledgeRequest, Field(discriminator="do")
]
_READ: TypeAdapter[Any] = TypeAdapter(AnyRequest)


class Commands:
    """Carries out requests, under the rights that the page's user has at the broker.

    Args:
        url: Of the broker.
        view: What is known of it.
    """

    def __init__(self, url: str, view: LiveView) -> None:
        self._url = url
        self._view = view

    async def carry_out(self, who: str, asked: Json) -> Json:
        """Return what became of a request: ``ok`` (it is proven), ``text`` and ``lines`` for people."""
        try:
            request = _READ.validate_python(asked)
        except ValidationError as exc:
            return _answer(False, f"not a valid request: {explain(exc)}")
        try:
            return await self._carry_out(Person.checked(who, request.why), request)
        except HeronError as exc:
            return _answer(False, str(exc))

    async def _carry_out(self, person: Person, request: Any) -> Json:
        match request:
            case StopRequest():
                active = request.do == "stop"
                return _stop_answer(await set_stop(self._url, request.env_id, person, active=active))
            case LevelRequest():
                args = (self._url, request.env_id, request.device, request.level, person)
                return _gateway_answer(request.device, await ask_authority(*args))
            case TakeRequest():
                power = {"p_mw": request.p_mw, "q_mvar": request.q_mvar, "for_s": request.for_s}
                done = await take_device(self._url, request.env_id, request.device, person, **power)
                return _gateway_answer(request.device, done)
            case FaultRequest():
                return await self._fault(person, request)
            case AcknowledgeRequest():
                if not self._view.acknowledge(request.env_id, request.event, person.who):
                    return _answer(False, "there is no such event any more")
                return _answer(True, "acknowledged")
            case _:
                raise AssertionError(request)

    async def _fault(self, person: Person, request: FaultRequest) -> Json:
        level = self._view.level(request.env_id, request.device)
        if level != "emulated":
            raise ConfigError(
                f"{request.device}: faults are for emulators; this device is at {level or 'no known level'}"
            )
        fault = Fault(kind=request.kind, steps=request.steps, value=request.value)
        await inject_fault(self._url, request.env_id, request.device, fault, person)
        text = (
            f"{request.device}: the broker has delivered the fault {request.kind} for {request.steps} steps"
        )
        return _answer(
            True, text, ["an emulator does not confirm it: its telemetry shows whether the fault has begun"]
        )


def levels_and_gates() -> Json:
    """Return the ladder, and by present and wanted level which gates stand between them."""
    return {
        "levels": list(LADDER),
        "gates": {present: {level: gates(present, level) for level in LADDER} for present in LADDER},
    }


def _answer(ok: bool, text: str, lines: list[str] | None = None) -> Json:
    return {"ok": ok, "text": text, "lines": lines or []}


def _gateway_answer(device: str, answer: AuthorityState) -> Json:
    if not answer.granted:
        return _answer(False, f"{device}: refused: {answer.reason}")
    return _answer(True, f"{device}: {answer.level}", [answer.reason] if answer.reason else [])


def _stop_answer(report: StopReport) -> Json:
    what = "pressed" if report.active else "released"
    lines = [f"{name}: {how}" for name, how in report.confirmed.items()]
    not_so = "NOT CONFIRMED" if report.active else "STILL STOPPED or silent"
    lines += [f"{name}: {not_so}: {why}" for name, why in report.missing.items()]
    lines += [f"{name}: {why}" for name, why in report.unmeasured.items()]
    lines += [f"{name}: NOT OURS TO STOP: {what}" for name, what in report.not_ours.items()]
    if report.failure is not None:
        return _answer(False, f"emergency stop NOT {what} in {report.env_id}: {report.failure}", lines)
    if not (report.confirmed or report.missing or report.unmeasured or report.not_ours):
        lines.append("no gateway or device is known there")
    if report.is_proven:
        by = "all that can be set" if report.not_ours else "all who are known"
        return _answer(True, f"emergency stop {what} in {report.env_id}, confirmed by {by}", lines)
    return _answer(False, f"emergency stop {what} in {report.env_id}, and NOT CONFIRMED BY ALL", lines)
