"""The page in a real browser: it lives, says what is wrong, and reads only.

What needs the browser is slow. Quicker: in test_dashboard_control.py the same views in a browser, drawn
without an error; here what the page may load, and what it is told; what is wrong, in tests/unit/app.
"""

from __future__ import annotations

import http.client
import json
import re
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from heron_mqtt.cli.live_page import live_page
from heron_mqtt.config import shipped_config
from support.browser import address_of, cell, clicked, eventually, open_browser, severe, text
from support.heron_command import heron, run_heron
from support.mosquitto_server import Mosquitto
from support.paho_site import Site
from support.recorded_runs import STEPS, record_run


@pytest.fixture(scope="module")
def site(file_mosquitto: Mosquitto) -> Iterator[Site]:
    """An environment of plain paho: a run, a gateway, a device that speaks."""
    with Site(file_mosquitto.url, "lab") as site:
        site.run_state()
        site.gateway("MG1")
        site.bare_device("MG1/ess")
        site.bare_device("MG1/pv")
        action = {"type": "action", "p_ess": 0.01, "soc_ess": 0.55, "missed": 0}
        site.say("agents/MG1/action", action)
        yield site


@pytest.fixture(scope="module")
def page(site: Site, file_mosquitto: Mosquitto) -> Iterator[str]:
    with heron("dashboard", "--broker", file_mosquitto.url, "--port", "0") as program:
        yield address_of(program)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    with open_browser(tmp_path_factory.mktemp("chromium"), requests=True) as browser:
        yield browser


@pytest.mark.slow
def test_it_lives_and_says_what_is_wrong(browser: webdriver.Chrome, page: str, site: Site) -> None:
    browser.get(f"{page}/#overview")
    eventually(lambda: text(browser, "#link") == "live")
    site.say("agents/MG1/action", {"type": "action", "p_ess": 0.01, "soc_ess": 0.61, "missed": 0})
    eventually(lambda: "61 %" in text(browser))
    browser.get(f"{page}/#devices")
    eventually(lambda: "online" in cell(browser, "tr[data-row='MG1/ess']"))
    site.say("estop", {"type": "estop", "active": True, "who": "ann", "why": "<b>smoke</b>"}, retain=True)
    eventually(lambda: "EMERGENCY STOP in lab, by ann: <b>smoke</b>" in text(browser, "#stop"))
    site.say("estop", {"type": "estop", "active": False, "who": "ann"}, retain=True)
    eventually(lambda: text(browser, "#stop") == "")
    browser.get(f"{page}/#events")
    eventually(lambda: "EMERGENCY STOP by ann" in text(browser))
    browser.get(f"{page}/#messages")
    eventually(lambda: "devices/+/+/telemetry" in text(browser))


@pytest.mark.slow
def test_the_network_is_drawn_and_told_to_who_cannot_see_it(
    browser: webdriver.Chrome, page: str, site: Site
) -> None:
    network = {
        "type": "network",
        "bus": ["North", "<i>South"],
        "bus_kv": [20.0, 0.4],
        "bus_agent": ["", "MG1"],
        "bus_x": [0.0, 1.0],
        "bus_y": [0.0, 0.0],
        "line": ["Cable 1"],
        "line_from": [0],
        "line_to": [1],
        "supply": [0],
        "device": ["MG1/ess"],
        "device_kind": ["battery"],
        "device_bus": [1],
    }
    site.say("run/network", network, retain=True)
    results = {"type": "grid_results", "vm_pu": [1.0, 0.93], "line_loading_percent": [120.0], "step": 4}
    site.say("run/grid", results, retain=True)
    browser.get(f"{page}/#overview")
    eventually(
        lambda: "lowest <i>South 0.930 pu, highest North 1.000 pu, most loaded Cable 1 120 %" in text(browser)
    )
    assert len(browser.find_elements(By.CSS_SELECTOR, ".oneline .bus.low2")) == 1
    assert len(browser.find_elements(By.CSS_SELECTOR, ".oneline .branch.l3")) == 1
    pane = browser.find_element(By.CSS_SELECTOR, ".drawing")
    pane.send_keys(Keys.ARROW_RIGHT)
    eventually(lambda: "North: 1.0000 pu, 20.00 kV nominal, external grid" in text(browser, "p.chosen"))
    pane.send_keys(Keys.ARROW_RIGHT)
    eventually(lambda: "Cable 1: 120.0 %, overloaded" in text(browser, "p.chosen"))
    pane.send_keys(Keys.ARROW_RIGHT)
    eventually(lambda: "<i>South of MG1: 0.9300 pu, low" in text(browser, "p.chosen"))
    site.say("run/grid", {**results, "vm_pu": [1.0, 0.99]}, retain=True)
    eventually(lambda: "0.9900 pu" in text(browser, "p.chosen"))


@pytest.mark.slow
def test_a_device_that_falls_silent_turns_red(browser: webdriver.Chrome, page: str, site: Site) -> None:
    site.say("devices/MG1/old/status", {"type": "status", "state": "online"}, retain=True)
    site.say("devices/MG1/old/telemetry", {"type": "telemetry", "p_mw": 0.0})
    browser.get(f"{page}/#devices")

    eventually(lambda: "silent" in cell(browser, "tr[data-row='MG1/old'] td.bad"))


@pytest.mark.slow
@pytest.mark.parametrize("view", ["devices", "events"])
def test_a_table_goes_on_after_a_press_whose_release_a_menu_took(
    browser: webdriver.Chrome, page: str, site: Site, view: str
) -> None:
    browser.get(f"{page}/#{view}")
    eventually(lambda: browser.find_elements(By.CSS_SELECTOR, "main tbody tr"))
    press = """
        const here = document.querySelector("main tbody");
        const say = (name, button) => here.dispatchEvent(new PointerEvent(name, { button, bubbles: true }));
        for (const [name, button] of arguments[0]) say(name, button);
        here.firstChild.id = "old";
    """
    for events in ([["pointerdown", 2]], [["pointerdown", 0], ["contextmenu", 0]]):
        browser.execute_script(press, events)
        eventually(lambda: not browser.find_elements(By.ID, "old"))
    browser.execute_script(press, [["pointerdown", 0]])
    site.say("devices/MG1/ess/telemetry", {"type": "telemetry", "p_mw": 0.0})
    time.sleep(0.5)  # two snapshots
    assert browser.find_elements(By.ID, "old"), "a row is replaced between pressing and letting go"
    browser.execute_script("dispatchEvent(new Event('blur'))")
    eventually(lambda: not browser.find_elements(By.ID, "old"))


@pytest.mark.slow
def test_no_error_and_no_request_to_anybody_else(browser: webdriver.Chrome, page: str) -> None:
    browser.get(f"{page}/#devices")
    eventually(lambda: text(browser, "#link") == "live")
    eventually(lambda: clicked(browser, "tbody th button"))
    eventually(lambda: browser.find_elements(By.CSS_SELECTOR, ".uplot"))
    assert severe(browser) == []
    asked = set()
    for entry in browser.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            asked.add(message["params"]["request"]["url"])
    assert any(url.startswith(page) for url in asked)
    assert all(url.startswith((page, "data:", "chrome:")) for url in asked), asked


@pytest.mark.slow
def test_it_says_when_it_is_cut_off_and_comes_back(
    browser: webdriver.Chrome, site: Site, file_mosquitto: Mosquitto
) -> None:
    with heron("dashboard", "--broker", file_mosquitto.url, "--port", "0") as program:
        url = address_of(program)
        browser.get(url)
        eventually(lambda: text(browser, "#link") == "live")
    eventually(lambda: "CUT OFF" in text(browser, "#link"))
    port = url.rpartition(":")[2]
    with heron("dashboard", "--broker", file_mosquitto.url, "--port", port):
        eventually(lambda: text(browser, "#link") == "live")


@pytest.mark.slow
def test_a_record_has_the_same_page_with_a_slider(browser: webdriver.Chrome, tmp_path: Path) -> None:
    record_run(tmp_path / "day.heron", emulated=True)
    browser.get("about:blank")
    browser.get_log("browser")
    with heron("dashboard", "--run", str(tmp_path / "day.heron"), "--port", "0") as program:
        url = address_of(program)
        browser.get(f"{url}/#overview")
        eventually(
            lambda: f"step {STEPS - 1} of episode 1, {STEPS} of {STEPS}" in text(browser, "output.where")
        )
        assert text(browser, "#link") == "record"
        eventually(lambda: browser.find_elements(By.CSS_SELECTOR, ".oneline .bus"))
        browser.find_element(By.ID, "time-slider").send_keys(Keys.HOME)
        eventually(lambda: f"step 0 of episode 1, 1 of {STEPS}" in text(browser, "output.where"))
        eventually(lambda: "Step 0, by power flow" in text(browser))
        browser.find_element(By.CSS_SELECTOR, "[aria-label='one step on']").click()
        eventually(lambda: "Step 1, by power flow" in text(browser))
        browser.find_element(By.CSS_SELECTOR, "[aria-label='play']").click()
        eventually(lambda: f"Step {STEPS - 1}, by power flow" in text(browser))
        browser.get(f"{url}/#devices")
        eventually(lambda: clicked(browser, "tbody th button"))
        eventually(lambda: browser.find_elements(By.CSS_SELECTOR, ".uplot"))
        browser.get(f"{url}/#messages")
        eventually(lambda: "operators/system_operator/price" in text(browser, "ol.tail"))
        assert severe(browser) == []
        connection = http.client.HTTPConnection(url.removeprefix("http://"))
        connection.request("GET", "/at?n=99")
        answer = connection.getresponse()
        assert (answer.status, answer.read().decode()) == (
            409,
            f"{tmp_path}/day.heron: no step 99; there are 0 to 5",
        )


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--run", "nothing.heron"], "nothing.heron: no such file"),
        ([], "expected --broker URL for a live view, or --run FILE for a record"),
        (["--run", "a.heron", "--broker", "mqtt://127.0.0.1:1"], "expected --broker URL"),
        (["--run", "a.heron", "--env-id", "lab"], "--env-id: a record has one environment"),
    ],
)
def test_what_cannot_be_shown_is_one_line(arguments: list[str], why: str) -> None:
    done = run_heron("dashboard", *arguments)
    assert done.code in {1, 2}
    assert len(done.errors) == 1
    assert why in done.errors[0]


def test_a_port_of_the_page_that_is_taken_is_one_line(file_mosquitto: Mosquitto) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run_heron("dashboard", "--broker", file_mosquitto.url, "--port", str(port))
    (line,) = done.errors
    assert done.code in {1, 2}
    assert f"port {port} of the page: is taken on 127.0.0.1; choose another, or 0 for any free one" in line


def _status(host: str, path: str, **headers: str) -> int:
    connection = http.client.HTTPConnection(host)
    connection.request("GET", path, headers=headers)
    return connection.getresponse().status


def test_a_page_for_others_is_not_read_by_a_name_that_is_made_to_lead_here(file_mosquitto: Mosquitto) -> None:
    arguments = [
        "--broker",
        file_mosquitto.url,
        "--port",
        "0",
        "--host",
        "0.0.0.0",
        "--served-as",
        "grid.lab",
    ]
    with heron("dashboard", *arguments) as program:
        host = address_of(program).removeprefix("http://").replace("0.0.0.0", "127.0.0.1")
        for path in ("/", "/metrics", "/live"):
            assert _status(host, path, Host="evil.example", Origin="http://evil.example") == 403
        assert _status(host, "/") == _status(host, "/", Host="grid.lab") == 200


def test_it_only_reads_and_only_for_its_own_page(page: str) -> None:
    host = page.removeprefix("http://")

    def status(path: str, **headers: str) -> int:
        return _status(host, path, **headers)

    assert status("/") == 200
    assert status("/", Host="evil.example") == 403
    assert status("/../../../etc/passwd") == 404
    assert status("/main.py") == 404
    for origin in ("http://evil.example", None):
        with pytest.raises(InvalidStatus) as refused:
            connect(f"ws://{host}/live", origin=origin)
        assert refused.value.response.status_code == 403
    with connect(f"ws://{host}/live", origin=page) as socket:
        assert json.loads(socket.recv())["environments"]
        socket.send('{"estop": true}')
        with pytest.raises(ConnectionClosed):
            any(socket.recv() is None for _ in range(100))
        assert socket.close_code == 1008


def test_it_may_load_nothing_from_another_host(page: str) -> None:
    """What a browser makes of it: ``test_no_error_and_no_request_to_anybody_else``."""
    connection = http.client.HTTPConnection(page.removeprefix("http://"))
    connection.request("GET", "/")
    told = connection.getresponse().headers["Content-Security-Policy"]
    rules = dict(rule.strip().split(maxsplit=1) for rule in told.split(";") if rule.strip())
    assert rules.pop("default-src") == "'none'"
    assert {source for sources in rules.values() for source in sources.split()} <= {
        "'self'",
        "'none'",
        "data:",
    }


def scraped(page: str) -> dict[str, Metric]:
    """Return what a Prometheus would read now, by name."""
    connection = http.client.HTTPConnection(page.removeprefix("http://"))
    connection.request("GET", "/metrics")
    answer = connection.getresponse()
    assert answer.status == 200
    return {family.name: family for family in text_string_to_metric_families(answer.read().decode())}


def test_metrics_are_those_of_the_page_by_agent(page: str, site: Site) -> None:
    waits = {"messages": 2, "size_bytes": 300, "dropped": 0}
    outbox = {"client": "edge", "max_bytes": 1000, "disk_errors": 0, "kinds": {"telemetry": waits}}
    site.say("session/-/edge/outbox", {"type": "outbox", **waits, **outbox})
    eventually(lambda: bool(scraped(page)["heron_outbox_messages"].samples))
    families = scraped(page)
    assert families["heron_broker_connected"].samples[0].value == 1
    assert families["heron_stop_active"].samples[0].labels == {"env_id": "lab"}
    online = [s for s in families["heron_devices"].samples if s.labels["health"] == "online"]
    assert online[0].labels["agent"] == "MG1"
    assert families["heron_messages"].type == "counter"
    assert families["heron_messages_held_age_seconds"].type == "gauge"
    rules = (shipped_config() / "prometheus" / "alerts.yml").read_text("utf-8")
    named = set(re.findall(r"heron_[a-z_]+", rules))
    samples = {sample.name for family in families.values() for sample in family.samples}
    # the age of a step and a fallback are not there before there was one
    assert named <= samples | {"heron_step_age_seconds", "heron_fallbacks_total"}


def test_top_and_tail_show_the_same_in_a_terminal(page: str, file_mosquitto: Mosquitto) -> None:
    done = run_heron("top", "--broker", file_mosquitto.url, "--once")
    assert done.code == 0
    assert "lab: running" in done.out
    assert "MG1/ess  online" in done.out
    assert max(map(len, done.out.splitlines())) <= 80
    with heron("tail", "--broker", file_mosquitto.url, "--channel", "devices/+/ess/telemetry") as program:
        assert "kW" in program.wait_for("devices/MG1/ess/telemetry")
    assert run_heron("tail", "--broker", file_mosquitto.url, "--channel", "a/#/b").code == 2


@pytest.mark.slow
def test_a_run_itself_says_where_its_page_is(
    file_mosquitto: Mosquitto, capsys: pytest.CaptureFixture[str]
) -> None:
    said = ""

    def is_said() -> bool:
        nonlocal said
        said += capsys.readouterr().err  # what the page wrote past us would not be there, but across a table
        return "dashboard: http://127.0.0.1:" in said

    with live_page(0) as begin:
        assert begin is not None
        begin(file_mosquitto.url)
        eventually(is_said)


def test_a_run_serves_its_page_and_takes_it_along_when_it_ends() -> None:
    arguments = ["run", "--steps", "600", "--realtime", "0.1", "--devices", "simulated", "--no-record"]
    with heron(*arguments, "--dashboard", "0") as program:
        url = program.wait_for("dashboard: ").split()[-1].rstrip("/")
        connection = http.client.HTTPConnection(url.removeprefix("http://"))
        connection.request("GET", "/")
        assert connection.getresponse().status == 200
        program.process.send_signal(
            signal.SIGINT
        )  # a run of fixed length can be over before its page is there
        assert program.wait().code == 130
    with pytest.raises(OSError, match="refused"):
        http.client.HTTPConnection(url.removeprefix("http://")).connect()
    done = run_heron("run", "--centralized", "--dashboard", "0")
    assert done.code == 2
    assert "--dashboard: the page needs a broker" in done.errors[0]
