"""SessionBroker: what brokers of one kind of link share."""

from __future__ import annotations

import pytest

from heron_mqtt.messaging.mqtt import MqttBroker


@pytest.mark.parametrize(
    ("url", "site"),
    [
        ("mqtt://localhost", "127.0.0.1:1883"),
        ("mqtt://127.1:1883", "127.0.0.1:1883"),
        ("mqtt://127.0.0.1:1884", "127.0.0.1:1884"),
        ("mqtt://127.0.0.1:32767", "127.0.0.1:32767"),
        ("mqtt://[::1]:32768", ""),  # another one at its next start
        ("mqtt://Plant.lan.", "plant.lan:1883"),
        ("mqtts://plant.lan", "plant.lan:8883"),
        ("mqtt://plant.lan:49153", "plant.lan"),
        ("mqtt://b.lan,a.lan:1884", "a.lan:1884,b.lan:1883"),
        ("mqtt://localhost:40000,a.lan", "a.lan:1883"),
    ],
)
def test_a_site_is_told_from_others_by_what_lasts_of_its_address(url: str, site: str) -> None:
    assert MqttBroker(url, client_id="c").site == site
