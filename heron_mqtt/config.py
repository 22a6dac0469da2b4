"""Scenario files: found, read and validated, with every problem named at once.

The tables that belong to the gateway are defined here; ``powergrid.scenario`` adds the grid's.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, InstanceOf, ValidationError, ValidationInfo
from pydantic_core import InitErrorDetails

from heron_mqtt.deferred_model import DeferredModel
from heron_mqtt.errors import ConfigError
from heron_mqtt.input_files import NO_SUCH_FILE, is_file, why_no_file

MAX_SCENARIO_BYTES = 1 << 20


class Table(DeferredModel):
    """A table of a scenario: immutable, finite numbers, unknown keys refused."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        strict=True,
        ser_json_inf_nan="constants",  # arguments of a user's own class may be infinite; null says less
    )

    @classmethod
    def models_inside(cls) -> Iterable[type[BaseModel]]:
        """Return models that its fields hold without naming them: those of a registry."""
        return ()

    def given_keys(self, info: ValidationInfo) -> set[str]:
        """Return the keys that say something: those that were given; of a record, which has every key (see
        ``validate_recorded``), those that differ from their defaults. For validators.
        """
        if (info.context or {}).get(_EVERY_KEY):
            fields = type(self).model_fields
            return {key for key in self.model_fields_set if getattr(self, key) != fields[key].default}
        return set(self.model_fields_set)


_EVERY_KEY = "every_key"
"""In the context of a validation: the data has every key, with its default where it was not given."""

T = TypeVar("T", bound=BaseModel)

_SHOULD_BE = ": should be "
_LOGIN = re.compile(r"//[^/@\s]*@")  # user and password in a URL: no error shows them


def shipped_config() -> Path:
    """Return the directory of the scenarios and profiles that come with the package."""
    packaged = Path(str(resources.files("heron_mqtt"))) / "shipped"
    return packaged if packaged.is_dir() else Path(__file__).resolve().parent.parent / "config"


def find_scenario(name: str | Path) -> Path:
    """Return the scenario file that a user means: a path, or the name of a shipped one.

    Raises:
        ConfigError: There is no such file; says what is shipped.
    """
    path = Path(name)
    if is_file(path):
        return path
    if os.path.isdir(path):  # noqa: PTH112 - Path.is_dir raises where a name is too long
        files = ", ".join(sorted(p.name for p in path.glob("*.toml"))[:5])
        hint = f"name a file in it: {files}" if files else "it holds no .toml file"
        raise ConfigError(f"{name}: is a folder, a scenario is a file; {hint}")
    relative = Path(*path.parts[1:]) if path.parts[:1] == ("config",) else path
    shipped = shipped_config()
    for candidate in (shipped / relative, shipped / f"{relative}.toml"):
        if is_file(candidate) and candidate.resolve().is_relative_to(shipped.resolve()):
            return candidate
    known = ", ".join(sorted(p.stem for p in shipped.glob("*.toml")))
    if (why := why_no_file(path)) != NO_SUCH_FILE:
        raise ConfigError(f"{name}: {why}; a shipped scenario is one of {known}")
    raise ConfigError(f"{name}: no such scenario file; shipped scenarios are: {known}")


def read_toml(path: Path) -> dict[str, Any]:
    """Return the tables of a TOML file.

    Raises:
        ConfigError: Not readable, not UTF-8, too large or not TOML; says where.
    """
    if not is_file(path) and (why := why_no_file(path)) != NO_SUCH_FILE:  # a device may have no end
        raise ConfigError(f"{path}: {why}")
    try:
        data = path.read_bytes()
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be read: {exc.strerror}") from None
    if len(data) > MAX_SCENARIO_BYTES:
        raise ConfigError(f"{path}: {len(data)} bytes; a scenario has at most {MAX_SCENARIO_BYTES}")
    try:
        return tomllib.loads(data.decode("utf-8-sig"))  # editors put a byte order mark in front
    except UnicodeDecodeError as exc:
        raise ConfigError(f"{path}: not UTF-8 at byte {exc.start}; save it as UTF-8") from None
    except (ValueError, RecursionError) as exc:  # ValueError: also a number of more than 4,300 digits
        raise ConfigError(f"{path}: not valid TOML: {str(exc).partition(';')[0]}") from None


def validate(model: type[T], data: Mapping[str, Any], source: str) -> T:
    """Return ``data`` as ``model``.

    Raises:
        ConfigError: One problem a line: source, key, value and what was expected.
    """
    try:
        return model.model_validate(data)
    except ValidationError as exc:
        raise _problems(exc, model, data, source) from None


def validate_recorded(model: type[T], data: Mapping[str, Any], source: str) -> T:
    """Return as ``model`` what was written by ``model_dump_json``: every key is in it, given or not.

    Raises:
        ConfigError: As ``validate``.
    """
    try:
        return model.model_validate_json(json.dumps(data), context={_EVERY_KEY: True})
    except ValidationError as exc:
        raise _problems(exc, model, data, source) from None


def _problems(
    exc: ValidationError, model: type[BaseModel], data: Mapping[str, Any], source: str
) -> ConfigError:
    known = _known_keys(model)
    lines = (_describe(source, dict(error), data, known) for error in exc.errors(include_url=False))
    return ConfigError(*_one_a_place(lines))


def _one_a_place(lines: Iterable[str]) -> list[str]:
    """Return the lines, those of one value as one: each type that it may have adds a line of its own."""
    expected: dict[str, list[str]] = {}
    for line in dict.fromkeys(lines):
        place, should, what = line.rpartition(_SHOULD_BE)
        expected.setdefault(place + should or line, []).append(what if should else "")
    return [place + " or ".join(whats) for place, whats in expected.items()]


def validate_inside(model: type[T], key: str, data: Any) -> T:
    """Return ``data`` as ``model``, within the validation of a table that holds it under ``key``.

    Raises:
        ValidationError: Every problem with ``key`` in front of its place.
    """
    try:
        return model.model_validate(data)
    except ValidationError as exc:
        problems = [
            InitErrorDetails(
                type=error["type"],
                loc=(key, *error["loc"]),
                input=error["input"],
                ctx=error.get("ctx", {}),
            )
            for error in exc.errors(include_url=False)
        ]
        raise ValidationError.from_exception_data(key, problems) from None


def _describe(source: str, error: dict[str, Any], data: Mapping[str, Any], known: set[str]) -> str:
    kind, loc = error["type"], error["loc"]
    key = _key(loc, data)
    if kind == "extra_forbidden":
        name = str(loc[-1])
        if name in known:
            return f"{source}: {key}: unknown key here; it belongs to another table"
        close = difflib.get_close_matches(name, known, n=1)
        return f"{source}: {key}: unknown key" + (f"; did you mean {close[0]!r}?" if close else "")
    if kind == "missing":
        return f"{source}: {_join(key, loc[-1])}: missing; it must be given"
    if kind in {"union_tag_invalid", "union_tag_not_found"}:
        key = _join(key, error["ctx"]["discriminator"].strip("'"))
        if kind == "union_tag_not_found":
            return f"{source}: {key}: missing; it must be given"
        return f"{source}: {key} = {error['ctx']['tag']!r}: should be one of {error['ctx']['expected_tags']}"
    if kind in {"model_type", "dict_type"}:
        expected = "should be a table"
    else:
        expected = error["msg"].removeprefix("Value error, ").removeprefix("Input ")
    value = _LOGIN.sub("//***@", repr(error["input"]))
    shown = f" = {value}" if len(value) <= 80 else ""
    return f"{source}: {key}{shown}: {expected}" if key else f"{source}: {expected}"


def _key(loc: tuple[str | int, ...], data: Any) -> str:
    """Return the dotted key as the user wrote it: parts that only our models know are left out."""
    key = ""
    node: Any = data
    for part in loc:
        if isinstance(node, Mapping) and part in node:
            key = _join(key, part)
            node = node[part]
        elif isinstance(node, list) and isinstance(part, int):
            key += f"[{part}]"
            node = node[part] if part < len(node) else None
    return key


def _join(key: str, part: str | int) -> str:
    return f"{key}.{part}" if key else str(part)


def _known_keys(model: type[BaseModel]) -> set[str]:
    """Return every field name of a model and of the models inside it."""
    names: set[str] = set()
    seen: set[Any] = set()
    waiting: list[Any] = [model]
    while waiting:
        kind = waiting.pop()
        if kind in seen:
            continue
        seen.add(kind)
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            names.update(kind.model_fields)
            waiting += [field.annotation for field in kind.model_fields.values()]
            waiting += kind.models_inside() if issubclass(kind, Table) else ()
        elif not any(type(part) is InstanceOf for part in get_args(kind)):  # what is handed in whole
            waiting += [part for part in get_args(kind) if isinstance(part, type) or get_args(part)]
    return names
