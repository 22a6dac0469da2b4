"""The page for everybody: axe-core finds nothing wrong in any view, light or dark, wide or on a phone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By

from heron_mqtt.messaging.embedded.auth.credentials import add_credentials
from support.browser import address_of, eventually, open_browser, text
from support.heron_command import heron
from support.mosquitto_server import Mosquitto
from support.node_packages import node_package
from support.paho_site import Site
from support.recorded_runs import record_run

RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
ONE_LINE = 45  # pixels
SIZES = {"wide": (1200, 900), "phone": (390, 800)}


@pytest.fixture(scope="module")
def axe() -> str:
    return (node_package("axe-core") / "axe.min.js").read_text("utf-8")


@pytest.fixture(scope="module")
def browser(axe: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    with open_browser(tmp_path_factory.mktemp("chromium")) as browser:
        browser.set_script_timeout(60)
        yield browser


def look_at(browser: webdriver.Chrome, size: str, scheme: str) -> None:
    width, height = SIZES[size]
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": size == "phone"}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def violations(browser: webdriver.Chrome, axe: str) -> list[str]:
    """Return what axe finds, a line each."""
    browser.execute_script(axe + ";window.axe = axe;")
    found: Any = browser.execute_async_script(
        "const done = arguments[1]; axe.run({runOnly: arguments[0]}).then(done, (e) => done(String(e)))",
        RULES,
    )
    assert isinstance(found, dict), found
    return [
        f"{one['id']}: {one['help']}: {node['html'][:200]}: {node['failureSummary']}"
        for one in found["violations"]
        for node in one["nodes"]
    ]


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_a_live_page_with_control(
    browser: webdriver.Chrome,
    axe: str,
    own_mosquitto: Callable[..., Mosquitto],
    tmp_path: Path,
    size: str,
    scheme: str,
) -> None:
    users, acl = tmp_path / "users.txt", tmp_path / "acl.txt"
    add_credentials("ann", "operator", b"secret", users_file=users, acl_file=acl)
    server = own_mosquitto()
    control = ("--control", "--users", str(users), "--acl", str(acl))
    with (
        Site(server.url, "lab") as site,
        heron("dashboard", "--broker", server.url, "--port", "0", *control) as program,
    ):
        _fill(site)
        page = address_of(program)
        look_at(browser, size, scheme)
        browser.get(f"{page}/#control")
        eventually(lambda: browser.find_elements(By.CSS_SELECTOR, "form.login"))
        assert violations(browser, axe) == [], "login"
        for field, value in zip(
            browser.find_elements(By.CSS_SELECTOR, "form.login input"), ("ann", "secret"), strict=True
        ):
            field.send_keys(value)
        browser.find_element(By.CSS_SELECTOR, "form.login button").click()
        eventually(lambda: "ann" in text(browser, "#person"))
        assert violations(browser, axe) == [], "control"
        browser.find_element(By.CSS_SELECTOR, "#person button.danger").click()
        eventually(lambda: browser.find_elements(By.CSS_SELECTOR, "dialog[open]"))
        assert violations(browser, axe) == [], "question"
        browser.find_element(By.CSS_SELECTOR, "dialog button.danger").click()
        eventually(lambda: "emergency stop pressed" in text(browser, "#result"))
        for view in ("overview", "devices", "messages", "events"):
            browser.get(f"{page}/#{view}")
            eventually(lambda: "EMERGENCY STOP" in text(browser, "#stop"))
            if view == "devices":
                eventually(lambda: "MG1/ess" in text(browser, "tbody"))
                browser.execute_script("document.querySelector('tbody th button').click()")
                eventually(lambda: browser.find_elements(By.CSS_SELECTOR, ".uplot"))
                _plot_follows_the_colours(browser, size, scheme)
            if view == "messages":
                eventually(lambda: text(browser, "ol.tail"))
            if view == "overview":
                eventually(lambda: browser.find_elements(By.CSS_SELECTOR, ".oneline .bus"))
            assert violations(browser, axe) == [], view
        heights = browser.execute_script(
            "return [...document.querySelectorAll('nav a')].map((a) => a.offsetHeight)"
        )
        assert max(heights) < ONE_LINE, "no tab is broken into two lines"


def _plot_follows_the_colours(browser: webdriver.Chrome, size: str, scheme: str) -> None:
    """Have night fall, or day break, while a plot is open, and then again."""
    for another in ("light" if scheme == "dark" else "dark", scheme):
        (before,) = _plots(browser)
        look_at(browser, size, another)
        eventually(lambda known=before: known not in _plots(browser) and _plots(browser))


def _plots(browser: webdriver.Chrome) -> list[str]:
    return [one.id for one in browser.find_elements(By.CSS_SELECTOR, ".uplot")]


def _fill(site: Site) -> None:
    site.run_state()
    site.gateway("MG1")
    site.bare_device("MG1/ess")
    site.say("devices/MG1/old/status", {"type": "status", "state": "fault", "reason": "fuse"}, retain=True)
    site.say("agents/MG1/action", {"type": "action", "p_ess": 0.01, "soc_ess": 0.55, "missed": 1})
    observation = {"type": "observation", "dt_s": 900.0, "vm_min_pu": 0.93, "vm_max_pu": 1.01}
    site.say("agents/MG1/observation", {**observation, "loading_max_percent": 120.0})
    network = {"type": "network", "bus": ["a", "b"], "bus_kv": [20.0, 0.4], "bus_agent": ["", "MG1"]}
    network |= {"bus_x": [0.0, 1.0], "bus_y": [0.0, 0.0], "line": ["l"], "line_from": [0], "line_to": [1]}
    network |= {"device": ["MG1/ess"], "device_kind": ["battery"], "device_bus": [1], "supply": [0]}
    site.say("run/network", network, retain=True)
    results = {"type": "grid_results", "vm_pu": [1.0, 0.93], "line_loading_percent": [120.0], "step": 1}
    site.say("run/grid", results, retain=True)


@pytest.mark.slow
def test_a_record(browser: webdriver.Chrome, axe: str, tmp_path: Path) -> None:
    record_run(tmp_path / "day.heron", emulated=True, faults={"MG1/ess": "silence@2:2"})
    with heron("dashboard", "--run", str(tmp_path / "day.heron"), "--port", "0") as program:
        page = address_of(program)
        look_at(browser, "wide", "light")
        for view in ("overview", "devices", "messages", "events"):
            browser.get(f"{page}/#{view}")
            eventually(lambda: "step 5 of episode 1" in text(browser, "output.where"))
            assert violations(browser, axe) == [], view
