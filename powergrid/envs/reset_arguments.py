"""What callers hand to ``reset``, checked."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Mapping
from typing import Any

import numpy as np

log = logging.getLogger(__name__)

__all__ = ["check_options", "checked_seed"]


def checked_seed(seed: Any) -> int:
    """Return a seed as an int.

    Raises:
        ValueError: It is not a whole number of at least 0.
    """
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise ValueError(f"seed: expected a whole number of at least 0, got {seed!r}")
    return int(seed)


def check_options(options: Any, *known: str) -> Mapping[str, Any]:
    """Return options as a mapping; refuse one that is nearly the one there is, and log another.

    Wrappers hand on options that are meant for others, so that a foreign one is no mistake by itself.

    Raises:
        ValueError: They are no mapping, or one looks like a misspelt one.
    """
    if options is None:
        return {}
    if not isinstance(options, Mapping):
        raise ValueError(f"options: expected a dict with {' or '.join(known)}, got {options!r}")
    for name in options:
        if name in known:
            continue
        if difflib.get_close_matches(str(name), known):
            raise ValueError(f"options: unknown {name!r}; expected {' or '.join(known)}")
        log.warning("options: %r has no effect; there is %s", name, ", ".join(known))
    return options
