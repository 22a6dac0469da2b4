"""Topic filters: validity, coverage, and the trees that match them (MQTT 3.1.1 section 4.7)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")

MAX_LEVELS = 200  # as in mosquitto: a bound on what one filter or topic can cost in a tree


def filter_problem(topic_filter: str) -> str | None:
    """Return why a subscription to this filter is refused, or None if it is valid."""
    if not topic_filter:
        return "an empty topic filter"
    if topic_filter.startswith("$share/"):
        return "shared subscriptions need MQTT 5"
    levels = topic_filter.split("/")
    if len(levels) > MAX_LEVELS:
        return f"more than {MAX_LEVELS} levels"
    for index, level in enumerate(levels):
        if "#" in level and (level != "#" or index != len(levels) - 1):
            return "# must be the whole last level"
        if "+" in level and level != "+":
            return "+ must be a whole level"
    return None


def covers(granted: str, asked: str) -> bool:
    """Return whether every topic that ``asked`` can match is also matched by ``granted``.

    Both are filters; a topic name is a filter without wildcards. ``+`` covers one level and no more:
    never a ``#``. As in matching, a wildcard in the first level does not reach topics beginning with ``$``.
    """
    grant, ask = granted.split("/"), asked.split("/")
    if ask[0].startswith("$") and grant[0] in ("+", "#"):
        return False
    for index, level in enumerate(grant):
        if level == "#":
            return True
        if index >= len(ask):
            return False
        if ask[index] == "#" or (level != "+" and level != ask[index]):
            return False
    return len(ask) == len(grant)


def overlap(one: str, other: str) -> bool:
    """Return whether some topic is matched by both filters; a topic name is a filter without wildcards."""
    a, b = one.split("/"), other.split("/")
    for first, second in ((a[0], b[0]), (b[0], a[0])):
        if first.startswith("$") and second in ("+", "#"):
            return False
    for left, right in zip(a, b, strict=False):
        if "#" in (left, right):
            return True
        if left != right and "+" not in (left, right):
            return False
    rest = a[len(b) :] or b[len(a) :]  # "sport/#" also matches "sport"
    return not rest or rest == ["#"]


class _Node(Generic[K, V]):
    __slots__ = ("children", "entries")

    def __init__(self) -> None:
        self.children: dict[str, _Node[K, V]] = {}
        self.entries: dict[K, V] = {}


class _LevelTree(Generic[K, V]):
    """Values by (path, key), a path being levels separated by ``/``."""

    def __init__(self) -> None:
        self._root: _Node[K, V] = _Node()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def put(self, path: str, key: K, value: V) -> V | None:
        """Set the value that this key has under this path; return the one it replaces, or None."""
        node = self._root
        for level in path.split("/"):
            child = node.children.get(level)
            if child is None:
                child = node.children[level] = _Node()
            node = child
        self._count += key not in node.entries
        replaced = node.entries.get(key)
        node.entries[key] = value
        return replaced

    def get(self, path: str, key: K) -> V | None:
        """Return the value that this key has under this path, or None."""
        node = self._root
        for level in path.split("/"):
            child = node.children.get(level)
            if child is None:
                return None
            node = child
        return node.entries.get(key)

    def discard(self, path: str, key: K) -> V | None:
        """Remove and return the value, or None if there is none. Branches left empty are cut off."""
        trail: list[tuple[_Node[K, V], str]] = []
        node = self._root
        for level in path.split("/"):
            child = node.children.get(level)
            if child is None:
                return None
            trail.append((node, level))
            node = child
        if key not in node.entries:
            return None
        value = node.entries.pop(key)
        self._count -= 1
        for parent, level in reversed(trail):
            child = parent.children[level]
            if child.entries or child.children:
                break
            del parent.children[level]
        return value


class FilterTree(_LevelTree[K, V]):
    """Who subscribed to what: one value a (filter, subscriber), found by topic."""

    def match(self, topic: str) -> Iterator[tuple[K, V]]:
        """Yield every (key, value) whose filter matches; a key once for each of its filters that does."""
        levels = topic.split("/")
        wild = not topic.startswith("$")
        nodes = [self._root]
        for index, level in enumerate(levels):
            reached: list[_Node[K, V]] = []
            for node in nodes:
                children = node.children
                if not children:
                    continue
                if wild or index:
                    if (rest := children.get("#")) is not None:
                        yield from rest.entries.items()
                    if (any_one := children.get("+")) is not None:
                        reached.append(any_one)
                if (exact := children.get(level)) is not None:
                    reached.append(exact)
            nodes = reached
        for node in nodes:
            yield from node.entries.items()
            # "sport/#" also matches "sport" (section 4.7.1.2).
            if (rest := node.children.get("#")) is not None:
                yield from rest.entries.items()


class TopicTree(_LevelTree[None, V]):
    """One value a topic, found by filter: the retained messages."""

    def match(self, topic_filter: str) -> list[V]:
        """Return the values of all topics that a valid filter matches."""
        nodes = [self._root]
        for index, level in enumerate(topic_filter.split("/")):
            if level == "#":
                found = [node for node in nodes if index] + self._below(nodes, hidden=index == 0)
                return [value for node in found for value in node.entries.values()]
            if level == "+":
                nodes = [
                    child
                    for node in nodes
                    for name, child in node.children.items()
                    if index or not name.startswith("$")
                ]
            else:
                nodes = [child for node in nodes if (child := node.children.get(level)) is not None]
        return [value for node in nodes for value in node.entries.values()]

    @staticmethod
    def _below(nodes: list[_Node[None, V]], *, hidden: bool) -> list[_Node[None, V]]:
        """Return all descendants, without recursion; ``hidden`` leaves out first levels beginning with $."""
        pending = [
            child
            for node in nodes
            for name, child in node.children.items()
            if not (hidden and name.startswith("$"))
        ]
        found: list[_Node[None, V]] = []
        while pending:
            node = pending.pop()
            found.append(node)
            pending.extend(node.children.values())
        return found
