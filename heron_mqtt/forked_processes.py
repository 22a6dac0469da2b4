"""What a forked process must not have of its parent: what proves that the parent lives."""

from __future__ import annotations

import os
import weakref
from typing import Protocol

__all__ = ["close_when_forked"]


class _Closable(Protocol):
    def close(self) -> None: ...


_held: weakref.WeakSet[_Closable] = weakref.WeakSet()


def close_when_forked(held: _Closable) -> None:
    """Have something closed in each process that is forked from this one, as long as it is used here.

    A lock of a file, or the name of a socket, is shared by a fork: a worker that outlives its parent would
    have it still. Closing there takes nothing from the parent. What Python opens is closed anyway where
    another program is started.

    Args:
        held: May be closed any number of times.
    """
    _held.add(held)


def _leave_to_the_parent() -> None:
    for held in tuple(_held):
        held.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_the_parent)
