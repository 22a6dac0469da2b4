"""The command line from its words to its exit code."""

from __future__ import annotations

import copy
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import typer

from heron_mqtt.cli.complaints import EXIT_FAILED, EXIT_OK, EXIT_USAGE, complain, report
from heron_mqtt.cli.run_commands import app
from heron_mqtt.errors import HeronError
from heron_mqtt.program_arguments import wrong_argument

PROGRAM = "heron-mqtt"
VERBOSE = ("-v", "--verbose")
COMPLETE = "_HERON_MQTT_COMPLETE"
"""Set by a shell that asks what may come next; it describes the line in further variables."""

# typer names only one of click's exceptions in public; every mistake in the arguments is a kind of it.
_UsageError = cast("type[Exception]", typer.BadParameter.__base__)


def run_command_line(words: Sequence[str] | None = None) -> int:
    """Run what the command line says (None = that of this process); returns the exit code.

    A user's mistake ends in one line a problem and exit code 1 or 2.
    """
    ordered = _options_first(sys.argv[1:] if words is None else words)
    if (problem := wrong_argument(ordered)) is not None:
        complain(problem)
        return EXIT_USAGE
    try:
        code = _only_what_is_called(ordered)(ordered, prog_name=PROGRAM, standalone_mode=False)
    except HeronError as exc:
        return report(exc)
    except _UsageError as exc:
        return _wrong_arguments(exc)
    except OSError as exc:
        if isinstance(exc, FileNotFoundError) and _is_in_no_folder():
            complain("the current folder does not exist any more; change to one that exists")
        elif _is_named(exc, ordered):
            complain(f"{exc.filename}: {exc.strerror}")
        else:
            raise
        return EXIT_USAGE
    except typer.Abort:
        return EXIT_FAILED
    except (KeyError, ValueError) as exc:
        if COMPLETE not in os.environ:
            raise
        complain(
            f"{COMPLETE}={os.environ[COMPLETE]}: the shell passes too little of the command line ({exc})"
        )
        return EXIT_FAILED
    except SystemExit as exc:  # how argparse and the commands themselves end
        return exc.code if isinstance(exc.code, int) else EXIT_OK if exc.code is None else EXIT_FAILED
    return code if isinstance(code, int) else EXIT_OK


def _is_in_no_folder() -> bool:
    """Whether the folder that this was started in has been removed: names without one lead nowhere."""
    try:
        Path.cwd()
    except FileNotFoundError:
        return True
    return False


def _is_named(exc: OSError, words: Sequence[str]) -> bool:
    """Whether an error is of a file or folder that the user has named: of ours it is a bug."""
    if not isinstance(exc.filename, str) or not exc.filename or exc.strerror is None:
        return False
    named = [word.rpartition("=")[2] if word.startswith("-") else word for word in words]
    return any(word and (exc.filename == word or exc.filename.startswith(f"{word}/")) for word in named)


def _options_first(words: Sequence[str]) -> list[str]:
    """Return the words with ``-v`` in front, wherever it was: before a command or behind it."""
    end = words.index("--") if "--" in words else len(words)
    verbose = [word for word in words[:end] if _is_verbose(word)]
    others = (word for word in words[:end] if not _is_verbose(word))
    return [*(VERBOSE[:1] if verbose else ()), *others, *words[end:]]


def _is_verbose(word: str) -> bool:
    """Whether a word asks for more of the log; ``-vv``, which means more still elsewhere, does, too."""
    return word in VERBOSE or re.fullmatch("-v+", word) is not None


def _only_what_is_called(words: Sequence[str]) -> typer.Typer:
    """Return the command line with the one command that is called, or with all of them where none is.

    typer makes the options of every command before it looks which is called: a tenth of a short run.
    """
    first = next((word for word in words if word not in VERBOSE), None)
    narrow = copy.copy(app)
    narrow.registered_commands = [c for c in app.registered_commands if _name_of(c) == first]
    narrow.registered_groups = [g for g in app.registered_groups if g.name == first]
    return narrow if narrow.registered_commands or narrow.registered_groups else app


def _name_of(command: Any) -> str:
    return str(command.name or command.callback.__name__.replace("_", "-"))


def _wrong_arguments(exc: Any) -> int:
    """Say in one line what is wrong with the arguments, and where to look."""
    if type(exc).__name__ == "NoArgsIsHelpError":  # no mistake: a command group without anything behind it
        typer.echo(exc.format_message())
        return EXIT_OK
    where = exc.ctx.command_path if exc.ctx is not None else PROGRAM
    command = where.removeprefix(PROGRAM).strip()
    text = " ".join(str(exc.format_message()).split()).rstrip(".")
    text = re.sub(r"\.? ?\(?(Did you mean|Possible options:) ([^?)]*)[?)]", r", did you mean \2?", text)
    text = f"{text[:1].lower()}{text[1:]}"
    complain(f"{command}: {text}; see {where} --help" if command else f"{text}; see {where} --help")
    return EXIT_USAGE
