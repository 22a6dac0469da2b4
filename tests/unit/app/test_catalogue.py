"""Everything that has a name is listed from where it is known."""

from __future__ import annotations

import pytest

from heron_mqtt.app.catalogue import catalogue
from heron_mqtt.errors import ConfigError
from powergrid.devices import DEVICES


def test_every_list_has_names_with_a_text_for_people() -> None:
    found = catalogue()
    assert "three_microgrids" in dict(found["scenarios"])
    assert "lte_poor" in dict(found["impaired-networks"])
    assert "mv_oberrhein" in dict(found["networks"])
    assert set(dict(found["devices"])) == set(DEVICES)
    for title, rows in found.items():
        assert rows, title
        for name, text in rows:
            assert name, title
            assert text, name
            assert "\n" not in text


def test_a_list_that_is_none_names_those_there_are() -> None:
    with pytest.raises(ConfigError, match="list birds: expected one of scenarios, networks, "):
        catalogue("birds")
