"""Whether a path is a file that can be read, and why it is none; for what a user names."""

from __future__ import annotations

from pathlib import Path

NO_SUCH_FILE = "no such file"


def is_file(path: Path) -> bool:
    """Whether a path is a file; False also where that cannot be said: its name is too long, or a loop."""
    try:
        return path.is_file()
    except OSError:
        return False


def why_no_file(path: Path) -> str:
    """Return why a path is not a file that can be read; for messages."""
    try:
        path.stat()
    except FileNotFoundError:
        return "a symbolic link that leads to no file" if path.is_symlink() else NO_SUCH_FILE
    except OSError as exc:  # a link that leads back to itself, a folder that may not be entered, a long name
        return f"cannot be read: {exc.strerror}"
    except ValueError as exc:  # a null character
        return f"cannot be read: {exc}"
    return "a folder; expected a file" if path.is_dir() else "a device, pipe or socket; expected a file"
