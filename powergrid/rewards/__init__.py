"""What a step earned each microgrid, term by term. Formulas: docs/models.md, economics and trading."""

from powergrid.rewards.rewards import TERMS, Rewards, enter_trades, total, traded
from powergrid.rewards.terms import REWARD_TERMS, RewardTerm, StepAccount, grid_bill

__all__ = [
    "REWARD_TERMS",
    "TERMS",
    "RewardTerm",
    "Rewards",
    "StepAccount",
    "enter_trades",
    "grid_bill",
    "total",
    "traded",
]
