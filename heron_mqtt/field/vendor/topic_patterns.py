"""Topics with levels that are not known beforehand: a learned instance, the number of a request."""

from __future__ import annotations

import re

from heron_mqtt.field.vendor.parameters import PLACEHOLDER
from heron_mqtt.messaging import topics


class TopicPattern:
    """A topic in which ``+`` and ``{name}`` stand for what is found there.

    Args:
        text: As the mapping has it, known parameters filled in.

    Raises:
        ValueError: It cannot be subscribed to; says why.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        names: list[str] = []
        levels, expressions = [], []
        for i, level in enumerate(text.split("/")):
            if level == "#":
                raise ValueError("# takes in everything below: say + for each level that varies")
            if level == "+":
                names.append(f"level_{i + 1}")
                levels.append("+")
                expressions.append("([^/]*)")
                continue
            found = PLACEHOLDER.findall(level)
            names += found
            levels.append("+" if found else level)
            parts = PLACEHOLDER.split(level)  # text, name, text, name, ...
            expressions.append("".join("([^/]*)" if j % 2 else re.escape(p) for j, p in enumerate(parts)))
        self.names = tuple(names)
        """What is found in a topic: names of placeholders, and level_3 for a + at the third level."""
        self.filter = "/".join(levels)
        """What to subscribe to."""
        topics.check_channel("/".join("x" if level == "+" else level for level in levels))
        self._regex = re.compile("/".join(expressions))

    def match(self, topic: str) -> dict[str, str] | None:
        """Return what stands for each name; None if it is another topic."""
        found = self._regex.fullmatch(topic)
        return None if found is None else {name: found[i] for i, name in enumerate(self.names, start=1)}
