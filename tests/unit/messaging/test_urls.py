"""Broker URLs: the one key of a host."""

from __future__ import annotations

import pytest

from heron_mqtt.messaging.urls import host_key


@pytest.mark.parametrize(
    ("host", "key"),
    [
        ("Box.LAN.", "box.lan"),
        ("localhost", "127.0.0.1"),
        ("::1", "127.0.0.1"),
        ("[0:0:0:0:0:0:0:1]", "127.0.0.1"),
        ("127.1", "127.0.0.1"),
        ("0x7f.1", "127.0.0.1"),
        ("2130706433", "127.0.0.1"),
        ("::ffff:10.0.0.5", "10.0.0.5"),
        ("FE80::0:1", "fe80::1"),
        ("10.0.0.5", "10.0.0.5"),
    ],
)
def test_a_host_has_one_key_in_every_spelling(host: str, key: str) -> None:
    assert host_key(host) == key
