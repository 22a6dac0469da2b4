"""The help of a group of commands, in which what each does is said to its end."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup


class CommandsInFull(TyperGroup):
    """Says of each command the first paragraph of its help; typer cuts it off after 45 characters."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the list of commands."""
        rows = []
        for name in self.list_commands(ctx):
            command = self.get_command(ctx, name)
            if command is not None and not command.hidden:
                rows.append((name, " ".join((command.help or "").partition("\n\n")[0].split())))
        if rows:
            with formatter.section("Commands"):
                formatter.write_dl(rows)
