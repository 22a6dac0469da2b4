"""Build the documentation site: the pages of docs/, search, and a reference of the Python interface.

python scripts/build_docs.py [--to build/site]

Every link between pages and every anchor must lead somewhere, and what the built pages load comes from the
site itself: otherwise the exit code is 1. Needs ``pip install -e '.[docs]'``.

The pages stay plain Markdown with links that a code hosting site follows too. So they are copied first, with
docs/README.md as the start page; its sections and links are the site's navigation. Files that are no pages
(examples) become pages that show their source.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# The public faces: what users import, in the order of the layers from the top down.
FACES = (
    "heron_mqtt",
    "heron_mqtt.agents",
    "heron_mqtt.protocols.base",
    "heron_mqtt.protocols.price",
    "heron_mqtt.protocols.setpoint",
    "heron_mqtt.protocols.p2p",
    "heron_mqtt.protocols.order_book",
    "heron_mqtt.protocols.consensus",
    "heron_mqtt.field.device",
    "heron_mqtt.field.gateway",
    "heron_mqtt.field.vendor",
    "heron_mqtt.field.mapping",
    "heron_mqtt.field.sunspec.bridge",
    "heron_mqtt.messaging",
    "heron_mqtt.messaging.base",
    "heron_mqtt.messaging.memory",
    "heron_mqtt.messaging.mqtt",
    "heron_mqtt.messaging.embedded",
    "heron_mqtt.messaging.impaired",
    "heron_mqtt.messaging.nats",
    "heron_mqtt.messaging.kafka",
    "heron_mqtt.messaging.outbox",
    "heron_mqtt.messages",
    "heron_mqtt.errors",
    "heron_mqtt.registry",
    "heron_mqtt.testing",
    "heron_mqtt.testing.conformance",
    "heron_mqtt.testing.signals",
    "heron_mqtt.testing.suite",
    "heron_mqtt.testing.pytest_plugin",
    "powergrid.envs",
    "powergrid.scenario",
    "powergrid.agents",
    "powergrid.agents.policy",
    "powergrid.policies",
    "powergrid.devices",
    "powergrid.rewards",
    "powergrid.networks",
    "powergrid.profiles",
    "powergrid.powerflow",
)

LANGUAGES = {".py": "python", ".c": "c", ".h": "c", ".json": "json", ".toml": "toml"}

_FENCE = re.compile(r"^(```+)[^\n]*\n.*?^\1$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(!?\[[^\]\n]*\]\()([^)\s]+)(\))")
_LOADED = re.compile(
    r"""<(?:script|img|iframe|source|video|audio)\b[^>]*\bsrc=["'](?P<src>[^"']+)|"""
    r"""<link\b(?=[^>]*\brel=["'](?:stylesheet|icon|preload|preconnect|dns-prefetch|modulepreload))[^>]*\bhref=["'](?P<href>[^"']+)|"""
    r"""(?:url\(|@import\s+)["']?(?P<css>(?:https?:)?//[^"')]+)""",
    re.IGNORECASE,
)


class Layout:
    """The pages where Sphinx finds them.

    Args:
        folder: An empty folder to fill.
        root: The repository: docs/README.md below it is the start page, docs/conf.py has Sphinx's settings.
    """

    def __init__(self, folder: Path, root: Path = ROOT) -> None:
        self.folder = folder
        self.root = root
        self.start = root / "docs" / "README.md"
        self._waiting: list[Path] = []
        self._placed: dict[Path, Path] = {}

    def fill(self) -> None:
        """Copy the start page and whatever can be reached from it by links; add the navigation."""
        shutil.copy(ROOT / "docs" / "conf.py", self.folder)
        self._reach(self.start)
        while self._waiting:
            source = self._waiting.pop()
            target = self._placed[source]
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.suffix == ".md":
                target.write_text(self._rewritten(source), encoding="utf-8")
            elif source.suffix in {".png", ".svg"}:
                shutil.copy(source, target)
            else:
                self._show_source(source, target)
        start = self.folder / "index.md"
        start.write_text(start.read_text("utf-8") + self._navigation(), encoding="utf-8")

    def _reach(self, source: Path, by: Path | None = None) -> Path:
        """Return where a file, or what shows it, stands in the site; remembers it to be placed."""
        if source not in self._placed:
            if not source.exists():
                raise SystemExit(f"{by}: a link leads to {source}, which is not there")
            if not source.is_relative_to(self.root):
                raise SystemExit(f"{by}: a link leads out of the repository, to {source}")
            if source.is_relative_to(docs := self.root / "docs"):
                inside = source.relative_to(docs)
            else:
                inside = Path("project", source.relative_to(self.root))
            if source == self.start:
                inside = Path("index.md")
            elif source.is_dir() or source.suffix not in {".md", ".png", ".svg"}:
                inside = inside.with_name(inside.name + ".md")
            self._placed[source] = self.folder / inside
            self._waiting.append(source)
        return self._placed[source]

    def _rewritten(self, source: Path) -> str:
        """Return a page with its links as they are in the site; line numbers stay."""

        def link(found: re.Match[str]) -> str:
            target, mark, anchor = found[2].partition("#")
            if "://" in target or target.startswith("mailto:") or not target:
                return found[0]
            there = self._reach((source.parent / target).resolve(), source)
            relative = os.path.relpath(there, self._placed[source].parent)
            return f"{found[1]}{relative}{mark}{anchor}{found[3]}"

        text, done, parts = source.read_text("utf-8"), 0, []
        for fence in _FENCE.finditer(text):
            parts += [_LINK.sub(link, text[done : fence.start()]), fence[0]]
            done = fence.end()
        alone = source.parent not in {
            self.root,
            self.root / "docs",
        }  # of an example or of data: not in the navigation
        head = "---\norphan: true\n---\n" if alone else ""
        return "".join([head, *parts, _LINK.sub(link, text[done:])])

    def _show_source(self, source: Path, target: Path) -> None:
        """Write a page that shows a file, or the files of a folder and its folders."""
        files = [source] if source.is_file() else sorted(path for path in source.rglob("*") if path.is_file())
        lines = ["---", "orphan: true", "---", f"# {source.relative_to(self.root)}", ""]
        for file in files:
            if (text := text_of(file)) is None:
                continue
            if file != source:
                lines += [f"## {file.relative_to(source)}", ""]
            language = LANGUAGES.get(file.suffix, "make" if file.name == "Makefile" else "text")
            lines += [f"`````{language}", text, "`````", ""]
        target.write_text("\n".join(lines), encoding="utf-8")

    def _navigation(self) -> str:
        """Return the table of contents: the sections of the start page, each with the pages it links to."""
        text, seen, parts = _FENCE.sub("", self.start.read_text("utf-8")), {"index"}, []
        for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
            pages = []
            links = [found[2] for found in _LINK.finditer(section)]
            for target in (link.partition("#")[0] for link in links if "://" not in link and link[0] != "#"):
                placed = self._placed[(self.start.parent / target).resolve()].relative_to(self.folder)
                name = placed.with_suffix("").as_posix()
                if name not in seen and placed.suffix == ".md" and not name.startswith("examples"):
                    seen.add(name)
                    pages.append(name)
            parts += [
                "",
                "```{toctree}",
                ":hidden:",
                f":caption: {section.splitlines()[0]}",
                "",
                *pages,
                "```",
            ]
        return "\n".join(
            [*parts, "", "```{toctree}", ":hidden:", ":caption: Python", "", "python/index", "```", ""]
        )


def text_of(file: Path) -> str | None:
    """Return a file's text, or None where it is none (something that was built)."""
    try:
        return file.read_text("utf-8").rstrip()
    except UnicodeDecodeError:
        return None


# -- the reference of the Python interface ----------------------------------------------------------------


def public_names(face: str) -> list[str]:
    """Return what a face offers: its ``__all__``, else the classes and functions that it defines itself."""
    module = importlib.import_module(face)
    if names := getattr(module, "__all__", None):
        return [name for name in names if not name.startswith("_")]
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and (inspect.isclass(value) or inspect.isfunction(value))
        and value.__module__ == face
    ]


def write_reference(folder: Path, faces: Sequence[str] = FACES) -> None:
    """Write a page for each public face; a name that several faces have is described once, at the last."""
    folder.mkdir()
    home: dict[int, tuple[str, str]] = {}
    offered = {face: public_names(face) for face in faces}
    for face, names in offered.items():
        for name in names:
            home[id(getattr(importlib.import_module(face), name))] = (face, name)
    for face, names in offered.items():
        lines = [face.replace("_", "\\_"), "=" * 60, "", f".. automodule:: {face}", "   :no-members:", ""]
        module = importlib.import_module(face)
        for name in names:
            value = getattr(module, name)
            where, there = home[id(value)]
            if where != face:
                lines += [f"- ``{name}``: see :doc:`{where}`", ""]
                continue
            if inspect.isclass(value) or inspect.isroutine(value):
                kind = "class" if inspect.isclass(value) else "function"
                lines += [f".. auto{kind}:: {face}.{there}", ""]
            else:
                lines += [f".. py:data:: {face}.{there}", f"   :type: {type(value).__name__}", ""]
        (folder / f"{face}.rst").write_text("\n".join(lines), encoding="utf-8")
    index = [
        "Python interface",
        "================",
        "",
        ".. toctree::",
        "   :maxdepth: 1",
        "",
        *(f"   {f}" for f in faces),
    ]
    (folder / "index.rst").write_text("\n".join([*index, ""]), encoding="utf-8")


# -- what was built -----------------------------------------------------------------------------------------


def loaded_from_elsewhere(site: Path) -> list[str]:
    """Return what pages and style sheets of a built site would fetch from other hosts, with the file."""
    found = []
    for file in sorted([*site.rglob("*.html"), *site.rglob("*.css")]):
        for match in _LOADED.finditer(file.read_text("utf-8")):
            address = match["src"] or match["href"] or match["css"]
            if re.match(r"(?:https?:)?//", address):
                found.append(f"{file.relative_to(site)}: {address}")
    return found


def build_site(site: Path, root: Path = ROOT, faces: Sequence[str] = FACES) -> int:
    """Build the pages below ``root`` into ``site``, a folder that is not there yet; return the exit code."""
    with tempfile.TemporaryDirectory() as folder:
        Layout(Path(folder), root).fill()
        write_reference(Path(folder) / "python", faces)
        # In one process: two take a tenth more CPU time, to hand the pages to each other.
        sphinx = [sys.executable, "-m", "sphinx", "--builder", "html", "--fail-on-warning", "-q"]
        done = subprocess.run(  # noqa: S603 - this interpreter
            [*sphinx, "--doctree-dir", f"{folder}/.doctrees", folder, str(site)], check=False
        )
    for line in (elsewhere := loaded_from_elsewhere(site)):
        sys.stderr.write(f"a page would load from another host: {line}\n")
    return 1 if done.returncode or elsewhere else 0


def main() -> int:
    """Build the site and say where it is."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--to", type=Path, default=ROOT / "build" / "site", help="the folder to write")
    site = parser.parse_args().to.resolve()
    if (site / "searchindex.js").exists():  # what an earlier call has built
        shutil.rmtree(site)
    elif site.exists() and any(site.iterdir()):
        parser.error(f"--to {site}: has files in it that are no site of an earlier call; name another folder")
    code = build_site(site)
    if code == 0:
        sys.stdout.write(f"built: {site / 'index.html'}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
