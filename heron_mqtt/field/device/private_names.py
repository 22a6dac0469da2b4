"""Private names of ``FieldDevice`` that a class derived from it uses, too: it breaks the device silently."""

from __future__ import annotations

import dis
import functools
import inspect
from abc import ABC
from collections.abc import Iterable, Iterator
from itertools import pairwise
from types import CodeType
from typing import Any

from heron_mqtt.errors import ConfigError

OURS = __name__.partition(".")[0]

_SETTERS = frozenset({"setattr", "delattr", "__setattr__", "__delattr__"})


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
            found |= _set_in(code, frozenset(code.co_varnames[: min(code.co_argcount, 1)]))
    return frozenset(name for name in found if name.startswith("_") and not name.startswith("__"))


def _codes(value: Any) -> Iterator[CodeType]:
    """Yield the code of the functions that are called with the device, of a method or another descriptor."""
    parts: Iterable[Any] = ()
    if isinstance(value, property):
        parts = (value.fget, value.fset, value.fdel)
    elif isinstance(value, functools.cached_property | functools.partialmethod):
        parts = (value.func,)
    elif isinstance(value, functools.singledispatchmethod):
        parts = value.dispatcher.registry.values()
    elif isinstance(value, classmethod):
        parts = (value.__func__,)
    elif not isinstance(value, staticmethod | type):
        parts = (inspect.getattr_static(value, "__wrapped__", None),)
    if inspect.isfunction(value):
        yield value.__code__
    for part in parts:
        if part is not None:
            yield from _codes(part)


def _set_in(code: CodeType, names: frozenset[str]) -> set[str]:
    """Return the attributes of the device that a function, and what is defined in it, sets or deletes.

    Args:
        code: Of the function.
        names: Of its variables, those that are the device: the first argument of a method.
    """
    steps = [step for step in dis.get_instructions(code) if step.opname != "PUSH_NULL"]
    names |= {
        _names_in(after)[0]
        for before, after in pairwise(steps)
        if _is_device(before, names) and after.opname.startswith(("STORE_FAST", "STORE_DEREF"))
    }
    found = set()
    for number, step in enumerate(steps):
        if _is_device(step, names):
            before = steps[number - 1].argval if number else None
            found.add(_set_after(before, steps[number + 1 : number + 3]))
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            found |= _set_in(inner, names & frozenset(inner.co_freevars))
    return found - {""}


def _set_after(before: Any, after: list[dis.Instruction]) -> str:
    """Return which attribute is set of the device that was just named; empty = none.

    Args:
        before: What was named before it.
        after: The two instructions after it.
    """
    first, second = (*after, *after[-1:])[:2]
    if first.opname in {"STORE_ATTR", "DELETE_ATTR"}:
        return str(first.argval)
    if first.opname == "COPY" and second.opname == "LOAD_ATTR":  # self._x += 1
        return str(second.argval)
    if before in _SETTERS and first.opname == "LOAD_CONST":  # setattr(self, "_x", 1)
        return str(first.argval)
    if first.argval in _SETTERS and second.opname == "LOAD_CONST":  # self.__setattr__("_x", 1)
        return str(second.argval)
    return ""


def _is_device(step: dis.Instruction, names: frozenset[str]) -> bool:
    """Whether an instruction ends with the device on the stack, by one of its names."""
    loads = step.opname.startswith(("LOAD_FAST", "LOAD_DEREF", "STORE_FAST_LOAD_FAST"))
    return loads and _names_in(step)[-1] in names


def _names_in(step: dis.Instruction) -> tuple[Any, ...]:
    """Return the variables of an instruction; of Python 3.13 and later some have two."""
    return step.argval if isinstance(step.argval, tuple) else (step.argval,)
