"""The page with control: login, session, and a socket on which requests come in.

A request is accepted only from a socket that fulfils three conditions: (1) its Origin is our own page; (2) it
has the cookie of a session, which no script can read and no other site sends; (3) it has begun with the
session's token.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
from collections.abc import Mapping
from http import HTTPStatus
from http.cookies import CookieError, SimpleCookie

from websockets.asyncio.server import ServerConnection
from websockets.datastructures import Headers
from websockets.http11 import Response

from heron_mqtt.dashboard.control.commands import Commands, levels_and_gates
from heron_mqtt.dashboard.control.control_users import ControlUsers, TooManyWait
from heron_mqtt.dashboard.control.sessions import LoginLimit, Session, Sessions, is_same
from heron_mqtt.dashboard.live_source import LiveSource
from heron_mqtt.dashboard.pages import JSON, StaticFiles, answer
from heron_mqtt.dashboard.sockets import Serve
from heron_mqtt.errors import DataError
from heron_mqtt.field.emergency_stop import ALWAYS
from heron_mqtt.json_object import Json

log = logging.getLogger("heron_mqtt.dashboard")

FIRST_WORD_S = 10.0
CHECK_S = 5.0  # how soon a browser learns that its session has run out
LOGINS = 8
"""Logins that have not said anything yet; the oldest gives way to one more."""
AT_ONCE = 4  # requests of one socket under way, stops not counted
COOKIE = "heron_session"


class ControlledSource:
    """A live source that people may also control.

    Args:
        live: What the page shows.
        people: Who may log in.
        commands: Carries requests out.
        is_tls: Whether the page is served by TLS.
    """

    def __init__(
        self, live: LiveSource, people: ControlUsers, commands: Commands, *, is_tls: bool = False
    ) -> None:
        self._is_tls = is_tls
        clock = asyncio.get_running_loop().time
        self._live = live
        self._people = people
        self._commands = commands
        self._sessions = Sessions(clock)
        self._limit = LoginLimit(clock)
        self._silent_logins: list[ServerConnection] = []
        self._files = StaticFiles({"/views/control.js": "dashboard/static/views/control.js"})
        live.has_control = True
        self.sockets: Mapping[str, Serve] = {
            **live.sockets,
            "/login": self._login,
            "/control": self._control,
        }

    def refuse(self, path: str, headers: Headers) -> Response | None:
        """Refuse a socket before it begins; None = it may begin."""
        if path == "/control" and self._session(headers) is None:
            return answer(HTTPStatus.UNAUTHORIZED, "log in first\n")
        return None

    def has_logged_in(self, headers: Headers) -> bool:
        """Whether a request has the cookie of a session."""
        return self._sessions.peek(self._key(headers)) is not None

    def respond(self, path: str, query: str, headers: Headers) -> Response | None:
        """Answer what is no socket; None = no such path."""
        if path == "/session":
            return self._respond_session(headers)
        return self._files.answer(path) or self._live.respond(path, query, headers)

    # -- login -------------------------------------------------------------------------------------

    def _respond_session(self, headers: Headers) -> Response:
        """Change a ticket into a cookie, or say whose cookie this is.

        Another site's page cannot send our headers without being asked first, and is not answered then.
        """
        if headers.get("Sec-Fetch-Site", "same-origin") != "same-origin" or "X-Heron-Page" not in headers:
            return answer(HTTPStatus.FORBIDDEN, "only its own page may ask\n")
        if ticket := headers.get("X-Heron-Ticket"):
            begun = self._sessions.begin(ticket)
            if begun is None:
                return answer(HTTPStatus.UNAUTHORIZED, "the login is over: log in again\n")
            key, session = begun
            self._sessions.end(self._key(headers))  # the one that this browser had before
            secure = "; Secure" if self._is_tls else ""
            cookie = f"{self._cookie(headers)}={key}; Path=/; HttpOnly; SameSite=Strict{secure}"
            return answer(HTTPStatus.OK, json.dumps(_about(session)), JSON, Set_Cookie=cookie)
        found = self._session(headers)
        return answer(HTTPStatus.OK, json.dumps(None if found is None else _about(found)), JSON)

    def _session(self, headers: Headers) -> Session | None:
        return self._sessions.of(self._key(headers))

    def _key(self, headers: Headers) -> str | None:
        try:
            found = SimpleCookie(headers.get("Cookie", "")).get(self._cookie(headers))
        except CookieError:
            return None
        return None if found is None else found.value

    @staticmethod
    def _cookie(headers: Headers) -> str:
        """Return the cookie's name, with the port: a browser sends cookies to every port of a host."""
        return f"{COOKIE}_{headers.get('Host', '').rpartition(':')[2]}"

    async def _login(self, connection: ServerConnection, _query: str) -> None:
        """Take a name and a password; answer with a ticket, or with why not."""
        if not _is_private(connection):
            await connection.close(1008, "a password is accepted only over TLS or on this machine")
            return
        if len(self._silent_logins) >= LOGINS:
            self._silent_logins.pop(0).transport.abort()
        self._silent_logins.append(connection)
        try:
            async with asyncio.timeout(FIRST_WORD_S):
                said = _object(await connection.recv())
        finally:
            if connection in self._silent_logins:
                self._silent_logins.remove(connection)
        name, password = said.get("name"), said.get("password")
        if not isinstance(name, str) or not isinstance(password, str):
            await connection.close(1008, "expected name and password")
            return
        await connection.send(json.dumps(await self._checked(_host(connection), name, password)))

    async def _checked(self, host: str, name: str, password: str) -> Json:
        keys = (f"host {host}", f"name {name[:200]}")
        wait_s = self._limit.wait_s(*keys)
        if wait_s > 0.0:
            return {"error": f"too many wrong passwords: try again in {wait_s:.0f} s"}
        self._limit.failed(*keys)  # before the hash is computed: attempts side by side all count
        try:
            is_right = await self._people.check(name, password)
        except TooManyWait:
            return {"error": "too many logins wait: try again"}
        except DataError as exc:
            log.warning("login: %s", exc)
            return {"error": "the credentials cannot be read: see the page's log"}
        if not is_right:
            log.warning("login of %r from %s refused", name[:200], host)
            return {"error": "wrong name or password, or no right to control"}
        self._limit.succeeded(*keys)
        log.warning("%s has logged in from %s", name, host, extra=ALWAYS)
        return {"ticket": self._sessions.ticket(name)}

    # -- requests ----------------------------------------------------------------------------------

    async def _control(self, connection: ServerConnection, _query: str) -> None:
        assert connection.request is not None
        key = self._key(connection.request.headers)
        session = self._sessions.of(key)
        async with asyncio.timeout(FIRST_WORD_S):
            first = _object(await connection.recv())
        if session is None or not is_same(first.get("csrf"), session.csrf):
            await connection.close(1008, "not from the page that logged in")
            return
        await connection.send(json.dumps({"who": session.who, **levels_and_gates()}))
        under_way: set[asyncio.Task[None]] = set()
        try:
            while True:
                try:
                    async with asyncio.timeout(CHECK_S):
                        text = await connection.recv()
                except TimeoutError:
                    if self._sessions.peek(key) is not None:
                        continue
                    await connection.close(1008, "the session is over")
                    return
                asked = _object(text)
                session = self._sessions.of(key)
                if session is None or not self._may_still(session.who):
                    over = {
                        "ok": False,
                        "text": "the session is over: nothing was done; log in again",
                        "lines": [],
                    }
                    await _reply(connection, asked, over)
                    await connection.close(1008, "the session is over")
                    return
                if asked.get("do") == "logout":
                    self._sessions.end(key)
                    return
                if len(under_way) >= AT_ONCE and asked.get("do") != "stop":
                    await _reply(
                        connection, asked, {"ok": False, "text": "busy: wait for the answers", "lines": []}
                    )
                    continue
                work = self._serve(connection, session.who, asked)
                task = asyncio.create_task(work, name=f"request of {session.who}")
                under_way.add(task)
                task.add_done_callback(under_way.discard)
        finally:
            # What was asked for is carried to its end: a stop is not taken back by closing the page.
            await asyncio.gather(*under_way, return_exceptions=True)

    def _may_still(self, who: str) -> bool:
        try:
            return self._people.may_control(who)
        except DataError as exc:
            log.warning("control: %s", exc)
            return False

    async def _serve(self, connection: ServerConnection, who: str, asked: Json) -> None:
        request = {name: value for name, value in asked.items() if name != "id"}
        log.warning("%s asks for %s", who, json.dumps(request, ensure_ascii=True)[:500], extra=ALWAYS)
        done = await self._commands.carry_out(who, request)
        log.warning("%s: %s", who, done["text"], extra=ALWAYS)
        await _reply(connection, asked, done)


async def _reply(connection: ServerConnection, asked: Json, done: Json) -> None:
    await connection.send(json.dumps({"id": asked.get("id"), **done}))


def _about(session: Session) -> Json:
    return {"who": session.who, "csrf": session.csrf}


def _is_private(connection: ServerConnection) -> bool:
    """Whether no third party can read what is sent: it goes by TLS, or does not leave this machine."""
    if connection.transport.get_extra_info("ssl_object") is not None:
        return True
    host = _host(connection).partition("%")[0]
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def _object(text: str | bytes) -> Json:
    """Return what a browser says; empty where it is no JSON object."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _host(connection: ServerConnection) -> str:
    address = connection.remote_address
    return str(address[0]) if address else "unknown"
