"""The environment: microgrids on one grid, for PettingZoo users, for runs over a broker, and many at once.

Each class is imported when it is first used: a run needs neither the batched nor the vector environment.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from heron_mqtt.names_on_demand import on_demand

if TYPE_CHECKING:
    from powergrid.envs.batched import BatchedMicrogrids
    from powergrid.envs.multi_agent_microgrids import MultiAgentMicrogrids
    from powergrid.envs.vector_env import MicrogridVectorEnv

__all__ = ["BatchedMicrogrids", "MicrogridVectorEnv", "MultiAgentMicrogrids"]

__getattr__, __dir__ = on_demand(
    __name__,
    {
        "BatchedMicrogrids": "powergrid.envs.batched",
        "MicrogridVectorEnv": "powergrid.envs.vector_env",
        "MultiAgentMicrogrids": "powergrid.envs.multi_agent_microgrids",
    },
)
