"""The environment: microgrids on one grid, for PettingZoo users, for runs over a broker, and many at once.

Each class is imported when it is first asked for: a run needs neither the batched form nor its vectors.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from powergrid.envs.batched import BatchedMicrogrids
    from powergrid.envs.multi_agent_microgrids import MultiAgentMicrogrids
    from powergrid.envs.vector_env import MicrogridVectorEnv

__all__ = ["BatchedMicrogrids", "MicrogridVectorEnv", "MultiAgentMicrogrids"]

_MODULES = {
    "BatchedMicrogrids": "powergrid.envs.batched",
    "MicrogridVectorEnv": "powergrid.envs.vector_env",
    "MultiAgentMicrogrids": "powergrid.envs.multi_agent_microgrids",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
