"""Empty tables of pandapower, made once a process and copied: to make them takes 0.1 s a network.

pandapower makes the hundred tables of each network from their columns and types, also of one that it reads
from a file: there twice. Here it is given copies of tables that it has made before.
"""

from __future__ import annotations

import sys
from typing import Any

__all__ = ["copy_empty_tables"]


def copy_empty_tables() -> None:
    """Have pandapower, if it is imported, copy the tables that it makes again and again."""
    auxiliary = sys.modules.get("pandapower.auxiliary")
    if auxiliary is None or hasattr(auxiliary.pandapowerNet.create_dataframes, "real"):
        return
    make = auxiliary.pandapowerNet.create_dataframes
    made: dict[tuple[tuple[str, Any], ...], Any] = {}

    def create_dataframes(data: dict[str, Any]) -> dict[str, Any]:
        for name, columns in data.items():
            if isinstance(columns, dict):
                key = tuple(columns.items())
                if key not in made:
                    made[key] = make({name: columns})[name].copy()  # its blocks joined
                data[name] = made[key].copy()
        return data

    create_dataframes.real = make
    auxiliary.pandapowerNet.create_dataframes = staticmethod(create_dataframes)
