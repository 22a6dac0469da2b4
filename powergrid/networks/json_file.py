"""Read a pandapower JSON file that may be malicious.

pandapower creates Python objects from the ``_module`` and ``_class`` in the file: it imports the module and
may call functions of it. A table may contain the path of a file that pandapower reads instead. Therefore all
objects are checked first, also those inside strings, because pandapower parses these too. Only tables and
plain numpy and Python values are accepted.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pandapower

from heron_mqtt.errors import ConfigError

MAX_BYTES = 32 * 2**20  # pandapower's largest network, 9,241 buses, is 4 MiB
_MAX_DEPTH = 30  # pandapower writes networks with 6 levels

_NET = ("pandapower.auxiliary", "pandapowerNet")
_TABLES = frozenset(
    (module, name)
    for name, modules in {
        "DataFrame": ("pandas", "pandas.core.frame"),
        "Series": ("pandas", "pandas.core.series"),
    }.items()
    for module in modules
)
_TABLE_KEYS = frozenset(
    {"_module", "_class", "_object", "orient", "dtype", "typ"}
    | {"is_multiindex", "is_multicolumn", "index_name", "index_names", "column_name", "column_names"}
)
_VALUES = frozenset(
    [("numpy", name) for name in ("array", "bool", "bool_", "float16", "float32", "float64")]
    + [("numpy", f"{sign}int{bits}") for sign in ("", "u") for bits in (8, 16, 32, 64)]
    + [("numpy", "complex64"), ("numpy", "complex128")]
    + [("builtins", name) for name in ("complex", "tuple", "set", "frozenset")]
    + [("pandas", "Index"), ("pandas", "RangeIndex")]
)


def read_network(path: Path) -> Any:
    """Return the pandapowerNet in a JSON file.

    Raises:
        ConfigError: There is no such file, it is too large, not JSON or not a network, or it contains other
            objects than tables and values (for example a controller).
    """
    text = _text(path)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as exc:
        _refuse(path, f"is not JSON: {exc}", exc)
    if not isinstance(content, dict) or _signature(content) != _NET:
        _refuse(path, "is not a pandapower network; write it with pandapower.to_json(net, path)")
    strange = sorted(set(_strange_objects(content, 0)))
    if strange:
        _refuse(
            path, f"holds {', '.join(strange[:5])}; only tables and plain values are read, remove them first"
        )
    try:
        net = pandapower.from_json_string(text, convert=True)
    except Exception as exc:  # pandapower raises many types; all of them mean that the file is wrong
        _refuse(path, f"pandapower cannot read it: {exc}", exc)
    if not isinstance(net, pandapower.pandapowerNet):
        _refuse(path, "is not a pandapower network; write it with pandapower.to_json(net, path)")
    return net


def _refuse(path: Path, what: str, cause: BaseException | None = None) -> NoReturn:
    raise ConfigError(f"network file {path}: {what}") from cause


def _text(path: Path) -> str:
    if path.exists() and not path.is_file():
        _refuse(path, "is not a regular file")
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except FileNotFoundError as exc:
        _refuse(path, "no such file", exc)
    except (OSError, ValueError) as exc:  # ValueError: a path with a null character
        _refuse(path, f"cannot be read: {getattr(exc, 'strerror', None) or exc}", exc)
    if len(data) > MAX_BYTES:
        _refuse(path, f"is larger than {MAX_BYTES // 2**20} MiB")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        _refuse(path, "is not UTF-8", exc)


def _signature(value: dict[str, Any]) -> tuple[Any, Any]:
    return value.get("_module"), value.get("_class")


def _strange_objects(value: Any, depth: int) -> Iterator[str]:
    """Yield a description of each object in ``value`` that is not a table or a plain value."""
    if depth > _MAX_DEPTH:
        yield "objects nested too deep"
    elif isinstance(value, dict):
        if "_module" in value or "_class" in value:
            yield from _strange_signature(value, depth)
        for item in value.values():
            yield from _strange_objects(item, depth + 1)
    elif isinstance(value, list):
        for item in value:
            yield from _strange_objects(item, depth + 1)
    elif isinstance(value, str) and value.lstrip()[:1] in ("{", "[", '"'):
        try:
            inner = json.loads(value)
        except ValueError:
            return  # plain text
        except RecursionError:
            yield "objects nested too deep"
            return
        yield from _strange_objects(inner, depth + 1)


def _strange_signature(value: dict[str, Any], depth: int) -> Iterator[str]:
    signature = _signature(value)
    if not all(isinstance(name, str) for name in signature):
        yield "an object without a proper name"
    elif signature in _TABLES:
        # If the content is an absolute path, pandapower reads the table from that file.
        if not _is_json_text(value.get("_object")):
            yield "a table whose content is not JSON"
        if extra := value.keys() - _TABLE_KEYS:
            yield f"a table with {', '.join(sorted(extra))}"
    elif signature == _NET:
        if depth > 0 or not isinstance(value.get("_object"), dict):
            yield "a network within the network"
    elif signature not in _VALUES:
        module, name = signature
        yield f"an object of {module}.{name}"


def _is_json_text(content: Any) -> bool:
    if not isinstance(content, str) or content.lstrip()[:1] not in ("{", "["):
        return False
    try:
        json.loads(content)
    except (ValueError, RecursionError):
        return False  # pandas may parse what json does not: then its content would be unchecked
    return True
