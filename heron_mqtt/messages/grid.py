"""The network of a run and its power flow, for those who watch."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from heron_mqtt.messages.message import Message
from heron_mqtt.messages.values import Finite

Position = Annotated[int, Field(ge=0)]
"""Of an element in the lists of a network."""


class NetworkModel(Message):
    """The network of a run as a drawing (retained): lists, and positions in them.

    Order and length of ``bus``, ``line`` and ``trafo`` are those of the results in ``grid_results``.
    """

    type: Literal["network"] = "network"
    laid_out: bool = Field(False, description="x counts branches from the supply, y feeders; no coordinates.")
    bus: list[str] = Field(description="Names.")
    bus_kv: list[Finite] = Field(description="Nominal voltages, kV.")
    bus_agent: list[str] = Field(description="The microgrid that each belongs to; empty: none.")
    bus_x: list[Finite] = Field(description="Places in the drawing, any unit, growing to the right.")
    bus_y: list[Finite] = Field(description="The same, growing downwards.")
    line: list[str] = Field(description="Names.")
    line_from: list[Position] = Field(description="Positions in bus.")
    line_to: list[Position] = Field(description="Positions in bus.")
    line_open: list[Position] = Field([], description="Positions in line: out of service, or switched off.")
    trafo: list[str] = Field([], description="Names of transformers.")
    trafo_hv: list[Position] = Field([], description="Positions in bus.")
    trafo_lv: list[Position] = Field([], description="Positions in bus.")
    link_from: list[Position] = Field(
        [], description="Connections of buses that have no loading: positions in bus."
    )
    link_to: list[Position] = Field([], description="Positions in bus.")
    supply: list[Position] = Field([], description="Positions in bus: where the external grid is.")
    device: list[str] = Field([], description="AGENT/DEVICE.")
    device_kind: list[str] = Field([], description="Kinds.")
    device_bus: list[Position] = Field([], description="Positions in bus.")

    @model_validator(mode="after")
    def _lists_belong_together(self) -> Self:
        for first, *others in (
            ("bus", "bus_kv", "bus_agent", "bus_x", "bus_y"),
            ("line", "line_from", "line_to"),
            ("trafo", "trafo_hv", "trafo_lv"),
            ("link_from", "link_to"),
            ("device", "device_kind", "device_bus"),
        ):
            length = len(getattr(self, first))
            for other in others:
                if len(getattr(self, other)) != length:
                    raise ValueError(f"{other}: expected {length} entries, as many as {first} has")
        for name, table in _POSITIONS.items():
            if any(position >= len(getattr(self, table)) for position in getattr(self, name)):
                raise ValueError(f"{name}: expected positions in {table}")
        return self


_POSITIONS = {
    **dict.fromkeys(("line_from", "line_to", "trafo_hv", "trafo_lv", "link_from", "link_to"), "bus"),
    "supply": "bus",
    "device_bus": "bus",
    "line_open": "line",
}


class GridResults(Message):
    """What the power flow gave for a step (retained), in the order of ``network``; null without supply."""

    type: Literal["grid_results"] = "grid_results"
    vm_pu: list[Finite | None] = Field([], description="Voltage magnitudes of buses, pu.")
    line_loading_percent: list[Finite | None] = Field([], description="Current over thermal limit, %.")
    trafo_loading_percent: list[Finite | None] = Field([], description="Current over rated current, %.")
    diverged: str | None = Field(None, max_length=500, description="Why there is no solution.")
