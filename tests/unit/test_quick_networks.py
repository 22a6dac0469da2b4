"""A network whose empty tables were copied is the network that pandapower makes, and nobody else's."""

from __future__ import annotations

from typing import Any

import pandapower as pp
import pandapower.networks as pn
import pandas as pd
import pytest
from pandapower.auxiliary import pandapowerNet


@pytest.mark.slow_but("create_empty_network")  # where all tables are made
@pytest.mark.parametrize("make", [pp.create_empty_network, pn.create_cigre_network_mv])
def test_it_is_the_network_that_pandapower_makes(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    copied = make()
    monkeypatch.setattr(pandapowerNet, "create_dataframes", pandapowerNet.create_dataframes.real)
    made = make()
    assert list(copied) == list(made)
    for name, table in made.items():
        if isinstance(table, pd.DataFrame):
            pd.testing.assert_frame_equal(copied[name], table, check_index_type="equiv", obj=name)
            assert copied[name].index.dtype == table.index.dtype, name


def test_what_is_put_into_one_is_not_in_the_next() -> None:
    first = pp.create_empty_network()
    pp.create_bus(first, 20.0)
    first.line["mine"] = 1.0
    second = pp.create_empty_network()
    assert second.bus.empty
    assert "mine" not in second.line
    assert pp.create_bus(second, 0.4) == 0
