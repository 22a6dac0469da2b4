"""What a process of many modules is asked again and again, and looks up at length each time.

A power flow looks for the libraries of linear algebra among all that are loaded, 3 to 7 ms. A run asks
whether anything is kept from the garbage collector, and Python counts half a million objects, 30 ms. A grid
and an embedded broker ask for the version of a package, which is looked for among all that are installed.
A command line reads the signature of each command, 2 to 4 ms, and 45 ms where it lists all of them.
"""

from __future__ import annotations

import functools
import gc
import sys

from heron_mqtt.record.recorder import versions_here

__all__ = ["freeze", "look_up_once"]

_ASKING_VERSIONS = (
    "heron_mqtt.app.home_assistant.discovery",
    "heron_mqtt.messaging.embedded.server.server",
    "powergrid.simulation.grid_cache",
)
_real_count, _real_unfreeze = gc.get_freeze_count, gc.unfreeze


def look_up_once() -> None:
    """Have the libraries, versions and commands that are found now be those that are found from now on."""
    versions_here()
    for name in _ASKING_VERSIONS:
        module = sys.modules.get(name)
        if module is not None and not hasattr(module.version, "cache_info"):
            module.version = functools.cache(module.version)
    blas = sys.modules.get("powergrid.powerflow.blas")
    if blas is not None and not hasattr(blas.ThreadpoolController, "cache_info"):
        blas.ThreadpoolController = functools.cache(blas.ThreadpoolController)
    _read_commands_once()


def _read_commands_once() -> None:
    commands, typer = sys.modules.get("heron_mqtt.cli.run_commands"), sys.modules.get("typer.main")
    if commands is None or typer is None or hasattr(typer.get_params_from_function, "cache_info"):
        return
    typer.get_params_from_function = functools.cache(typer.get_params_from_function)
    typer.get_command(commands.app)


def freeze() -> None:
    """Keep what there is from the garbage collector; that there is something is answered without counting."""
    gc.freeze()
    gc.get_freeze_count, gc.unfreeze = _some, _unfreeze


def _some() -> int:
    return 1


def _unfreeze() -> None:
    gc.get_freeze_count, gc.unfreeze = _real_count, _real_unfreeze
    gc.unfreeze()
