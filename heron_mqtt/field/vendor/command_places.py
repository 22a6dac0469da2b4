"""Where each message of a mapping sets something on MQTT: a topic, and what stands there in which command.

Devices differ in how they take a message: as all there is now, or as a command that leaves what others have
set. Two messages of one setpoint, or two items of one list, that set the same member would be pointless in
the first case; so they are two commands, and a constant text or number in which they differ names them
(``cmd``, ``method``, ``name``). What each of them sets has a place of its own then.

A member that is called ``cmd`` or ``slot`` says so itself, whether it is a constant or made of the power,
and also where only one of the commands is sent at a time. Words for a way (``charge``, ``discharge``,
``stop``) are no such names: each of them takes the place of the others. In a list the first of each pair says
where the second belongs, as a register and its value.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import combinations, product
from typing import Any, NamedTuple

from heron_mqtt.field.vendor.parameters import PLACEHOLDER, placeholders
from heron_mqtt.field.vendor.told_content import (
    ADDRESS_NAMES,
    COMMAND_NAMES,
    MODE_NAMES,
    is_nought,
    says_off,
    says_way_or_switch,
    tokens,
)

CommandPlace = tuple[Any, ...]
MAX_COMMANDS = 8
"""More words than that at a member are no names: it holds a size."""
_NUMBER = re.compile(rf"['\"]?{PLACEHOLDER.pattern}['\"]?|-?\b[0-9]+(\.[0-9]+)?\b")
_PAIRS = re.compile(r"[;&,\s]\s*")


class SentTexts(NamedTuple):
    """What a setpoint sends.

    Attributes:
        p_mw: Its power, MW, positive = injected.
        indices: Of its messages.
        text: Returns what stands in a text of them.
    """

    p_mw: float
    indices: Collection[int]
    text: Callable[[Any], str]


class CommandPart(NamedTuple):
    """What can be a command: a payload, or an object in a list within one.

    Attributes:
        group: Parts that may be commands of one device: the topic, then names of lists.
        nth: Which item of its list.
        leaves: The texts, numbers and lists in it by their name; a text of ``key=value`` has several.
        items: The objects in lists within it.
    """

    group: tuple[str, ...]
    nth: int
    leaves: Mapping[str, Any]
    items: Sequence[CommandPart]

    def every(self) -> Iterator[CommandPart]:
        """Yield it and what is within it."""
        yield self
        for item in self.items:
            yield from item.every()

    def members(self, within: str = "") -> Iterator[tuple[str, Any]]:
        """Yield every text, number or list in it, those in its items too, with its whole name."""
        yield from ((f"{within}{name}", leaf) for name, leaf in self.leaves.items())
        for item in self.items:
            yield from item.members(f"{within}{item.group[-1]}[{item.nth}].")

    def leaves_of(self, name: str) -> list[Any]:
        """Return what it has under a name: a text or number, or all those in the objects of a list."""
        beneath = [part for item in self.items if item.group[-1] == name for part in item.every()]
        inside = [leaf for part in beneath for leaf in part.leaves.values()]
        return [self.leaves[name], *inside] if name in self.leaves else inside


class CommandPlaces:
    """The places of a mapping's messages.

    Args:
        messages: What each message sends.
        sent: For each setpoint that is tried, which of them it sends, and what stands in each text of those.
        zero: That of 0; None = it cannot be computed.
        values: The names of the mapping's values; other placeholders differ in each message.
        fleeting: Those of them that differ in each message, too, as its number.
    """

    def __init__(
        self,
        messages: Sequence[CommandPart],
        sent: Sequence[SentTexts],
        zero: SentTexts | None,
        values: Collection[str],
        fleeting: Collection[str] = (),
    ) -> None:
        self._values = frozenset(values)
        self._lasting = self._values - set(fleeting)
        self._named_by: dict[tuple[str, ...], frozenset[str]] = {}
        groups: dict[tuple[str, ...], list[CommandPart]] = {}
        parts = [list(message.every()) for message in messages]
        for part in (part for several in parts for part in several):
            groups.setdefault(part.group, []).append(part)
        pairs = {pair for one in sent for pair in combinations(sorted(one.indices), 2)}
        together = [pair for a, b in pairs for pair in product(parts[a], parts[b])]
        together += [pair for several in parts for pair in combinations(several, 2)]
        for one, other in together:
            if one.group == other.group:
                named_by = self._named_by.get(one.group, frozenset())
                self._named_by[one.group] = named_by | self._differ_in(one, other, groups[one.group])
        self._says_command = {
            group: frozenset(self._commands(group, of_group, parts, sent, zero))
            for group, of_group in groups.items()
        }
        self._pairs = {
            (group, name)
            for group, of_group in groups.items()
            for name in {n for part in of_group for n, leaf in part.leaves.items() if isinstance(leaf, list)}
            if all(_is_of_pairs(part.leaves[name]) for part in of_group if name in part.leaves)
        }

    def of(
        self,
        part: CommandPart,
        content: Callable[[str, Any], Any],
        topic: Any,
        text: Callable[[Any], str],
    ) -> Iterator[tuple[CommandPlace, Any]]:
        """Yield the places of a message, and what it sets there.

        Args:
            part: The message.
            content: Returns what a text or number of it, under a name, stands for.
            topic: What its topic stands for.
            text: Returns what stands in a text of it.
        """
        yield from self._within(part, content, (topic,), text)

    def _within(
        self,
        part: CommandPart,
        content: Callable[[str, Any], Any],
        place: CommandPlace,
        text: Callable[[Any], str],
    ) -> Iterator[tuple[CommandPlace, Any]]:
        place = (*place, *self.key(part, text))
        for name, leaf in part.leaves.items():
            if isinstance(leaf, list):
                for where, each in self._of_list(part, name, leaf):
                    yield (*place, name, *where), content(name, each)
            else:
                yield (*place, name), content(name, leaf)
        for item in part.items:
            yield from self._within(item, content, (*place, item.group[-1]), text)

    def _of_list(self, part: CommandPart, name: str, leaf: list[Any]) -> Iterator[tuple[CommandPlace, Any]]:
        """Yield the places within a list: after the first of each pair, or by position in one of its length.

        A list of another length may leave what this one has set.
        """
        if (part.group, name) in self._pairs:
            for first, *rest in _pairs_of(leaf):
                yield (str(first),), rest[0] if len(rest) == 1 else rest
                yield (str(first), "name"), first
        else:
            yield from (((len(leaf), i), each) for i, each in enumerate(leaf))

    def key(self, part: CommandPart, text: Callable[[Any], str]) -> CommandPlace:
        """Return what tells a command from others at its place: empty where nothing does.

        Args:
            part: The message, or an object in it.
            text: Returns what stands in a text of it.
        """
        names = self._named_by.get(part.group, frozenset())
        says = self._says_command[part.group]
        found = tuple(
            f"{n}={text(part.leaves[n]) if n in says else _word(part.leaves[n])}"
            for n in sorted(names | says)
            if n in part.leaves
        )
        return found or ((part.nth,) if len(part.group) > 1 else ())

    def _commands(
        self,
        group: tuple[str, ...],
        of_group: Sequence[CommandPart],
        parts: Sequence[Sequence[CommandPart]],
        sent: Sequence[SentTexts],
        zero: SentTexts | None,
    ) -> Iterator[str]:
        """Yield the members of a group of parts that say by their name which command each of them is."""
        for name in sorted({name for part in of_group for name in part.leaves}):
            called = tokens(name.rpartition(".")[2])
            is_address = bool(called & ADDRESS_NAMES)
            if called & MODE_NAMES or not (is_address or called & COMMAND_NAMES):
                continue
            leaves = [part.leaves[name] for part in of_group if name in part.leaves]
            if any(isinstance(leaf, list) or placeholders([leaf]) - self._lasting for leaf in leaves):
                continue
            if called & {"id"} and any(len(self._names(part) & COMMAND_NAMES) for part in of_group):
                continue  # it counts the requests

            def said(one: SentTexts, name: str = name) -> set[str]:
                return {
                    one.text(part.leaves[name])
                    for i in one.indices
                    for part in parts[i]
                    if part.group == group and name in part.leaves
                }

            words = set().union(*map(said, sent))
            if not 2 <= len(words) <= MAX_COMMANDS:
                continue
            ways = [set[str]().union(*(said(e) for e in sent if e.p_mw * way > 0.0)) for way in (1.0, -1.0)]
            is_way = all(map(says_way_or_switch, words))
            if not any(map(tokens, words)):  # numbers, of which each sign has its own
                is_way = all(ways) and not ways[0] & ways[1]
            at_0 = set() if zero is None else said(zero)
            if is_address or not (is_way or any(says_off(each, name) or is_nought(each) for each in at_0)):
                yield name

    @staticmethod
    def _names(part: CommandPart) -> frozenset[str]:
        return frozenset[str]().union(*(tokens(name.rpartition(".")[2]) for name in part.leaves))

    def _differ_in(
        self, one: CommandPart, other: CommandPart, group: Sequence[CommandPart]
    ) -> frozenset[str]:
        """Return the members by which two parts that are sent together say which command they are."""
        shared = one.leaves.keys() & other.leaves.keys()
        names = {
            name
            for name in shared
            if all(_is_word(part.leaves[name]) for part in group if name in part.leaves)
            and _constant(one.leaves[name]) != _constant(other.leaves[name])
        }
        both = shared | ({i.group[-1] for i in one.items} & {i.group[-1] for i in other.items})
        carried = {n: placeholders([*one.leaves_of(n), *other.leaves_of(n)]) & self._values for n in both}
        if names:
            return frozenset(names) if any(carried.values()) else frozenset()
        if one.leaves.keys() != other.leaves.keys():
            return frozenset()
        return frozenset(name for name, values in carried.items() if len(values) > 1)


def parts_of(topic: str, payload: Any) -> CommandPart:
    """Return a payload, as a template, by its members."""
    return _part((topic,), 0, payload)


def _part(group: tuple[str, ...], nth: int, payload: Any) -> CommandPart:
    leaves: dict[str, Any] = {}
    items: list[CommandPart] = []
    for name, leaf in _leaves(payload, ""):
        if _holds_objects(leaf):
            items += [_part((*group, name), i, item) for i, item in enumerate(leaf)]
        else:
            leaves[name] = leaf
    return CommandPart(group, nth, leaves, items)


def _leaves(payload: Any, key: str) -> Iterator[tuple[str, Any]]:
    """Yield what a payload sets by name: members of an object, ``key=value`` in a text, or all of it."""
    if isinstance(payload, Mapping):
        for name, each in payload.items():
            yield from _leaves(each, f"{key}.{name}" if key else name)
        return
    parts = _PAIRS.split(payload.strip("; \n")) if isinstance(payload, str) else []
    pairs = [part.partition("=") for part in parts]
    if pairs and all(name and equals for name, equals, _ in pairs):
        yield from ((f"{key}.{name}" if key else name, value) for name, _, value in pairs)
    elif key or _holds_objects(payload):
        yield key, payload
    elif isinstance(payload, list):
        yield "[]", payload
    else:  # the number in it may be another one, or the value in its place
        yield _NUMBER.sub("#", payload if isinstance(payload, str) else repr(payload)), payload


def _holds_objects(leaf: Any) -> bool:
    """Whether a leaf is a list of objects, each of which may be a command."""
    return isinstance(leaf, list) and bool(leaf) and all(isinstance(item, Mapping) for item in leaf)


def _is_of_pairs(leaf: list[Any]) -> bool:
    """Whether a list is made of pairs, each of which begins with a constant: a register and its value."""
    pairs = _pairs_of(leaf)
    return bool(pairs) and all(
        len(pair) > 1 and not isinstance(pair[0], list | bool) and not placeholders([pair[0]])
        for pair in pairs
    )


def _pairs_of(leaf: list[Any]) -> list[list[Any]]:
    """Return the lists in a list, or else its elements two by two."""
    if all(isinstance(each, list) for each in leaf):
        return leaf
    return [leaf[i : i + 2] for i in range(0, len(leaf), 2)]


def _is_word(leaf: Any) -> bool:
    """Whether what is constant in a text or number can name a command."""
    return not isinstance(leaf, bool) and bool(re.search(r"\w", _constant(leaf)))


def _constant(leaf: Any) -> str:
    """Return what is constant in a text, number or list."""
    return PLACEHOLDER.sub("", leaf if isinstance(leaf, str) else repr(leaf))


def _word(leaf: Any) -> str:
    """Return the word that names a command; where nothing in it is constant, the value in its place."""
    return _constant(leaf) or str(leaf)
