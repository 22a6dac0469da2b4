"""The environment: microgrids on one grid, for PettingZoo users, for runs over a broker, and many at once."""

from powergrid.envs.batched import BatchedMicrogrids
from powergrid.envs.multi_agent_microgrids import MultiAgentMicrogrids
from powergrid.envs.vector_env import MicrogridVectorEnv

__all__ = ["BatchedMicrogrids", "MicrogridVectorEnv", "MultiAgentMicrogrids"]
