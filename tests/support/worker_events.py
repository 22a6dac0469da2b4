"""What a worker of pytest-xdist need not tell: half of what a quick test costs is telling of it.

Six messages go out for each test. The controller counts, prints and keeps the same without those of a test
that begins or has ended, and of a setup or teardown that passed at once with nothing to show.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

__all__ = ["is_worth_telling", "tell_less"]

_SHORTEST_DURATION_S = 0.005  # what pytest's --durations leaves out, unless it is told otherwise


def tell_less(config: pytest.Config) -> None:
    """Have a worker send what the controller uses; all of it where each test is shown, or written as XML.

    Raises:
        LookupError: This pytest-xdist names what sends otherwise.
    """
    if config.get_verbosity() > 0 or config.getoption("xmlpath", None):
        return
    named = (plugin for plugin in config.pluginmanager.get_plugins() if hasattr(plugin, "sendevent"))
    sender: Any = next(named, None)
    if sender is None:
        raise LookupError("tests/support/worker_events.py: no plugin of this pytest-xdist has sendevent")
    shortest_s = config.getoption("durations_min", None)
    sender.sendevent = _chosen(sender.sendevent, _SHORTEST_DURATION_S if shortest_s is None else shortest_s)


def _chosen(send: Callable[..., None], shortest_s: float) -> Callable[..., None]:
    def send_event(name: str, **of_it: Any) -> None:
        if is_worth_telling(name, of_it, shortest_s):
            send(name, **of_it)

    return send_event


def is_worth_telling(name: str, of_it: dict[str, Any], shortest_s: float) -> bool:
    """Whether the controller does anything with a message of a worker."""
    if name != "testreport":
        return name not in {"logstart", "logfinish"}
    report = of_it["data"]
    return (
        report["when"] == "call"
        or report["outcome"] != "passed"
        or report["duration"] >= shortest_s
        or bool(report["sections"] or report["user_properties"])
    )
