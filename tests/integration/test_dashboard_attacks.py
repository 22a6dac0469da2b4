"""A client without rights at the page: what is no request, what is too much, and what pretends to be ours.

``test_dashboard_control.py``, which has a browser, tries what is no text.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from heron_mqtt.dashboard.connection_limit import MAX_CONNECTIONS
from heron_mqtt.dashboard.control.source import LOGINS
from heron_mqtt.dashboard.server import MAX_SOCKETS
from heron_mqtt.messaging.embedded.auth.credentials import add_credentials
from support.browser import address_of, eventually
from support.certificates import Certificates, key_of
from support.heron_command import Program, heron, run_heron
from support.mosquitto_server import Mosquitto

PASSWORD = "correct horse"


@pytest.fixture(scope="module")
def control(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """The options of a page on which ann may log in."""
    folder = tmp_path_factory.mktemp("credentials")
    users, acl = folder / "users.txt", folder / "acl.txt"
    add_credentials("ann", "operator", PASSWORD.encode(), users_file=users, acl_file=acl)
    return "--control", "--users", str(users), "--acl", str(acl)


@pytest.fixture(scope="module")
def program(file_mosquitto: Mosquitto, control: tuple[str, ...]) -> Iterator[Program]:
    with heron("dashboard", "--broker", file_mosquitto.url, "--port", "0", *control) as program:
        address_of(program)
        yield program


@pytest.fixture(scope="module")
def page(program: Program) -> str:
    return address_of(program)


def _host(page: str) -> str:
    return page.partition("://")[2]


def _status(page: str) -> int:
    connection = http.client.HTTPConnection(_host(page), timeout=20.0)
    connection.request("GET", "/")
    with contextlib.closing(connection):
        return connection.getresponse().status


def _logged_in(page: str, tls: ssl.SSLContext | None = None) -> tuple[str, dict[str, Any]]:
    """Return the whole cookie, and what the page is told of the session."""
    host, scheme = _host(page), "ws" if tls is None else "wss"
    with connect(f"{scheme}://{host}/login", origin=page, ssl=tls) as login:
        login.send(json.dumps({"name": "ann", "password": PASSWORD}))
        ticket = json.loads(login.recv())["ticket"]
    made = http.client.HTTPConnection(host) if tls is None else http.client.HTTPSConnection(host, context=tls)
    made.request("GET", "/session", headers={"X-Heron-Page": "1", "X-Heron-Ticket": ticket})
    answer = made.getresponse()
    return answer.getheader("Set-Cookie", ""), json.loads(answer.read())


def _raw(page: str, sent: bytes) -> socket.socket:
    host, _, port = _host(page).partition(":")
    made = socket.create_connection((host, int(port)), timeout=10.0)
    made.sendall(sent)
    return made


def _heard(made: socket.socket) -> bytes:
    try:
        return made.recv(100)
    except OSError:
        return b""


def test_what_is_no_request_is_refused_and_leaves_no_traceback(page: str, program: Program) -> None:
    host = _host(page).encode()
    before = len(program.err)
    for sent in (
        b"POST / HTTP/1.1\r\nHost: " + host + b"\r\nContent-Length: 5\r\n\r\nhello",
        b"GET " + b"a" * 9000 + b" HTTP/1.1\r\n\r\n",
        b"GET http://[ HTTP/1.1\r\nHost: " + host + b"\r\n\r\n",
        b"GET /live HTTP/1.1\r\nHost: " + host + b"\r\nOrigin: http://[\r\n\r\n",
        b"GET /live HTTP/1.1\r\nHost: evil.example\r\nOrigin: http://evil.example\r\n\r\n",
        b"\x16\x03\x01\x02\x00\r\n\r\n",
        *(
            b"GET " + path + b" HTTP/1.1\r\nHost: " + host + b"\r\n" + 2 * (header + b"\r\n") + b"\r\n"
            for path in (b"/", b"/session", b"/live")
            for header in (
                *(b"Host: " + host, b"Origin: http://" + host, b"Cookie: a=b", b"Sec-Fetch-Site: none"),
                *(b"X-Heron-Page: 1", b"X-Heron-Ticket: x", b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="),
            )
        ),
        *(
            b"GET /live HTTP/1.1\r\nHost: " + host + b"\r\nOrigin: http://" + host + b"\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
            + said
            + b"\r\n\r\n"
            for said in (
                b"Connection: Upgrade\r\nUpgrade: \xff",
                b"Upgrade: websocket\r\nConnection: \xff",
                b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Protocol: \xff",
                b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Extensions: \xff",
            )
        ),
        b"GET /live HTTP/1.1\r\nHost: " + host + b"\r\nSec-WebSocket-Key: \xff\xfe\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: " + host + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: " + host + b"\xff\r\n\r\n",
    ):
        with _raw(page, sent) as made:
            answer = made.recv(100)
            assert not answer or answer.split()[1] in {b"400", b"403"}, (sent[:30], answer)
    assert _status(page) == 200
    assert program.err[before:] == []


def test_what_comes_behind_a_request_before_its_answer_is_not_read(page: str, program: Program) -> None:
    before = len(program.err)
    request = b"GET / HTTP/1.1\r\nHost: " + _host(page).encode() + b"\r\n\r\n"
    for behind in (request, b"\xff" * 50, b"\0" * 50, b"\x88\x80\0\0\0\0", b"5\r\nhello\r\n0\r\n\r\n"):
        with _raw(page, request + behind) as made:
            assert made.recv(100).startswith(b"HTTP/1.1 200 OK"), behind
    for at in range(1, len(request)):  # in two pieces, cut anywhere
        with _raw(page, request[:at]) as made:
            made.sendall(request[at:] + b"\xff")
            assert made.recv(100).startswith(b"HTTP/1.1 200 OK"), at
    assert program.err[before:] == []


def test_a_cookie_of_another_program_on_the_host_keeps_nobody_out(page: str) -> None:
    request = b"GET /session HTTP/1.1\r\nHost: " + _host(page).encode() + b"\r\nX-Heron-Page: 1\r\n"
    with _raw(page, request + b"Cookie: theirs=\xc3\xa9\xff\r\n\r\n") as made:
        assert made.recv(100).split()[1] == b"200"


def test_connections_that_say_nothing_give_way_to_a_person(page: str) -> None:
    with contextlib.ExitStack() as held:
        for _ in range(MAX_CONNECTIONS + 40):
            with contextlib.suppress(OSError):
                held.enter_context(_raw(page, b"GET / HTTP/1.1\r\nHost: "))
        assert _status(page) == 200


def test_browsers_that_only_read_keep_nobody_out_who_has_logged_in(page: str) -> None:
    host = _host(page)
    cookie, about = _logged_in(page)
    with contextlib.ExitStack() as held:
        for _ in range(LOGINS + 2):
            held.enter_context(connect(f"ws://{host}/login", origin=page))
        eventually(lambda: _fill(held, page, host))
        headers = {"Cookie": cookie.partition(";")[0]}
        with connect(f"ws://{host}/control", origin=page, additional_headers=headers) as mine:
            mine.send(json.dumps({"csrf": about["csrf"]}))
            assert json.loads(mine.recv())["who"] == "ann"


def _fill(held: contextlib.ExitStack, page: str, host: str) -> bool:
    """Open sockets until none is let in any more."""
    for _ in range(MAX_SOCKETS + 1):
        try:
            held.enter_context(connect(f"ws://{host}/live?view=events", origin=page))
        except InvalidStatus as exc:
            return exc.response.status_code == 503
    return False


def test_a_new_login_ends_the_session_that_the_browser_had(page: str) -> None:
    old = _logged_in(page)[0].partition(";")[0]
    host = _host(page)
    with connect(f"ws://{host}/login", origin=page) as login:
        login.send(json.dumps({"name": "ann", "password": PASSWORD}))
        ticket = json.loads(login.recv())["ticket"]
    asked = {"X-Heron-Page": "1", "Cookie": old}
    made = http.client.HTTPConnection(host)
    made.request("GET", "/session", headers={**asked, "X-Heron-Ticket": ticket})
    assert made.getresponse().getheader("Set-Cookie", "").partition(";")[0] != old
    again = http.client.HTTPConnection(host)
    again.request("GET", "/session", headers=asked)
    assert json.loads(again.getresponse().read()) is None


def test_the_page_cannot_be_framed_or_read_by_another_site(page: str) -> None:
    made = http.client.HTTPConnection(_host(page))
    made.request("GET", "/")
    headers = made.getresponse().headers
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert headers["Access-Control-Allow-Origin"] is None


def test_control_from_elsewhere_goes_by_tls_with_a_cookie_that_plain_http_never_sees(
    file_mosquitto: Mosquitto, control: tuple[str, ...], tmp_path: Path
) -> None:
    made = Certificates(tmp_path)
    files = ("--tls-cert", made.server, "--tls-key", key_of(made.server))
    arguments = ("--broker", file_mosquitto.url, "--port", "0", "--host", "0.0.0.0", *control, *files)
    with heron("dashboard", *arguments) as program:
        port = address_of(program).rpartition(":")[2]
        assert address_of(program).startswith("https://")
        cookie, about = _logged_in(f"https://localhost:{port}", made.client_context())
        assert "; Secure" in cookie
        assert about["who"] == "ann"
        with _raw(f"http://localhost:{port}", b"GET / HTTP/1.1\r\n\r\n") as plain:
            assert not _heard(plain).startswith(b"HTTP/1.1 2")
        with contextlib.ExitStack() as held:
            silent = [
                held.enter_context(_raw(f"http://localhost:{port}", b"")) for _ in range(MAX_CONNECTIONS + 40)
            ]
            silent[0].settimeout(5.0)  # a handshake may take longer
            with contextlib.suppress(ConnectionResetError):
                assert silent[0].recv(1) == b"", "without a word of TLS it counts, and the oldest gives way"
            made_by_person = http.client.HTTPSConnection(f"localhost:{port}", context=made.client_context())
            made_by_person.request("GET", "/")
            assert made_by_person.getresponse().status == 200
        assert _answer_to_early_request(port, made.client_context()).startswith(b"HTTP/1.1 200")
        assert [line for line in program.err if "has logged in" not in line] == []


def _answer_to_early_request(port: str, tls: ssl.SSLContext) -> bytes:
    """Ask in the same piece as the end of the handshake."""
    coming, going = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = tls.wrap_bio(coming, going, server_hostname="localhost")
    with _raw(f"http://localhost:{port}", b"") as made:
        while True:
            try:
                client.do_handshake()
                break
            except ssl.SSLWantReadError:
                made.sendall(going.read())
                coming.write(made.recv(65_536))
        client.write(b"GET / HTTP/1.1\r\nHost: localhost:" + port.encode() + b"\r\n\r\n")
        made.sendall(going.read())
        while True:
            try:
                return client.read(100)
            except ssl.SSLWantReadError:
                coming.write(made.recv(65_536))


def test_a_certificate_that_is_none_is_refused_in_one_line(file_mosquitto: Mosquitto, tmp_path: Path) -> None:
    wrong = tmp_path / "cert.pem"
    wrong.write_text("not a certificate")
    done = run_heron("dashboard", "--broker", file_mosquitto.url, "--tls-cert", str(wrong))
    assert (done.code, len(done.errors)) == (2, 1)
    assert f"--tls-cert, --tls-key: {wrong} is not a certificate" in done.errors[0]
    done = run_heron("dashboard", "--broker", file_mosquitto.url, "--tls-key", str(wrong))
    assert "--tls-key: expected --tls-cert with it" in done.errors[0]
