"""The networks that come with pandapower, by name."""

from __future__ import annotations

import functools
import inspect
import logging
import random
from collections.abc import Callable, Mapping
from typing import Any

import pandapower
import pandapower.networks

from heron_mqtt.errors import ConfigError


class _WithoutNumba(logging.Filter):
    """Holds back pandapower's advice to install numba: its networks are solved once, and ours never by it."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to show a record."""
        return "numba" not in record.getMessage()


logging.getLogger("pandapower.auxiliary").addFilter(_WithoutNumba())


@functools.cache
def _builders() -> Mapping[str, Callable[[], Any]]:
    """Return pandapower's own network functions that can be called without an argument.

    A scenario's string is looked up in this mapping and nowhere else: the modules of
    ``pandapower.networks`` also import readers, file functions and the like.
    """
    return {
        name: function
        for name, function in sorted(vars(pandapower.networks).items())
        if inspect.isfunction(function)
        and function.__module__.startswith("pandapower.networks.")
        and not name.startswith("_")
        and not any(
            parameter.default is parameter.empty
            for parameter in inspect.signature(function).parameters.values()
            if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        )
    }


def library_names() -> tuple[str, ...]:
    """Return the names of pandapower's networks, sorted."""
    return tuple(_builders())


def build_from_library(name: str) -> Any:
    """Return a new pandapowerNet.

    Raises:
        ConfigError: pandapower could not build it.
    """
    # Some of Kerber's networks draw their cables from the global generator, unseeded.
    state = random.getstate()
    random.seed(0)
    # Some solve themselves while they are built, and then pandapower advises to install numba.
    advice = logging.getLogger("pandapower.auxiliary")
    level = advice.level
    advice.setLevel(logging.ERROR)
    try:
        net = _builders()[name]()
    except Exception as exc:
        raise ConfigError(f"network '{name}': pandapower could not build it: {exc}") from exc
    finally:
        random.setstate(state)
        advice.setLevel(level)
    if not isinstance(net, pandapower.pandapowerNet):
        raise ConfigError(f"network '{name}': is not a network of pandapower")
    return net
