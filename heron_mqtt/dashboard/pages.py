"""What is served over plain HTTP: a handful of files of the package, with strict headers."""

from __future__ import annotations

import mimetypes
from collections.abc import Mapping
from http import HTTPStatus
from importlib import resources

from websockets.datastructures import Headers
from websockets.http11 import Response

STATIC, PLOTS = "dashboard/static/", "record/report/assets/"
VIEWS = ("overview", "diagram", "devices", "messages", "events")
FILES = {
    "/": f"{STATIC}index.html",
    "/style.css": f"{STATIC}style.css",
    "/uPlot.js": f"{PLOTS}uPlot.iife.min.js",
    "/uPlot.css": f"{PLOTS}uPlot.min.css",
    **{
        f"/{name}.js": f"{STATIC}{name}.js"
        for name in ("main", "store", "table", "pressed", "time", "format")
    },
    **{f"/views/{name}.js": f"{STATIC}views/{name}.js" for name in VIEWS},
}
"""Every path that there is, and its file in the package; no other one is looked at."""

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}

JSON = "application/json"


class StaticFiles:
    """Some files, read once.

    Args:
        names: By path, its file in the package.
    """

    def __init__(self, names: Mapping[str, str]) -> None:
        root = resources.files("heron_mqtt")
        self._files = {
            path: (root.joinpath(*name.split("/")).read_bytes(), mimetypes.guess_type(name)[0])
            for path, name in names.items()
        }

    def answer(self, path: str) -> Response | None:
        """Return a file; None where there is none of this path."""
        if path not in self._files:
            return None
        content, kind = self._files[path]
        return answer(HTTPStatus.OK, content, f"{kind or 'application/octet-stream'}; charset=utf-8")


def answer(
    status: HTTPStatus, body: bytes | str, kind: str = "text/plain; charset=utf-8", **more: str
) -> Response:
    """Return a response; ``more`` are headers, ``_`` for ``-``."""
    content = body.encode() if isinstance(body, str) else body
    headers = Headers({**HEADERS, "Content-Type": kind, "Content-Length": str(len(content))})
    headers["Connection"] = "close"
    for name, value in more.items():
        headers[name.replace("_", "-")] = value
    return Response(status.value, status.phrase, headers, content)
