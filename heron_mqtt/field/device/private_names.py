"""Private names of ``FieldDevice`` that a class derived from it uses, too: it breaks the device silently."""

from __future__ import annotations

import dis
import functools
import inspect
from abc import ABC
from collections.abc import Iterable, Iterator
from types import CodeType
from typing import Any

from heron_mqtt.errors import ConfigError

OURS = __name__.partition(".")[0]


def refuse_taken_names(kind: type, where: str = "") -> None:
    """Make sure that a class of another package, or one beside it, uses no private name of classes here.

    Args:
        kind: The class.
        where: What names it, for people; empty = its own name does.

    Raises:
        ConfigError: It does; names them.
    """
    if taken := _taken_names(kind):
        raise ConfigError(
            f"{where or f'class {kind.__module__}.{kind.__qualname__}'}: {', '.join(taken)}: a name that "
            "FieldDevice uses itself; choose another one, best without an underscore in front"
        )


@functools.cache
def _taken_names(kind: type) -> tuple[str, ...]:
    names: dict[bool, set[str]] = {True: set(), False: set()}  # by whether the class is one of ours
    for one in kind.__mro__:  # also one that is named behind ours: its methods set the same attributes
        names[one.__module__.partition(".")[0] == OURS] |= _private_names(one)
    return tuple(sorted(names[True] & names[False]))


@functools.cache
def _private_names(kind: type) -> frozenset[str]:
    """Return the names with an underscore in front that a class defines, or sets in its methods."""
    if kind in {ABC, object}:
        return frozenset()
    found = set(vars(kind)) - set(vars(ABC))  # without what Python adds to every abstract class
    for value in vars(kind).values():
        for code in _codes(value):
            found.update(each.argval for each in dis.get_instructions(code) if each.opname == "STORE_ATTR")
    return frozenset(name for name in found if name.startswith("_") and not name.startswith("__"))


def _codes(value: Any) -> Iterator[CodeType]:
    """Yield the code of a function, method or property, and of what is defined in it."""
    if isinstance(value, property):
        parts: Iterable[Any] = (value.fget, value.fset, value.fdel)
    elif isinstance(value, functools.cached_property):
        parts = (value.func,)
    elif isinstance(value, CodeType):
        yield value
        parts = (each for each in value.co_consts if isinstance(each, CodeType))
    else:
        function = inspect.unwrap(getattr(value, "__func__", value)) if callable(value) else value
        parts = (function.__code__,) if inspect.isfunction(function) else ()
    for part in parts:
        yield from _codes(part)
