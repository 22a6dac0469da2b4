"""MQTT hardware-in-the-loop gateway for multi-agent microgrid control."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("heron-mqtt")
except PackageNotFoundError:  # imported from a source tree that was never installed
    __version__ = "0+unknown"

__all__ = ["__version__"]
