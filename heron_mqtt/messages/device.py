"""What a device receives and publishes; beside this it follows only the state of the run (``run.py``)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from heron_mqtt.messages.message import Message, PerDeviceMessage
from heron_mqtt.messages.values import MAX_LEASE_S, MAX_REASON, Identifier


class Setpoint(Message):
    """What a device shall do, for at most ``lease_s``; after that it goes to its own safe state."""

    for_records = Message.for_records | {"episode", "step"}
    type: Literal["setpoint"] = "setpoint"
    p_mw: float = Field(description="MW, positive = injected; for PV an upper limit.")
    q_mvar: float = Field(0.0, description="Mvar, positive = injected.")
    lease_s: float = Field(
        gt=0, le=MAX_LEASE_S, description="Wall-clock seconds for which this holds without renewal."
    )
    renewal: bool = Field(False, description="The same setpoint again: extends the lease, changes nothing.")
    heard_boot: Identifier | None = Field(
        None, description="Echo: boot of the newest telemetry that the sender has of this device."
    )
    heard_seq: int | None = Field(None, ge=0, description="Echo: seq of that telemetry.")
    take_over: bool = Field(False, description="Displaces the present owner of the lease.")
    release: bool = Field(
        False, description="The owner gives the lease back: the device goes to its safe state now."
    )
    dt_s: float | None = Field(None, gt=0, description="Simulated seconds it is held; for emulators only.")
    p_available_mw: float | None = Field(None, description="What sun or load offer, MW; for emulators only.")


class Telemetry(Message):
    """What a device measures at its terminals."""

    type: Literal["telemetry"] = "telemetry"
    p_mw: float = Field(description="MW, positive = injected.")
    q_mvar: float = Field(0.0, description="Mvar, positive = injected.")
    soc: float | None = Field(None, ge=0, le=1, description="State of charge, fraction of max_e_mwh.")
    vm_pu: float | None = Field(None, ge=0, description="Terminal voltage, pu.")
    age_s: float | None = Field(
        None, ge=0, description="How old the measurement is, wall-clock s; left out: it is new."
    )
    running: bool | None = Field(None, description="Whether a generator runs.")
    safe: bool | None = Field(None, description="Whether it is in its safe state.")
    safe_after_s: float | None = Field(
        None, ge=0, description="How long after its last setpoint it went safe by itself, wall-clock s."
    )
    stopped: bool | None = Field(None, description="Whether it knows of an emergency stop in force.")
    settable: bool | None = Field(
        None, description="False, in a stop: nothing here can set it; it is only read, or only watched."
    )
    rejected: str | None = Field(None, max_length=MAX_REASON, description="Why the device would not do it.")
    ack_seq: int | None = Field(None, ge=0, description="seq of the setpoint this answers.")
    ack_boot: Identifier | None = Field(None, description="boot of the sender of that setpoint.")


class Status(PerDeviceMessage):
    """Presence of an agent or device, retained, and left behind as its will.

    ``episode`` and ``run`` tell for which episode of which run it is ready. A device's birth carries its
    nameplate: ``kind``, ``p_min_mw``, ``p_max_mw``, ``max_e_mwh``.
    """

    type: Literal["status"] = "status"
    number_prefixes: ClassVar[tuple[str, ...]] = ("soc_",)
    state: Literal["online", "fault", "offline"]
    reason: str | None = Field(None, max_length=MAX_REASON, description="Why, for people.")
    run: Identifier | None = Field(None, description="boot of the run/state whose episode it is ready for.")
    stopped: bool | None = Field(None, description="Whether it knows of an emergency stop in force.")
    kind: str | None = Field(None, description="Device kind, as scenarios name it: battery, pv, ...")
    p_min_mw: float | None = Field(None, description="Nameplate, MW, positive = injected.")
    p_max_mw: float | None = Field(None, description="Nameplate, MW, positive = injected.")
    max_e_mwh: float | None = Field(None, ge=0, description="Nameplate energy of storage, MWh.")
    soc: float | None = Field(None, ge=0, le=1, description="State of charge at birth.")


class LeaseState(Message):
    """Whose setpoints a device follows (retained); published when that changes, not at every renewal."""

    type: Literal["lease"] = "lease"
    state: Literal["held", "free"]
    holder: str | None = Field(None, max_length=200, description="sender of the setpoints; none: by hand.")
    holder_boot: str | None = Field(None, max_length=200, description="boot of that sender.")
    lease_s: float | None = Field(None, gt=0, description="Length of the lease, wall-clock s.")


class EmergencyStop(Message):
    """Everything to its safe state until it is released (retained).

    Whatever arrives on ``estop`` and is not a valid release counts as a stop: see
    ``heron_mqtt.field.emergency_stop``.
    """

    type: Literal["estop"] = "estop"
    active: bool
    who: Identifier | None = Field(None, description="Who pressed or released it.")
    why: str = Field("", max_length=500)


class StopConfirm(Message):
    """A gateway or device has heard a stop or its release."""

    type: Literal["estop_confirm"] = "estop_confirm"
    active: bool = Field(description="True: a stop is in force here.")
    safe: bool = Field(description="Whether the device, or every device of the gateway, is set to 0.")
    stop_boot: Identifier | None = Field(None, description="boot of the message that this confirms.")
    stop_seq: int | None = Field(None, ge=0, description="seq of the message that this confirms.")
    telemetry_seq: int | None = Field(
        None,
        ge=0,
        description="seq of its last telemetry before the stop: only newer telemetry shows its power since.",
    )
    settable: bool | None = Field(
        None, description="False: nothing here can set the device; it is only read, or only watched."
    )


FaultKind = Literal[
    "silence", "stuck", "frozen", "offset", "ignore_setpoints", "reject_setpoints", "garbage", "reboot"
]


class Fault(Message):
    """Tells an emulator to misbehave from the next step on; real devices ignore it."""

    type: Literal["fault"] = "fault"
    kind: FaultKind
    steps: int = Field(1, ge=1, le=1_000_000, description="For how many steps.")
    value: float = Field(0.0, description="Size of an offset, MW.")
