"""The arguments of programs that are no command of ``heron-mqtt``: emulators, bridges, scripts."""

from __future__ import annotations

import argparse
from typing import NoReturn


class ProgramArguments(argparse.ArgumentParser):
    """Tells wrong arguments as the commands do: one line that says where to look, and exit code 2."""

    def error(self, message: str) -> NoReturn:
        """End the program with one line on standard error; the usage is left to ``--help``."""
        text = " ".join(message.split())
        self.exit(2, f"{self.prog}: {text}; see {self.prog} --help\n")
