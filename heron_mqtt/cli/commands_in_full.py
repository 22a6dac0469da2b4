"""The help of commands: what each does is said to its end, and options stand in sections."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand, TyperGroup


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


class OptionsInSections(TyperCommand):
    """Writes each panel of options as a section of its own; without boxes typer puts them into one."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments and options, those without a panel first."""
        sections: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
        for parameter in self.get_params(ctx):
            if (row := parameter.get_help_record(ctx)) is not None:
                usual = "Arguments" if parameter.param_type_name == "argument" else "Options"
                sections.setdefault(getattr(parameter, "rich_help_panel", None) or usual, []).append(row)
        for name, rows in sections.items():
            if rows:
                with formatter.section(name):
                    formatter.write_dl(rows)
