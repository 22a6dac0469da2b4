"""Who may import whom: arrows go down only. Checked on the source, TYPE_CHECKING blocks included."""

from __future__ import annotations

import ast
import functools
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import heron_mqtt
from support.rows import each_row

ROOT = Path(heron_mqtt.__file__).resolve().parent.parent
PACKAGES = ("heron_mqtt", "powergrid")

# Layers, lowest first; a module belongs to the longest prefix that is named here. A module may import its
# own layer's group and every layer below. ``heron_mqtt`` itself stands below all: its names are imported
# when they are asked for, and another test holds it to that.
LAYERS: list[dict[str, str]] = [
    {
        "heron_mqtt": "root",
        "heron_mqtt.errors": "errors",
        "heron_mqtt.input_files": "errors",
        "heron_mqtt.units": "errors",
        "heron_mqtt.deferred_model": "program",
        "heron_mqtt.forced_files": "errors",
        "heron_mqtt.forked_processes": "errors",
        "heron_mqtt.json_object": "errors",
        "heron_mqtt.locked_file": "errors",
        "heron_mqtt.named_tuples": "errors",
        "heron_mqtt.end_signals": "program",
        "heron_mqtt.end_times": "program",
        "heron_mqtt.forked_program": "program",
        "heron_mqtt.importing": "program",
        "heron_mqtt.names_on_demand": "program",
        "heron_mqtt.own_program": "program",
        "heron_mqtt.program_arguments": "program",
        "heron_mqtt.program_folders": "program",
        "heron_mqtt.service_manager": "program",
        "heron_mqtt.cancellation": "program",
    },
    {
        "heron_mqtt.messages": "messages",
        "heron_mqtt.config": "config",
        "heron_mqtt.registry": "config",
        "heron_mqtt.scheduling": "scheduling",
    },
    {"heron_mqtt.messaging": "messaging", "heron_mqtt.protocols": "protocols"},
    {"heron_mqtt.field": "field"},
    {"heron_mqtt.agents": "agents", "heron_mqtt.record": "record"},
    {"powergrid": "powergrid"},
    {"heron_mqtt.app": "app", "heron_mqtt.heap": "app"},
    {"heron_mqtt.bench": "bench", "heron_mqtt.dashboard": "dashboard", "heron_mqtt.testing": "testing"},
    {"heron_mqtt.cli": "cli", "heron_mqtt.__main__": "cli"},
]
COMPOSED = {"app", "bench", "cli", "dashboard", "testing"}
"""What may know both the gateway and the grid."""


def modules() -> dict[str, Path]:
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def statements(node: ast.AST) -> Iterator[ast.AST]:
    """Return all statements below a node; an import is no part of an expression."""
    for field in ("body", "orelse", "finalbody", "handlers", "cases"):
        for child in getattr(node, field, ()):
            yield child
            yield from statements(child)


@functools.cache
def imports(module: str) -> list[tuple[str, int]]:
    """Return every module that a module imports, with the line; names are resolved to modules.

    What stands in a function or under ``TYPE_CHECKING`` is an import like any other.
    """
    found = []
    tree = ast.parse(MODULES[module].read_text(), str(MODULES[module]))
    for node in statements(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}:{node.lineno}: relative import"
            assert node.module is not None
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                found.append((name if name in MODULES else node.module, node.lineno))
    return found


def place(module: str) -> tuple[int, str]:
    """Return the layer and the group of a module of ours."""
    parts = module.split(".")
    for n in range(len(parts), 0, -1):
        prefix = ".".join(parts[:n])
        for number, groups in enumerate(LAYERS):
            if prefix in groups and (prefix != "heron_mqtt" or n == len(parts)):
                return number, groups[prefix]
    pytest.fail(f"{module} stands in no layer: name its package in LAYERS")


def ours(name: str) -> bool:
    return name.partition(".")[0] in PACKAGES


def test_the_source_is_found() -> None:
    assert {"heron_mqtt.errors", "powergrid.agents", "powergrid.emulators.script"} <= set(MODULES)
    assert place("heron_mqtt.messaging.embedded.broker") == (2, "messaging")
    assert place("powergrid.devices.battery") == (5, "powergrid")
    assert place("heron_mqtt.app.runner") == (6, "app")
    assert place("heron_mqtt.cli.console") == (8, "cli")
    assert place("heron_mqtt") == (0, "root")


def test_arrows_go_down_only() -> None:
    wrong = []
    for module in MODULES:
        layer, group = place(module)
        if module == "heron_mqtt":
            continue  # names of all layers, for type checkers and on demand
        for name, line in imports(module):
            if not ours(name):
                continue
            below, other = place(name)
            if not (below < layer or (below, other) == (layer, group)):
                wrong.append(f"{MODULES[module].relative_to(ROOT)}:{line} imports {name} ({other})")
    assert not wrong


def test_heron_mqtt_does_not_know_powergrid_but_where_it_is_composed() -> None:
    """Each new name here is a door between gateway and simulation: think before you add one."""
    doors = {
        module.split(".")[1]
        for module in MODULES
        if module.startswith("heron_mqtt.")
        for name, _ in imports(module)
        if name.partition(".")[0] == "powergrid"
    }
    assert doors <= COMPOSED


def test_the_composition_root_does_not_know_the_command_line() -> None:
    app = [module for module in MODULES if module.startswith("heron_mqtt.app")]
    assert not [name for module in app for name, _ in imports(module) if name.startswith("heron_mqtt.cli")]


def test_importing_the_root_imports_nothing_else_of_ours() -> None:
    ours = "[m for m in sys.modules if m.startswith(('heron_mqtt.', 'powergrid'))]"
    code = f"import sys, heron_mqtt\nprint(*{ours})"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.split() == []


@each_row("name", heron_mqtt.__all__)
def test_a_name_of_the_root_is_the_one_of_its_module(name: str) -> None:
    assert name in dir(heron_mqtt)
    if name == "__version__":
        assert heron_mqtt.__version__[0].isdigit()
    else:
        assert getattr(heron_mqtt, name) is getattr(importlib.import_module(heron_mqtt._MODULES[name]), name)


@pytest.mark.parametrize(
    ("foreign", "allowed"),
    [
        (
            "paho",
            ("heron_mqtt.messaging.mqtt", "heron_mqtt.testing"),
        ),  # a harness shares no code with a client
        ("amqtt", ("heron_mqtt.messaging.embedded.server.amqtt_core",)),
        ("pandapower", ("powergrid.networks", "powergrid.powerflow")),
        ("typer", ()),
        ("rich", ()),
    ],
)
def test_a_foreign_package_is_known_in_one_place(foreign: str, allowed: tuple[str, ...]) -> None:
    users = {m for m in MODULES for name, _ in imports(m) if name.split(".")[0] == foreign}
    places = (
        {m for m in users if not m.startswith(allowed)} if allowed else {m for m in users if place(m)[0] < 6}
    )
    assert not places
    assert users, f"nobody imports {foreign}: the test looks for the wrong name"


def test_no_modules_import_each_other_in_a_circle() -> None:
    """What stands in a function or is for types alone is an arrow, too."""
    graph = {m: {n for n, _ in imports(m) if n in MODULES and n != m} for m in MODULES}
    state: dict[str, int] = {}
    trail: list[str] = []

    def visit(module: str) -> None:
        state[module] = 1
        trail.append(module)
        for name in sorted(graph[module]):
            if state.get(name) == 1:
                pytest.fail(" -> ".join([*trail[trail.index(name) :], name]))
            if name not in state:
                visit(name)
        trail.pop()
        state[module] = 2

    for module in MODULES:
        if module not in state:
            visit(module)


def test_an_interface_does_not_import_its_own_implementations_even_for_types() -> None:
    for interface in ("heron_mqtt.messaging.base", "heron_mqtt.protocols.base", "heron_mqtt.agents.base"):
        package = interface.rsplit(".", 1)[0]
        known = {name for name, _ in imports(interface) if name in MODULES}
        for implementation in (m for m in MODULES if m.startswith(package + ".")):
            if implementation in known:
                users = {name for name, _ in imports(implementation)}
                assert interface not in users, f"{interface} and {implementation} know each other"


def test_a_device_script_starts_without_the_heavy_packages_and_without_a_gateway() -> None:
    """Nor does anything that it is made of: one process imports each, and looks after each."""
    heavy = ("numpy", "pandas", "pandapower", "scipy", "gymnasium", "pettingzoo", "amqtt", "rich", "typer")
    heavy += ("heron_mqtt.agents.proxy", "heron_mqtt.field.gateway.gateway")
    heavy += ("heron_mqtt.messages.agent", "heron_mqtt.messages.grid", "heron_mqtt.messages.wire_types")
    modules = (
        *("heron_mqtt.config", "powergrid.devices", "powergrid.scenario", "heron_mqtt.field"),
        *("heron_mqtt.messaging.mqtt", "heron_mqtt.field.device", "powergrid.emulators"),
        *("powergrid.emulators.script", "powergrid.emulators.sunspec_bridge"),
    )
    code = f"""
import importlib, sys
for module in {modules!r}:
    importlib.import_module(module)
    print(module, *[name for name in {heavy!r} if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.splitlines() == list(modules)
