"""What a step earned each microgrid, term by term. Formulas: docs/models.md, economics and trading."""

from powergrid.rewards.rewards import TERMS, Rewards, grid_bill, traded

__all__ = ["TERMS", "Rewards", "grid_bill", "traded"]
