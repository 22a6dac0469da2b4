"""Addresses and credentials of an MQTT broker: read right, refused clearly, never shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heron_mqtt.errors import ConfigError
from heron_mqtt.messaging.mqtt import MqttBroker
from heron_mqtt.messaging.mqtt.options import MqttOptions, shown
from support.rows import each_row


def _options(url: str, **kwargs: Any) -> MqttOptions:
    return MqttBroker(url, **kwargs).options


@each_row(
    ("url", "address"),
    [
        ("mqtt://localhost", "mqtt://localhost:1883"),
        ("mqtt://127.0.0.1:1884/", "mqtt://127.0.0.1:1884"),
        ("mqtts://broker.example", "mqtts://broker.example:8883"),
        ("MQTT://Broker.Example:1", "mqtt://broker.example:1"),
        ("mqtt://[::1]:1883", "mqtt://[::1]:1883"),
        ("mqtt://user:pass@host:1", "mqtt://host:1"),
        ("mqtt://user:pass@a,b:1884,[::1]", "mqtt://a:1883,b:1884,[::1]:1883"),
        ("ws://host", "ws://host:80/mqtt"),
        ("wss://user:pass@a:9001,b/other?x=1", "wss://a:9001,b:443/other?x=1"),
    ],
)
def test_an_address_is_understood(url: str, address: str) -> None:
    assert _options(url).address == address


@each_row(
    "url",
    [
        "",
        "localhost",
        "localhost:1883",
        "http://localhost",
        "tcp://localhost:1883",
        "ws://",
        "ws://localhost/mqtt#x",
        "mqtt://",
        "mqtt://:1883",
        "mqtt://host:port",
        "mqtt://host:99999",
        "mqtt://host:0",
        "mqtt://host/topic",
        "mqtt://host?x=1",
        "mqtt://[::1",
        "mqtt://a..b",
        "mqtt:host",
    ],
)
def test_what_is_no_address_is_refused_with_what_was_expected(url: str) -> None:
    with pytest.raises(ConfigError, match=r"MqttBroker: .*") as caught:
        MqttBroker(url)
    assert "\n" not in str(caught.value)
    assert "mqtt://" in str(caught.value) or "port 0" in str(caught.value)


def test_credentials_in_the_url_are_decoded() -> None:
    options = _options("mqtt://us%40er:p%2Fa%3As%40s@host")
    assert (options.username, options.password) == ("us@er", "p/a:s@s")


def test_arguments_win_over_the_url_and_the_url_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERON_MQTT_USERNAME", "env")
    monkeypatch.setenv("HERON_MQTT_PASSWORD", "env-pw")
    assert _options("mqtt://host").username == "env"
    assert _options("mqtt://host").password == "env-pw"
    assert _options("mqtt://url:url-pw@host").username == "url"
    assert _options("mqtt://url:url-pw@host").password == "url-pw"
    assert _options("mqtt://url:url-pw@host", username="arg", password="arg-pw").password == "arg-pw"
    assert _options("mqtt://url@host").password == "env-pw"


@given(st.text("ab@:/?#% ", min_size=1, max_size=12), st.sampled_from(["mqtt://", "mqtts://", "", "http://"]))
def test_a_password_is_in_no_text_however_it_is_written(noise: str, scheme: str) -> None:
    secret = "S3CR3T"
    for url in (f"{scheme}user:{secret}{noise}@host", f"{scheme}user:{noise}{secret}@host:x"):
        assert secret not in shown(url)
        assert secret not in _texts(url)


def _texts(url: str) -> str:
    try:
        broker = MqttBroker(url)
    except ConfigError as exc:
        return str(exc)
    return repr(broker) + repr(broker.options) + broker.options.address


@each_row(
    ("kwargs", "named"),
    [
        ({"protocol": "4"}, "protocol '4'"),
        ({"keepalive_s": 0}, "keepalive_s 0"),
        ({"keepalive_s": 1.5}, "keepalive_s 1.5"),
        ({"keepalive_s": 70_000}, "keepalive_s 70000"),
        ({"connect_timeout_s": 0}, "connect_timeout_s 0"),
        ({"connect_timeout_s": float("nan")}, "connect_timeout_s nan"),
        ({"client_id": ""}, "client_id is empty"),
        ({"max_pending": 0}, "max_pending 0"),
        ({"ca": "ca.pem"}, "use mqtts://"),
        ({"password": "pw"}, "password without a username"),
        ({"will": ("agents/+/status", {})}, "wildcard"),
    ],
)
def test_a_wrong_value_is_named(kwargs: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named.replace(".", r"\.").replace("+", r"\+")):
        MqttBroker("mqtt://host", **kwargs)


def test_every_wrong_value_is_named_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        MqttBroker("mqtt://host", protocol="4", keepalive_s=0, client_id="")
    assert len(caught.value.problems) == 3


def test_files_that_are_missing_or_hold_no_certificate_are_named(tmp_path: Path) -> None:
    junk = tmp_path / "junk.pem"
    junk.write_text("no certificate")
    for kwargs in (
        {"ca": tmp_path / "none.pem"},
        {"cert": tmp_path / "none.pem"},
        {"ca": junk},
        {"cert": junk},
    ):
        with pytest.raises(ConfigError, match=r"none\.pem|junk\.pem"):
            MqttBroker("mqtts://host", **kwargs)
    with pytest.raises(ConfigError, match="key without cert"):
        MqttBroker("mqtts://host", key=junk)


def test_client_ids_are_made_unique() -> None:
    ids = {_options("mqtt://host").client_id for _ in range(100)}
    assert len(ids) == 100
    assert all(len(i) <= 23 for i in ids), "MQTT 3.1.1 lets a broker refuse longer ones"


@pytest.mark.parametrize(
    ("url", "warned"),
    [
        ("mqtt://u:S3CR3T@broker.example", True),
        ("mqtt://u:S3CR3T@192.0.2.1", True),
        ("mqtts://u:S3CR3T@broker.example", False),
        ("mqtt://u:S3CR3T@127.0.0.1", False),
        ("mqtt://u:S3CR3T@localhost", False),
        ("mqtt://broker.example", False),
    ],
)
def test_a_password_that_would_travel_unencrypted_is_warned_of(
    url: str, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    MqttBroker(url)
    assert ("unencrypted" in caplog.text) is warned
    assert "S3CR3T" not in caplog.text


def test_settings_come_from_the_environment_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text("p w\nnot this\n")
    monkeypatch.setenv("HERON_MQTT_USERNAME", "ann")
    monkeypatch.setenv("HERON_MQTT_PASSWORD_FILE", str(secret))
    monkeypatch.setenv("HERON_MQTT_PROTOCOL", "5")
    monkeypatch.setenv("HERON_MQTT_KEEPALIVE_S", "7")
    options = _options("mqtt://h")
    assert (options.username, options.password, options.protocol, options.keepalive_s) == (
        "ann",
        "p w",
        "5",
        7,
    )
    options = _options("mqtt://h", protocol="3.1.1", keepalive_s=3, password="other")
    assert (options.password, options.protocol, options.keepalive_s) == ("other", "3.1.1", 3)


def test_a_child_process_gets_settings_and_login_by_its_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    secret = tmp_path / "password"
    secret.write_text("pw")
    options = _options("mqtt://h", username="ann", password_file=secret, protocol="5", keepalive_s=9)
    for name, value in options.login_environment().items():
        monkeypatch.setenv(name, value)
    child = _options(options.address)
    assert (child.username, child.password, child.protocol, child.keepalive_s) == ("ann", "pw", "5", 9)
    assert "pw" not in repr(options)


@pytest.mark.parametrize(
    ("kwargs", "named"),
    [
        ({"password_file": "no/such"}, "password_file 'no/such': cannot be read: No such file"),
        (
            {"username": "a", "password_file": "/dev/null"},
            "password_file '/dev/null': its first line is empty",
        ),
    ],
)
def test_a_password_file_that_holds_none_is_named(kwargs: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        MqttBroker("mqtt://host", **kwargs)


@pytest.mark.parametrize("value", ["0", "x", "1.5"])
def test_a_wrong_value_of_the_environment_is_named(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("HERON_MQTT_KEEPALIVE_S", value)
    with pytest.raises(ConfigError, match=r"keepalive_s .* expected whole seconds"):
        MqttBroker("mqtt://host")
