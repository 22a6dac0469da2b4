"""A name that is not the page's own gets nothing, however it was made to lead here."""

from __future__ import annotations

import socket

import pytest

from heron_mqtt.dashboard.own_names import OwnNames
from heron_mqtt.errors import ConfigError

FOR_ALL = OwnNames("0.0.0.0", ["grid.lab", "Plant.lab:8443"])
LOCAL = OwnNames("127.0.0.1")


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8700", "127.0.0.1.evil.example", "", "[", "a b"]
)
def test_a_foreign_name_is_none_of_ours_wherever_the_page_listens(host: str) -> None:
    assert not FOR_ALL.include(host)
    assert not LOCAL.include(host)


@pytest.mark.parametrize(
    "host",
    [
        "192.0.2.7:8700",
        "[2001:db8::1]:8700",
        "localhost:8700",
        "GRID.lab",
        "plant.lab:8443",
        "grid.lab.:80",
        socket.gethostname(),
    ],
)
def test_addresses_and_own_names_are_ours_where_the_page_listens_for_others(host: str) -> None:
    assert FOR_ALL.include(host)


@pytest.mark.parametrize(
    ("host", "is_ours"),
    [("localhost:1", True), ("127.0.0.1:1", True), ("[::1]:1", True), ("192.0.2.7:1", False)],
)
def test_a_page_for_this_machine_has_no_other_address(host: str, is_ours: bool) -> None:
    assert LOCAL.include(host) == is_ours


def test_by_tls_the_certificate_says_who_we_are() -> None:
    assert OwnNames("0.0.0.0", is_secured=True).include("broker.lab:8700")


@pytest.mark.parametrize("name", ["https://grid.lab", "grid.lab/page", "", "[", "ann@grid.lab"])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="expected a name of this page"):
        OwnNames("0.0.0.0", [name])
