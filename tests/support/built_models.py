"""Validators of all models of files, built before processes are forked: else each builds those it uses."""

from __future__ import annotations

from heron_mqtt.deferred_model import DeferredModel

__all__ = ["build_models"]


def build_models() -> None:
    """Build them for all that are imported: 0.1 s of the processor for a mapping, 10 ms for a short run."""
    waiting: list[type[DeferredModel]] = [DeferredModel]
    while waiting:
        waiting += (model := waiting.pop()).__subclasses__()
        if not model.__pydantic_complete__:
            model.model_rebuild()
