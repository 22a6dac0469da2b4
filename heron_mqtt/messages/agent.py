"""What passes between environment and agents in a step."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from heron_mqtt.messages.message import Message, PerDeviceMessage


class PriceSignal(Message):
    """The operator's price for the step, broadcast to its subordinates (retained)."""

    type: Literal["price"] = "price"
    value: float = Field(description="$/MWh; what a MWh sold to the grid earns.")


Forecast = Annotated[list[float], Field(max_length=672)]
"""Values of the steps to come, in order."""


class Observation(PerDeviceMessage):
    """What one agent may know at the start of a step; ``p_available_<device>`` in MW, of PV and loads."""

    type: Literal["observation"] = "observation"
    number_prefixes: ClassVar[tuple[str, ...]] = ("p_available_",)
    dt_s: float = Field(gt=0, description="Length of the step, s.")
    commanded: bool = Field(False, description="A command for this step is on its way: wait for it.")
    p_load_mw: float = Field(0.0, description="Sum of the microgrid's loads, MW, negative = consuming.")
    q_load_mvar: float = Field(0.0, description="Sum of the microgrid's loads, Mvar, negative = consuming.")
    vm_min_pu: float | None = Field(None, description="Lowest bus voltage of the microgrid, last step.")
    vm_max_pu: float | None = Field(None, description="Highest bus voltage of the microgrid, last step.")
    loading_max_percent: float | None = Field(
        None, description="Highest line or transformer loading, last step."
    )
    clock_s: float | None = Field(
        None, ge=0, lt=86_400, description="Local time of day at which the step begins, s since midnight."
    )
    forecast: dict[str, Forecast] | None = Field(
        None,
        description="Of the steps after this one: price ($/MWh), p_load_mw and p_available_<device> (MW).",
    )
    observation: Annotated[list[float], Field(max_length=100_000)] | None = Field(
        None,
        description="What a learner of this agent would see, entry by entry; for policies that ask for it.",
    )


class Command(PerDeviceMessage):
    """Setpoints from upstream: ``p_<device>`` MW and ``q_<device>`` Mvar; others keep their policy."""

    type: Literal["command"] = "command"

    def powers(self) -> tuple[dict[str, float], dict[str, float]]:
        """Return the setpoints by device, MW and Mvar."""
        return self.values("p_"), self.values("q_")


class Action(PerDeviceMessage):
    """What really happened in the step.

    - ``p_<device>`` MW and ``q_<device>`` Mvar of each device; ``soc_<device>`` in [0, 1] of storage;
    - ``cost_<device>``: generation cost of the step, $;
    - ``trade_<peer>`` MWh, positive = sold to the peer, with its ``price_<peer>`` $/MWh;
    - ``fallback_<device>``: why a model's value is used in place of the device's;
    - ``bound_<device>``: what limited its setpoint before it was sent;
    - ``authority_<device>``: its level, if it is not simulated;
    - ``residual_<device>``: measured minus modelled power, MW, if both are known.
    """

    type: Literal["action"] = "action"
    number_prefixes: ClassVar[tuple[str, ...]] = (
        "p_",
        "q_",
        "soc_",
        "cost_",
        "trade_",
        "price_",
        "residual_",
    )
    text_prefixes: ClassVar[tuple[str, ...]] = ("fallback_", "bound_", "authority_")
    missed: int = Field(0, ge=0, description="Phases of this step that ended at their deadline.")


class SetpointPlan(PerDeviceMessage):
    """The setpoints an agent is about to send, for the check of all of them together (``[envelope]``)."""

    type: Literal["plan"] = "plan"


class Clearance(PerDeviceMessage):
    """The operator's answer to a plan: what may be sent; never more than was planned.

    ``limit`` names the voltage or loading limit that bound, ``factor`` what is left of the plan.
    """

    type: Literal["clearance"] = "clearance"
    factor: float = Field(1.0, ge=0, le=1, description="Part of the planned power that may be sent.")
    limit: str | None = Field(None, max_length=500, description="The limit that bound; None = all clear.")
