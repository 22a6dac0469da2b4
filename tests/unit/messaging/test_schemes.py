"""Which class carries messages for which URL."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from heron_mqtt.errors import BrokerClosed, ConfigError
from heron_mqtt.messaging import open_broker, register_scheme, scheme_of, schemes
from heron_mqtt.messaging.hosted import HostedBroker
from heron_mqtt.messaging.memory import InMemoryBroker
from heron_mqtt.messaging.mqtt import MqttBroker
from support.rows import each_row


@pytest.fixture
def restored() -> Iterator[None]:
    before = dict(schemes._SCHEMES)
    yield
    schemes._SCHEMES.clear()
    schemes._SCHEMES.update(before)


@pytest.mark.parametrize(
    ("url", "kind"),
    [("mqtt://127.0.0.1", MqttBroker), ("mqtts://h:1", MqttBroker), ("MQTT://h", MqttBroker),
     ("memory", InMemoryBroker), ("memory://", InMemoryBroker), ("embedded", HostedBroker)],
)  # fmt: skip
def test_a_url_names_its_broker(url: str, kind: type) -> None:
    assert type(open_broker(url)) is kind


def test_options_reach_the_broker() -> None:
    broker = open_broker("mqtt://h", env_id="plant", client_id="x", protocol="5")
    assert isinstance(broker, MqttBroker)
    assert (broker.options.client_id, broker.options.protocol) == ("x", "5")
    assert broker.topic_map.env_id == "plant"


@each_row(
    ("url", "said"),
    [
        ("127.0.0.1:1883", r"broker 127.0.0.1:1883: expected .*did you mean mqtt://127.0.0.1:1883\?"),
        ("broker.example", r"did you mean mqtt://broker.example\?"),
        ("ann:s3cr3t@host:1883", r"broker \*\*\*@host:1883: .*did you mean mqtt://\*\*\*@host:1883\?"),
        ("mqt://h", r"did you mean 'mqtt'\?"),
        ("http://h", "expected embedded, memory or mqtt://host:port"),
        ("", "expected embedded, memory or mqtt://host:port"),
        ("memory://x", "memory takes no address"),
        ("embedded://x", "embedded takes no address"),
    ],
)
def test_a_url_that_names_none_is_refused_and_says_what_was_expected(url: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        open_broker(url)
    assert "s3cr3t" not in str(caught.value)


@pytest.mark.parametrize("url", ["memory", "embedded"])
def test_where_others_must_be_there_a_private_broker_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="it has no other clients; expected mqtt://host:port"):
        open_broker(url, at_address=True)


@pytest.mark.parametrize("url", ["nats://h", "kafka://h"])
@pytest.mark.parametrize("name", ["outbox", "clean_start", "client_id", "protocol"])
def test_a_setting_that_only_mqtt_knows_is_refused_elsewhere(
    url: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=f"{name} x: broker {url} has none; use mqtt://"):
        open_broker(url, defaults={name: "x"})
    monkeypatch.setenv(f"HERON_MQTT_{name.upper()}", "x")
    with pytest.raises(ConfigError, match=f"{name} x: broker {url} has none; use mqtt://"):
        open_broker(url)


def test_an_option_that_a_broker_does_not_take_is_refused() -> None:
    with pytest.raises(ConfigError, match="broker memory: takes no ca"):
        open_broker("memory", ca="ca.pem")


@pytest.mark.usefixtures("restored")
def test_a_scheme_of_ones_own_is_one_line() -> None:
    made: list[tuple[str, dict[str, Any]]] = []

    def make(url: str, **options: Any) -> InMemoryBroker:
        made.append((url, options))
        return InMemoryBroker()

    register_scheme("toy", make)
    assert isinstance(open_broker("toy://somewhere", env_id="e", color="red"), InMemoryBroker)
    assert made == [("toy://somewhere", {"env_id": "e", "color": "red"})]
    assert not scheme_of("toy://x").is_external


@pytest.mark.parametrize("name", ["", "Toy", "1", "a b", "a://"])
def test_a_name_that_is_none_of_a_url_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="expected a lower-case name"):
        register_scheme(name, InMemoryBroker)


async def test_an_embedded_broker_begins_and_ends_with_its_connection() -> None:
    broker = open_broker("embedded", env_id="e")
    assert isinstance(broker, HostedBroker)
    with pytest.raises(BrokerClosed, match="await connect"):
        await broker.publish("c", {})
    async with broker:
        async with MqttBroker(broker.url, env_id="e") as other:
            got: list[dict[str, Any]] = []
            await broker.subscribe("c", got.append)
            await other.publish("c", {"i": 1})
            await broker.publish("c", {"i": 2})
            assert [m["i"] for m in got] == [1, 2]
        pid = broker._server.pid
        assert pid is not None
    assert broker._server.pid is None
