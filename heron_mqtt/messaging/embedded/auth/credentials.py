"""The users file and the ACL rows of each role: what ``heron-mqtt credentials`` does."""

from __future__ import annotations

import contextlib
import getpass
import os
import secrets
import sys
from collections.abc import Mapping
from pathlib import Path

from heron_mqtt.errors import ConfigError
from heron_mqtt.input_files import NO_SUCH_FILE, is_file, why_no_file
from heron_mqtt.messaging.embedded.auth.acl import Acl, AclRow, parse_row
from heron_mqtt.messaging.embedded.auth.users import hash_password, load_users
from heron_mqtt.messaging.embedded.protocol.topic_filters import overlap
from heron_mqtt.messaging.topics import ROLES, ROOT, checked_env_id, rights, user_problem

__all__ = [
    "DEFAULT_ACL_FILE",
    "DEFAULT_USERS_FILE",
    "ROLES",
    "acl_section",
    "add_credentials",
    "check_foreign",
    "remove_credentials",
]

DEFAULT_USERS_FILE = "heron-users.txt"
DEFAULT_ACL_FILE = "heron-acl.txt"

_MAX_NAME_CHARS = 128


def read_password(name: str) -> bytes:
    """Read a password from the terminal (twice, unseen), or one line from standard input if it is none.

    Raises:
        ConfigError: Empty, or typed differently the second time.
    """
    if sys.stdin.isatty():
        password = getpass.getpass(f"Password for {name}: ")
        if getpass.getpass("Again: ") != password:
            raise ConfigError("password: the two entries differ; nothing was changed")
    else:
        password = sys.stdin.readline().rstrip("\r\n")
    if not password:
        raise ConfigError("password: empty, expected one line on standard input; nothing was changed")
    return password.encode()


def add_credentials(
    name: str,
    role: str,
    password: bytes,
    *,
    users_file: str | Path = DEFAULT_USERS_FILE,
    acl_file: str | Path = DEFAULT_ACL_FILE,
    env_id: str | None = None,
    before: str = "",
    foreign: Mapping[str, str] | None = None,
) -> list[str]:
    """Add a user, or give an existing one a new password and the rows of its role.

    Both files are created with mode 0600 and replaced as a whole; a running broker reads them again.

    Args:
        name: An agent's id (``MG1``), a device's agent and name (``MG1/ess``), or any name for the rest.
        role: One of `ROLES`.
        password: Not stored; only its hash is.
        users_file: Rows of ``NAME:HASH``.
        acl_file: In mosquitto's format; rows of other users and comments stay as they are.
        env_id: The environment that the rights are for; None = every one.
        before: As of ``topics.rights``.
        foreign: Rights (read, write, readwrite) on topics that are not ours, by filter.

    Returns:
        What other rows of ``acl_file`` change in the rights of the role, a line each.

    Raises:
        ConfigError: The name or role is wrong, or a file cannot be written; DataError if one cannot be read.
    """
    _check_name(name, role)
    checked_env_id(env_id)
    is_new_users, is_new_acl = _is_new(users_file), _is_new(acl_file)
    users = {} if is_new_users else load_users(users_file)
    users[name] = hash_password(password)
    acl_lines: list[str] = []
    if not is_new_acl:
        Acl.load(acl_file)  # says what is wrong with it before anything is changed
        acl_lines = _without_user(Path(acl_file).read_text(encoding="utf-8").splitlines(), name)
    section = acl_section(name, role, env_id, before=before, foreign=foreign)
    notes = _changed_by_others(acl_lines, section, name)
    acl_lines += ["", *section]
    # Rights first: a user that can log in already has them.
    _replace(acl_file, acl_lines)
    _replace(users_file, [f"{user}:{stored}" for user, stored in users.items()])
    return notes


def _changed_by_others(lines: list[str], section: list[str], name: str) -> list[str]:
    """Say which rows for every user give a user more on topics of its section, or less, than that does."""
    rows = [parsed for line in section if isinstance(parsed := parse_row(line), AclRow)]
    found = []
    for line in lines:
        given = parse_row(line) if line.strip().startswith("pattern ") else None
        filled = given.filled_in(name, "") if isinstance(given, AclRow) else None
        if filled is None:
            continue
        reached = [row for row in rows if overlap(filled.topic_filter, row.topic_filter)]
        if not filled.rights and reached:
            found.append(f"{line.strip()!r} takes from {name} what its role may do on {_first(reached)}")
        elif more := [row for row in reached if not filled.rights <= row.rights]:
            found.append(f"{line.strip()!r} gives {name} more than its role on {_first(more)}")
    return found


def _first(rows: list[AclRow]) -> str:
    more = f" and {len(rows) - 1} more" if len(rows) > 1 else ""
    return f"{rows[0].topic_filter}{more}"


def acl_section(
    name: str,
    role: str,
    env_id: str | None = None,
    *,
    before: str = "",
    foreign: Mapping[str, str] | None = None,
) -> list[str]:
    """Return one user's rows of an ACL file, from ``user`` on; mosquitto reads the same rights from them.

    The rights are those of the wire contract's table, ``heron_mqtt.messaging.topics.RULES``.

    Args:
        name: Of the user; see ``add_credentials``.
        role: One of ``ROLES``.
        env_id: The environment that the rights are for; None = every one.
        before: As of ``topics.rights``.
        foreign: See ``add_credentials``.

    Raises:
        ConfigError: One of ``foreign`` is a right on topics of ours, too.
    """
    check_foreign(name, foreign or {}, before)
    granted = {**rights(role, name, env_id, before=before), **(foreign or {})}
    rows = [f"topic {right} {topic_filter}" for topic_filter, right in granted.items()]
    if role in {"operator", "observer"}:
        rows.append("topic read $SYS/#")
    return [f"user {name}", f"# role: {role}", *rows]


def check_foreign(name: str, foreign: Mapping[str, str], before: str) -> None:
    """See that rights on topics that are not ours change nothing in those of a user's role.

    Args:
        name: Of the user.
        foreign: See ``add_credentials``.
        before: As of ``topics.rights``.

    Raises:
        ConfigError: One of them reaches topics of ours.
    """
    ours = f"{before}{ROOT}/#"
    if inside := [topic for topic in foreign if overlap(topic, ours)]:
        raise ConfigError(
            *(
                f"user {name!r}: a mapping names {topic!r}, which reaches topics of ours ({ours}): it would "
                f"change what its role may do there; expected topics outside of {before}{ROOT}/"
                for topic in inside
            )
        )


def remove_credentials(
    name: str, *, users_file: str | Path = DEFAULT_USERS_FILE, acl_file: str | Path = DEFAULT_ACL_FILE
) -> None:
    """Remove a user and its rows; a running broker ends the user's connections within 10 s.

    Raises:
        ConfigError: There is no such user, or a file cannot be written; DataError if one cannot be read.
    """
    if _is_new(users_file):
        raise ConfigError(f"credentials: --users {users_file}: {NO_SUCH_FILE}, so there is no user {name!r}")
    users = load_users(users_file)
    is_new_acl = _is_new(acl_file)
    if not is_new_acl:
        Acl.load(acl_file)  # says what is wrong with it before anything is changed
    if users.pop(name, None) is None:
        raise ConfigError(f"credentials: {users_file} has no user {name!r}")
    _replace(users_file, [f"{user}:{stored}" for user, stored in users.items()])
    if not is_new_acl:
        _replace(acl_file, _without_user(Path(acl_file).read_text(encoding="utf-8").splitlines(), name))


def _is_new(path: str | Path) -> bool:
    """Whether there is nothing at a path yet.

    Raises:
        ConfigError: There is something else than a file: it must be neither read to its end nor replaced.
    """
    if is_file(Path(path)):
        return False
    why = why_no_file(Path(path))
    if why != NO_SUCH_FILE:
        raise ConfigError(f"credentials: {path}: {why}")
    return True


def _check_name(name: str, role: str) -> None:
    if role not in ROLES:
        raise ConfigError(f"role: {role!r}, expected one of {', '.join(ROLES)}")
    levels = name.split("/")
    if not name or len(name) > _MAX_NAME_CHARS:
        raise ConfigError(f"name: {name[:60]!r}, expected 1 to {_MAX_NAME_CHARS} characters")
    if ":" in name:
        raise ConfigError(f"name: {name!r}, expected no : (it ends the name in the users file)")
    if (problem := user_problem(name)) is not None:
        raise ConfigError(f"name: {name!r}, {problem}")
    if role == "device" and len(levels) != 2:
        raise ConfigError(f"name: {name!r}, expected AGENT/DEVICE for a device, for example MG1/ess")
    if role != "device" and len(levels) != 1:
        raise ConfigError(f"name: {name!r}, expected no / for role {role}")


def _without_user(lines: list[str], name: str) -> list[str]:
    """Leave out the section of one user: from its ``user`` row to the next one or a ``pattern`` row."""
    kept: list[str] = []
    inside = False
    for line in lines:
        keyword, _, rest = line.strip().partition(" ")
        if keyword in ("user", "pattern"):
            inside = keyword == "user" and rest.strip() == name
        if not inside:
            kept.append(line)
    while kept and not kept[-1].strip():
        kept.pop()
    return kept


def _replace(path: str | Path, lines: list[str]) -> None:
    """Write a file for its owner only, whole or not at all; behind a link, the file that it leads to."""
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    text = "\n".join(lines).lstrip("\n") + "\n"
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(target)
    except OSError as exc:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise ConfigError(f"credentials: cannot write {path}: {exc.strerror}") from exc
