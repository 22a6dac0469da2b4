"""Models of what files say, of which a program uses a few: validators are built when they are first used."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from heron_mqtt.importing import without_plugins

__all__ = ["DeferredModel"]


class DeferredModel(BaseModel):
    """A model whose validator is built when it validates something by itself.

    To build one takes a millisecond of CPU time, half of what the class takes. A model that is only a part
    of another one never needs its own, and a scenario has two kinds of devices where there are eight.
    """

    model_config = ConfigDict(defer_build=True)

    @classmethod
    def model_rebuild(cls, **options: Any) -> bool | None:
        """Build the validator, as ``BaseModel.model_rebuild``; without plugins, as all models of ours."""
        with without_plugins():
            return super().model_rebuild(**options)
