"""Control from the page: for users with the right, with proof, and for no others."""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.select import Select
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from heron_mqtt.app.live_view.view import LiveView
from heron_mqtt.app.operator_client import set_stop
from heron_mqtt.config import shipped_config
from heron_mqtt.dashboard.control import commands
from heron_mqtt.dashboard.control.commands import Commands
from heron_mqtt.messaging.embedded.auth.credentials import add_credentials
from support.browser import address_of, clicked, eventually, open_browser, severe, text
from support.heron_command import heron, run_heron
from support.mosquitto_clients import Watcher
from support.mosquitto_server import Mosquitto
from support.paho_site import Site

PASSWORD = "correct horse"
MARKUP = "<img src=x onerror=document.title='taken'>"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Credentials: ann is an operator, MG1 an agent."""
    folder = tmp_path_factory.mktemp("credentials")
    users, acl = folder / "users.txt", folder / "acl.txt"
    for name, role in (("ann", "operator"), ("MG1", "agent")):
        add_credentials(name, role, PASSWORD.encode(), users_file=users, acl_file=acl)
    return str(users), str(acl)


def _scenario(folder: Path) -> Path:
    """Write hil_battery as it is over a network that works, with devices that do."""
    shipped = shipped_config()
    text = (shipped / "hil_battery.toml").read_text("utf-8")
    text = re.sub(r"\[impairment\].*?(?=\[microgrids\.MG1\])", "", text, flags=re.DOTALL)
    text = text.replace('"profiles/', f'"{shipped}/profiles/').replace("steps = 96", "steps = 600")
    path = folder / "lab.toml"
    path.write_text(text, "utf-8")
    return path


@pytest.fixture(scope="module")
def page(
    file_mosquitto: Mosquitto, files: tuple[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The page of a run that goes on meanwhile."""
    run = ("run", str(_scenario(tmp_path_factory.mktemp("scenario"))), "--no-record")
    control = ("--control", "--users", files[0], "--acl", files[1])
    with heron(*run, "--broker", file_mosquitto.url) as program:
        program.wait_for("step ")
        with heron("dashboard", "--broker", file_mosquitto.url, "--port", "0", *control) as serving:
            yield address_of(serving)


@pytest.fixture(scope="module")
def browser(page: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    """A browser in which ann has logged in."""
    with open_browser(tmp_path_factory.mktemp("chromium")) as browser:
        browser.get(f"{page}/#control")
        eventually(lambda: browser.find_elements(By.CSS_SELECTOR, "form.login"))
        _log_in(browser, "ann", "wrong")
        eventually(lambda: "wrong name or password" in text(browser, "form.login"))
        _log_in(browser, "ann", PASSWORD)
        eventually(lambda: "ann" in text(browser, "#person"))
        yield browser


def _log_in(browser: webdriver.Chrome, name: str, password: str) -> None:
    for field, value in zip(
        browser.find_elements(By.CSS_SELECTOR, "form.login input"), (name, password), strict=True
    ):
        field.clear()
        field.send_keys(value)
    browser.find_element(By.CSS_SELECTOR, "form.login button").click()


def _confirm(browser: webdriver.Chrome, why: str) -> str:
    """Confirm what is asked; return what the question said."""
    eventually(lambda: browser.find_elements(By.CSS_SELECTOR, "dialog[open]"))
    said = text(browser, "dialog")
    browser.find_element(By.CSS_SELECTOR, "dialog input").send_keys(why)
    browser.find_element(By.CSS_SELECTOR, "dialog button.danger").click()
    return said


def _choose(browser: webdriver.Chrome, device: str) -> None:
    browser.get(browser.current_url.partition("#")[0] + "#control")
    eventually(lambda: device in text(browser, ".control select"))
    Select(browser.find_element(By.CSS_SELECTOR, ".control select")).select_by_visible_text(device)


def test_a_stop_is_confirmed_proven_and_released_in_the_name_of_the_person(
    browser: webdriver.Chrome, file_mosquitto: Mosquitto
) -> None:
    with Watcher(file_mosquitto.url) as watcher:
        eventually(lambda: clicked(browser, "#person button.danger"))
        eventually(lambda: browser.find_elements(By.CSS_SELECTOR, "dialog[open]"))
        assert browser.switch_to.active_element.text == "cancel", "the safe answer has the focus"
        browser.switch_to.active_element.click()
        eventually(lambda: not browser.find_elements(By.CSS_SELECTOR, "dialog"))
        assert not [seen for seen in watcher.seen if seen.topic.endswith("/estop")]

        assert clicked(browser, "#person button.danger")
        said = _confirm(browser, "smoke")
        assert "goes to its safe state at once and refuses setpoints until the stop is released" in said
        assert "MG1/ess" in said
        stop = watcher.wait_seen("heron/hil_battery/estop", lambda m: m["active"])
        assert (stop["who"], stop["why"], stop["sender"]) == ("ann", "smoke", "operator-ann")
        eventually(
            lambda: "emergency stop pressed in hil_battery, confirmed by all" in text(browser, "#result")
        )
        assert "gateway MG1: confirmed" in text(browser, "#result")
        eventually(lambda: "EMERGENCY STOP in hil_battery, by ann: smoke" in text(browser, "#stop"))

        eventually(lambda: clicked(browser, "#person button:not(.danger)"))
        assert "they may begin to move" in _confirm(browser, "all clear")
        watcher.wait_seen("heron/hil_battery/estop", lambda m: not m["active"])
        eventually(lambda: "emergency stop released in hil_battery" in text(browser, "#result"))
        eventually(lambda: text(browser, "#stop") == "")


def test_an_event_is_acknowledged_by_name(browser: webdriver.Chrome, page: str) -> None:
    browser.get(f"{page}/#events")
    eventually(lambda: clicked(browser, "tbody button.small"))
    eventually(lambda: "ann, " in text(browser, "tbody"))


def test_authority_shows_its_gates_before_it_is_asked_for(browser: webdriver.Chrome) -> None:
    _choose(browser, "MG2/ess")
    level = Select(browser.find_elements(By.CSS_SELECTOR, ".control select")[1])
    level.select_by_visible_text("full")
    eventually(
        lambda: "ladder: full is reached from limited, not from shadow" in text(browser, ".control ul")
    )
    browser.find_element(By.CSS_SELECTOR, ".control form button[type=submit]").click()
    assert "Setpoints move MG2/ess over its whole nameplate" in _confirm(browser, "try")
    eventually(lambda: "MG2/ess: refused: gate" in text(browser, "#result"))
    level.select_by_visible_text("simulated")
    eventually(lambda: "no gate: it is granted" in text(browser, ".control ul"))
    browser.find_element(By.CSS_SELECTOR, ".control form button[type=submit]").click()
    _confirm(browser, "back to the model")
    eventually(lambda: "MG2/ess: simulated" in text(browser, "#result"))


def test_a_device_is_taken_in_hand_and_given_back(
    browser: webdriver.Chrome, file_mosquitto: Mosquitto
) -> None:
    _choose(browser, "MG1/ess")
    form = browser.find_elements(By.CSS_SELECTOR, ".control form")[1]
    power = form.find_element(By.CSS_SELECTOR, "input")
    power.clear()
    power.send_keys("2")
    with Watcher(file_mosquitto.url) as watcher:
        form.find_element(By.CSS_SELECTOR, "button[type=submit]").click()
        assert "MG1/ess is told 2.00 kW (into the grid) for 10 min" in _confirm(browser, "a look")
        state = watcher.wait_seen(
            "heron/hil_battery/devices/MG1/ess/authority_state", lambda m: m.get("manual_by")
        )
        assert (state["manual_by"], state["manual_p_mw"]) == ("ann", 0.002)
        eventually(lambda: "under manual control of ann" in text(browser, ".control"))
        form.find_element(By.CSS_SELECTOR, "button[type=button]").click()
        _confirm(browser, "done")
        watcher.wait_seen(
            "heron/hil_battery/devices/MG1/ess/authority_state", lambda m: not m.get("manual_by")
        )
    eventually(lambda: "under manual control of" not in text(browser, ".control"))


def test_a_fault_reaches_an_emulator_and_no_other_device(
    browser: webdriver.Chrome, file_mosquitto: Mosquitto
) -> None:
    _choose(browser, "MG1/ess")
    form = browser.find_elements(By.CSS_SELECTOR, ".control form")[2]
    with Watcher(file_mosquitto.url) as watcher:
        form.find_element(By.CSS_SELECTOR, "button[type=submit]").click()
        assert "has the fault silence for 1 steps" in _confirm(browser, "drill")
        fault = watcher.wait_seen("heron/hil_battery/devices/MG1/ess/fault")
        assert (fault["kind"], fault["sender"]) == ("silence", "operator-ann")
    eventually(lambda: "the broker has delivered the fault silence" in text(browser, "#result"))
    _choose(browser, "MG2/ess")
    eventually(lambda: not form.find_element(By.CSS_SELECTOR, "button[type=submit]").is_enabled())


def test_logging_out_takes_the_buttons_away_and_nothing_was_wrong(browser: webdriver.Chrome) -> None:
    assert severe(browser) == []
    browser.find_elements(By.CSS_SELECTOR, "#person button")[-1].click()
    eventually(lambda: text(browser, "#person") == "")
    browser.refresh()
    eventually(lambda: browser.find_elements(By.CSS_SELECTOR, "form.login"))
    assert text(browser, "#person") == ""


# -- who may not ---------------------------------------------------------------------------------------


def _ticket(page: str, name: str, password: str) -> dict[str, Any]:
    with connect(f"ws://{page.removeprefix('http://')}/login", origin=page) as login:
        login.send(json.dumps({"name": name, "password": password}))
        return dict(json.loads(login.recv()))


def _session(page: str, **headers: str) -> tuple[int, str, dict[str, Any]]:
    connection = http.client.HTTPConnection(page.removeprefix("http://"))
    connection.request(
        "GET", "/session", headers={name.replace("_", "-"): value for name, value in headers.items()}
    )
    answer = connection.getresponse()
    body = answer.read()
    return answer.status, answer.getheader("Set-Cookie", ""), json.loads(body) if answer.status == 200 else {}


def _cookie_of(page: str) -> tuple[str, str]:
    status, cookie, about = _session(
        page, X_Heron_Page="1", X_Heron_Ticket=_ticket(page, "ann", PASSWORD)["ticket"]
    )
    assert status == 200
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    return cookie.partition(";")[0], about["csrf"]


def _control(page: str, cookie: str | None, origin: str | None = None) -> ClientConnection:
    headers = {} if cookie is None else {"Cookie": cookie}
    url = f"ws://{page.removeprefix('http://')}/control"
    return connect(url, origin=origin or page, additional_headers=headers)


def test_without_cookie_origin_or_token_no_request_is_taken(page: str, file_mosquitto: Mosquitto) -> None:
    cookie, csrf = _cookie_of(page)
    with pytest.raises(InvalidStatus) as refused:
        _control(page, None)
    assert refused.value.response.status_code == 401
    with pytest.raises(InvalidStatus) as refused:
        _control(page, cookie, origin="http://evil.example")
    assert refused.value.response.status_code == 403
    stop = json.dumps({"do": "stop", "env_id": "hil_battery", "id": 1})
    with Watcher(file_mosquitto.url) as watcher:
        for first in (json.dumps({"csrf": "guessed"}), stop, "[]", "x"):
            with _control(page, cookie) as socket:
                socket.send(first)
                with pytest.raises(ConnectionClosed):
                    socket.recv()
                assert socket.close_code == 1008
        with _control(page, cookie) as socket:
            socket.send(json.dumps({"csrf": csrf}))
            assert json.loads(socket.recv())["who"] == "ann"
            for wrong in (
                {"do": "stop"},
                {"do": "erase"},
                {"do": "take", "env_id": "e", "device": "d", "for_s": -1},
            ):
                socket.send(json.dumps({"id": 7, **wrong}))
                answer = json.loads(socket.recv())
                assert (answer["id"], answer["ok"]) == (7, False)
        assert not [seen for seen in watcher.seen if seen.topic.endswith("/estop") and not seen.retained]


def test_a_ticket_is_good_once_and_only_for_its_own_page(page: str) -> None:
    ticket = _ticket(page, "ann", PASSWORD)["ticket"]
    assert _session(page, X_Heron_Ticket=ticket)[0] == 403
    assert _session(page, X_Heron_Page="1", X_Heron_Ticket=ticket, Sec_Fetch_Site="cross-site")[0] == 403
    assert _session(page, X_Heron_Page="1", X_Heron_Ticket=ticket)[0] == 200
    assert _session(page, X_Heron_Page="1", X_Heron_Ticket=ticket)[0] == 401
    assert _session(page, X_Heron_Page="1", Cookie="heron_session_1=made-up")[2] is None


def test_who_may_not_stop_everything_may_not_log_in(page: str) -> None:
    assert _ticket(page, "MG1", PASSWORD)["error"] == "wrong name or password, or no right to control"
    assert _ticket(page, "nobody", PASSWORD)["error"] == "wrong name or password, or no right to control"


def test_a_person_who_is_removed_can_do_nothing_more(
    file_mosquitto: Mosquitto, files: tuple[str, str], tmp_path: Path
) -> None:
    users, acl = tmp_path / "users.txt", tmp_path / "acl.txt"
    for name in ("ann", "bob"):
        add_credentials(name, "operator", PASSWORD.encode(), users_file=users, acl_file=acl)
    arguments = ("--control", "--users", str(users), "--acl", str(acl))
    with heron("dashboard", "--broker", file_mosquitto.url, "--port", "0", *arguments) as program:
        page = address_of(program)
        cookie, csrf = _cookie_of(page)
        with _control(page, cookie) as socket:
            socket.send(json.dumps({"csrf": csrf}))
            socket.recv()
            assert (
                run_heron("credentials", "remove", "ann", "--users", str(users), "--acl", str(acl)).code == 0
            )
            socket.send(json.dumps({"do": "stop", "env_id": "hil_battery", "id": 1}))
            over = json.loads(socket.recv())
            assert (over["ok"], over["text"]) == (
                False,
                "the session is over: nothing was done; log in again",
            )
            with pytest.raises(ConnectionClosed):
                socket.recv()
            assert socket.close_code == 1008
        for _ in range(6):
            said = _ticket(page, "bob", "guess")
        assert "too many wrong passwords: try again in" in said["error"]
        assert "too many wrong passwords" in _ticket(page, "bob", PASSWORD)["error"]


async def test_a_stop_that_nobody_confirms_says_so_loudly(
    file_mosquitto: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the page shows of it, with a shorter wait than the page's."""
    monkeypatch.setattr(commands, "set_stop", partial(set_stop, wait_s=0.2))
    page = Commands(file_mosquitto.url, LiveView(file_mosquitto.url))
    answer = await page.carry_out("ann", {"do": "stop", "env_id": "empty", "why": "nobody there"})
    assert answer["ok"] is False
    assert "NOT CONFIRMED BY ALL" in answer["text"]
    assert answer["lines"] == ["no gateway or device is known there"]


def test_without_control_there_is_no_way_to_write(file_mosquitto: Mosquitto) -> None:
    with heron("dashboard", "--broker", file_mosquitto.url, "--port", "0") as program:
        page = address_of(program)
        for path in ("/session", "/login", "/control", "/views/control.js"):
            connection = http.client.HTTPConnection(page.removeprefix("http://"))
            connection.request("GET", path)
            assert connection.getresponse().status == 404
        for path in ("/login", "/control"):
            with pytest.raises(InvalidStatus) as refused:
                connect(f"ws://{page.removeprefix('http://')}{path}", origin=page)
            assert refused.value.response.status_code == 404


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--host", "0.0.0.0"], "--control with --host 0.0.0.0: passwords would cross the network readable"),
        (["--users", "nothing.txt"], "nothing.txt: cannot be read"),
        (["--run", "day.heron"], "expected --broker URL"),
    ],
)
def test_control_that_cannot_be_safe_is_refused_in_one_line(
    file_mosquitto: Mosquitto, files: tuple[str, str], arguments: list[str], why: str
) -> None:
    given = ["--broker", file_mosquitto.url, "--control", "--users", files[0], "--acl", files[1], *arguments]
    done = run_heron("dashboard", *given)
    assert done.code in {1, 2}
    assert len(done.errors) == 1
    assert why in done.errors[0]


def test_names_and_reasons_are_text_and_cannot_turn_the_writing_round(
    browser: webdriver.Chrome, file_mosquitto: Mosquitto, page: str
) -> None:
    turned, long = "a\u202eb", "long " * 50
    with Site(file_mosquitto.url, "lab") as site:
        site.say("run/state", {"type": "run_state", "state": "running", "boot": MARKUP, "scenario": MARKUP})
        for name in (MARKUP, turned, long):
            status = {"type": "status", "state": "fault", "reason": MARKUP}
            site.say(f"devices/{MARKUP}/{name}/status", status, retain=True)
            site.say(f"agents/{name}/status", status, retain=True)
        site.say("estop", {"type": "estop", "active": True, "who": MARKUP, "why": long})
        for view in ("overview", "devices", "messages", "events"):
            browser.get(f"{page}/#{view}")
            eventually(lambda: MARKUP in text(browser))
            assert browser.title == "heron-mqtt"
            assert not browser.find_elements(By.CSS_SELECTOR, "img")
            assert "\u202e" not in text(browser)
            wide = "return document.documentElement.scrollWidth > innerWidth"
            assert not browser.execute_script(wide), f"{view} is wider than the window"
        assert severe(browser) == []
