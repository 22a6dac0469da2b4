"""Agents of the grid: ``GridAgent`` runs one microgrid's devices by its policy."""

from powergrid.agents.grid_agent import GridAgent

__all__ = ["GridAgent"]
