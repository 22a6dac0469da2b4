"""The environment: microgrids on one grid, for PettingZoo users and for runs over a broker."""

from powergrid.envs.multi_agent_microgrids import MultiAgentMicrogrids

__all__ = ["MultiAgentMicrogrids"]
