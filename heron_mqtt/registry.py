"""Kinds by name: what may be added to by one class and one registration.

There is one registry for each sort of thing that comes in kinds: device kinds, horizontal protocols,
impairments, network sources, reward terms. Code that needs a kind asks the registry; nothing lists the
kinds a second time. A package of its own adds kinds by entry points of the registry's group::

    [project.entry-points."heron_mqtt.devices"]
    wallbox = "my_package:Wallbox"
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticKnownError, core_schema

from heron_mqtt.errors import ConfigError

__all__ = ["NameIn", "Registry"]

T = TypeVar("T")


class Registry(Generic[T]):
    """Things by name, in the order in which they were added.

    Args:
        what: What a name stands for, for messages: ``"kind of device"``.
        group: Group of entry points that add to it. They are loaded when an unknown name is requested, so
            that a program without such packages does not search for them.
        name_of: Reads the name that a thing gives itself.
    """

    def __init__(self, what: str, group: str, name_of: Callable[[T], str]) -> None:
        self._what, self._group, self._name_of = what, group, name_of
        self._known: dict[str, T] = {}
        self._searched = False

    def add(self, thing: T) -> T:
        """Add a thing under its own name; returns it, so that this can decorate a class.

        Raises:
            ValueError: Another thing has that name.
        """
        name = self._name_of(thing)
        if self._known.get(name, thing) is not thing:
            raise ValueError(f"{self._what} {name!r} is there already: {self._known[name]!r}")
        self._known[name] = thing
        return thing

    @contextmanager
    def added(self, thing: T) -> Iterator[T]:
        """Add a thing for as long as the context lasts: for tests."""
        self.add(thing)
        try:
            yield thing
        finally:
            self.discard(thing)

    def discard(self, thing: T) -> None:
        """Take a thing out again."""
        self._known.pop(self._name_of(thing), None)

    def get(self, name: str) -> T | None:
        """Return a thing by its name; None if there is none."""
        if name not in self._known:
            self.search()
        return self._known.get(name)

    def __getitem__(self, name: str) -> T:
        """Return a thing by its name.

        Raises:
            ConfigError: There is none; says which there are.
        """
        found = self.get(name)
        if found is None:
            raise ConfigError(f"unknown {self._what} '{name}'; expected {', '.join(self)}")
        return found

    def __contains__(self, name: object) -> bool:
        """Whether there is a thing of that name."""
        return isinstance(name, str) and self.get(name) is not None

    def __iter__(self) -> Iterator[str]:
        """Return the names of what has been added."""
        return iter(tuple(self._known))

    def values(self) -> tuple[T, ...]:
        """Return what has been added."""
        return tuple(self._known.values())

    def search(self) -> None:
        """Load what installed packages add; once."""
        if self._searched:
            return
        from importlib.metadata import entry_points  # takes a while, and few programs need it

        self._searched = True
        for entry in entry_points(group=self._group):
            self.add(entry.load())


class NameIn:
    """Makes a text of a scenario a name of a registry: ``Annotated[str, NameIn(PROTOCOLS)]``."""

    def __init__(self, registry: Registry[Any]) -> None:
        self._registry = registry

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Return a schema that asks the registry at the time of validation."""
        return core_schema.no_info_after_validator_function(self._check, core_schema.str_schema(strict=True))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Return the names that there are now."""
        return {"enum": list(self._registry), "type": "string"}

    def _check(self, name: str) -> str:
        if name not in self._registry:
            *first, last = (repr(known) for known in self._registry)
            expected = f"{', '.join(first)} or {last}" if first else last
            raise PydanticKnownError("literal_error", {"expected": expected})
        return name
