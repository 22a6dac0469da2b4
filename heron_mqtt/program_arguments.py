"""The arguments of programs: what no argument may be, and those of emulators, bridges and scripts."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

SHORTEST_PERIOD_S, LONGEST_PERIOD_S = 1e-3, 86_400.0
MAY_BE_BLANK = ("--why",)
_WITH_VALUE = re.compile(r"(--?[A-Za-z][\w-]*)=(.*)", re.DOTALL)


def wrong_argument(words: Sequence[str]) -> str | None:
    """Return what is wrong with an argument that is empty, only spaces, or no text; None = there is none.

    A script whose variable is not set passes an empty one: it would be taken as if the option were left out,
    or for the current directory. Bytes that are not UTF-8 can stand in no message. What stands behind ``--``
    is another program's.
    """
    before = ""
    for word in words:
        if word == "--":
            return None
        found = _WITH_VALUE.fullmatch(word)
        option, value = (found[1], found[2]) if found else (before if before.startswith("-") else "", word)
        if not value.strip() and option not in MAY_BE_BLANK:
            return f"{option} {value!r}: an empty argument; give it a value, or leave it out".lstrip()
        if not value.isascii() and not _is_utf8(value):
            return f"{option} {value!r}: {_why_no_text(value)}".lstrip()
        before = word
    return None


def _is_utf8(text: str) -> bool:
    """Whether a word of the command line is text; Python hands on other bytes as surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _why_no_text(text: str) -> str:
    try:
        os.fsencode(text).decode()
    except UnicodeDecodeError:
        return "is not UTF-8; expected text in UTF-8"
    return "this locale has ASCII alone; set LC_ALL=C.UTF-8 or PYTHONUTF8=1"


def period(text: str) -> float:
    """Return the time between two messages of a device, s, as ``type`` of an argument; 0 = answers only.

    In less than a millisecond each, a program would only send, and have no time to end.

    Raises:
        argparse.ArgumentTypeError: It is none.
    """
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if value != 0.0 and not SHORTEST_PERIOD_S <= value <= LONGEST_PERIOD_S:
        raise argparse.ArgumentTypeError(
            f"{text!r}: expected seconds, {SHORTEST_PERIOD_S:g} to {LONGEST_PERIOD_S:g}, or 0: answers only"
        )
    return value


class ProgramArguments(argparse.ArgumentParser):
    """Tells wrong arguments as the commands do: one line that says where to look, and exit code 2.

    Options are written in full, as those of the commands: what an abbreviation means changes with each new
    option.
    """

    def __init__(self, **how: Any) -> None:
        super().__init__(allow_abbrev=False, **how)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Return the options of a command line (None = this process's), of which none may be blank."""
        words = sys.argv[1:] if args is None else list(args)
        if (problem := wrong_argument(words)) is not None:
            self.error(problem)
        return super().parse_known_args(words, namespace)

    def error(self, message: str) -> NoReturn:
        """End the program with one line on standard error; the usage is left to ``--help``."""
        text = " ".join(message.split())
        self.exit(2, f"{self.prog}: {text}; see {self.prog} --help\n")
