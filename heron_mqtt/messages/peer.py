"""What agents say to each other: trades and consensus."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from heron_mqtt.messages.message import Message, PerDeviceMessage


class Offer(Message):
    """Energy for sale to one peer in this step; quantity 0 = nothing to sell."""

    type: Literal["offer"] = "offer"
    quantity: float = Field(ge=0, description="MWh in this step.")
    price: float = Field(description="Ask, $/MWh; 0 with quantity 0.")


class Accept(Message):
    """Answer to an offer: how much of it is wanted, at the ask; quantity 0 = none."""

    type: Literal["accept"] = "accept"
    quantity: float = Field(ge=0, description="MWh in this step.")


class Confirm(Message):
    """The seller's final message: how much is really sold, at which price; quantity 0 = none."""

    type: Literal["confirm"] = "confirm"
    quantity: float = Field(ge=0, description="MWh in this step, at most what was accepted.")
    price: float = Field(description="$/MWh, the ask of the offer.")


class Order(Message):
    """What an agent sells or wants in this step, told to the one that keeps the order book."""

    type: Literal["order"] = "order"
    quantity: float = Field(description="MWh in this step, positive = for sale, negative = wanted; 0 = none.")
    price: float = Field(description="Limit, $/MWh: least when selling, most when buying; 0 with quantity 0.")


class Fill(PerDeviceMessage):
    """An agent's trades in this step, from the one that keeps the order book.

    ``trade_<peer>`` MWh, positive = sold to the peer; none where there is no trade.
    """

    type: Literal["fill"] = "fill"
    number_prefixes: ClassVar[tuple[str, ...]] = ("trade_",)
    price: float = Field(description="Of all trades of the step, $/MWh; 0 where there is no trade.")


class Consensus(Message):
    """One round of average consensus between peers."""

    type: Literal["consensus"] = "consensus"
    round: int = Field(ge=0, description="Round of this step, from 0.")
    value: float = Field(description="The sender's estimate, $/MWh.")
