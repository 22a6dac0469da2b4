"""The tables of a mapping for a device on Modbus: its registers, and how they are asked for."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from heron_mqtt.config import Table
from heron_mqtt.field.modbus.encoding import RegisterType, register_count
from heron_mqtt.field.modbus.registers import MAX_READ, RegisterArea
from heron_mqtt.field.vendor.cleaning_keys import MAX_ITEMS, CleaningKeys

WriteFunction = Literal["multiple", "single"]
Period = Annotated[float, Field(ge=0.1, le=86_400.0)]
RegisterName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=64)]


class RegisterTable(CleaningKeys):
    """One value in registers: its address, its type, and its conversion to a number."""

    address: int = Field(ge=0, le=99_999, description="Of its first register, as the manual counts them.")
    area: RegisterArea = Field("holding", description="Which table: holding, input, coil or discrete.")
    type: RegisterType | None = Field(
        None, description="What it holds; None = uint16, of a coil or discrete input bool."
    )
    length: Annotated[int, Field(ge=1, le=MAX_READ)] | None = Field(
        None, description="Registers of a string."
    )
    swap_words: bool | None = Field(
        None, description="The least significant 16-bit word comes first; None = as [modbus] says."
    )
    swap_bytes: bool | None = Field(
        None, description="The bytes of each word are swapped; None = as [modbus] says."
    )
    period_s: Period | None = Field(None, description="Read so often, s; None = as [modbus] says.")

    @model_validator(mode="after")
    def _type_fits_the_area(self) -> Self:
        is_bit = self.area in {"coil", "discrete"}
        if is_bit and self.type not in {None, "bool"}:
            raise ValueError(f"type: a {self.area} is one bit; expected bool, or leave it out")
        if not is_bit and self.type == "bool":
            raise ValueError("type: bool is for coil and discrete; of a register bit n is bit(name, n)")
        if (self.holds == "string") != (self.length is not None):
            raise ValueError("length: needed for a string, how many registers, and only there")
        if register_count(self.holds, self.length or 1) == 1 and self.swap_words:
            raise ValueError("swap_words: this is one register; swap_bytes swaps within it")
        if is_bit and (self.swap_bytes or self.swap_words):
            raise ValueError(f"a {self.area} is one bit, nothing in it can be swapped")
        return self

    @property
    def holds(self) -> RegisterType:
        """What it holds."""
        return self.type or ("bool" if self.area in {"coil", "discrete"} else "uint16")


class ModbusTable(Table):
    """How the registers of a device are asked for; what holds of all of them."""

    period_s: Period = Field(1.0, description="Read so often, s.")
    first_address: int = Field(
        0, ge=0, le=99_999, description="What the manual calls the first register: 0, 1 or 40001."
    )
    swap_words: bool = Field(False, description="The least significant 16-bit word comes first.")
    swap_bytes: bool = Field(False, description="The bytes of each word are swapped.")
    max_gap: int = Field(
        0, ge=0, le=MAX_READ, description="Unused registers that may be read between two wanted ones."
    )
    max_registers: int = Field(MAX_READ, ge=4, le=MAX_READ, description="Most registers in one request.")
    boundaries: list[int] = Field(
        [], max_length=MAX_ITEMS, description="Addresses at which a new request begins."
    )
    function: WriteFunction = Field(
        "multiple", description="Write with function 16, or single: one register at a time with function 6."
    )
    timestamp: RegisterName | None = Field(None, description="Register that says when the rest was measured.")
    timestamp_tolerance_s: float = Field(
        60.0, gt=0.0, le=86_400.0, description="How old that may be, s; also how far ahead."
    )
    changed_by: RegisterName | None = Field(
        None, description="Register that changes with every new measurement: a counter or a time."
    )
