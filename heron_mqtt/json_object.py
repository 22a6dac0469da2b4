"""The type of a message as it is on the wire, known without the models of all messages."""

from __future__ import annotations

from typing import Any

__all__ = ["Json"]

Json = dict[str, Any]
"""A JSON object, read; what is in it is not checked."""
