"""Sphinx settings of the documentation site; ``scripts/build_docs.py`` lays out the pages and runs it."""

from __future__ import annotations

from typing import Any

from sphinx.application import Sphinx

from heron_mqtt import __version__

project = "heron-mqtt"
author = "the heron-mqtt authors"
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_heading_anchors = 4
root_doc = "index"
nitpicky = False

default_role = "literal"

html_theme = "furo"
html_title = f"heron-mqtt {__version__}"
html_show_copyright = False
html_copy_source = False
html_static_path: list[str] = []
smartquotes = False

autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True


def fields_of_models(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Append the fields of a pydantic model to its docstring, each with what it means."""
    fields = getattr(obj, "model_fields", None) if what == "class" else None
    if not isinstance(fields, dict):
        return
    lines.append("")
    for field, info in fields.items():
        left_out = "" if info.is_required() else f" (default ``{info.default!r}``)"
        meaning = (info.description or "").replace("|", r"\|")
        lines.append(f"- ``{field}``{left_out}: {meaning}".rstrip(": "))
    lines.append("")


def setup(app: Sphinx) -> None:
    """Register what the pages of the Python interface need."""
    app.connect("autodoc-process-docstring", fields_of_models)
