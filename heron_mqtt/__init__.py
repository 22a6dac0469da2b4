"""MQTT hardware-in-the-loop gateway for multi-agent microgrid control."""

from __future__ import annotations

__all__ = ["__version__"]


def __getattr__(name: str) -> str:
    """Look the version up when it is asked for: the look-up costs device scripts 70 ms at start."""
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("heron-mqtt")
    except PackageNotFoundError:  # imported from a source tree that was never installed
        return "0+unknown"
