"""A run with ``--json``: nothing of it is drawn, so nothing that draws is imported."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

from heron_mqtt.app.run_summary import Summary


class QuietProgress:
    """Leaves standard output alone, for ``--json``: what has to be said goes to standard error."""

    def __init__(self, page: Callable[[str], None] | None = None) -> None:
        self._page = page

    def opened(self, url: str) -> None:
        """Begin the live page, where one was asked for."""
        if self._page is not None:
            self._page(url)

    def note(self, text: str) -> None:
        """Say something once."""
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()

    def step(self, summary: Summary, price: float, infos: Mapping[str, Mapping[str, Any]]) -> None:
        """Show nothing."""
