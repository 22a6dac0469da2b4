"""Chromium without a screen, and ways to look at a page that is drawn anew again and again."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException
from selenium.webdriver.common.by import By

from support.heron_command import Program

WITHIN_S = 15.0
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--disable-extensions", "--disable-default-apps", "--disable-breakpad", "--mute-audio"),
    "--window-size=1200,800",
)


@contextmanager
def open_browser(profile: Path, *, requests: bool = False) -> Iterator[webdriver.Chrome]:
    """Return a browser with a profile of its own; skips where there is none.

    Args:
        profile: An empty folder.
        requests: Whether its log ``performance`` tells what it asks for: a fifth of what it costs.
    """
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("chromium and chromedriver are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(argument)
    logs = ("browser", "performance") if requests else ("browser",)
    options.set_capability("goog:loggingPrefs", dict.fromkeys(logs, "ALL"))
    made = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        yield made
    finally:
        made.quit()


def address_of(program: Program) -> str:
    """Return where a program serves its page."""
    return program.wait_for("dashboard: ").split()[-1].rstrip("/")


def eventually(look: Callable[[], Any], within_s: float = WITHIN_S) -> Any:
    """Return what a look finds, once it finds something."""
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        if found := look():
            return found
        time.sleep(0.1)
    raise AssertionError("it did not come")


def cell(browser: webdriver.Chrome, place: str) -> str:
    """Return the text of a place that is drawn anew again and again; nothing where it is not there."""
    try:
        return browser.find_element(By.CSS_SELECTOR, place).text
    except (NoSuchElementException, StaleElementReferenceException):
        return ""


def text(browser: webdriver.Chrome, place: str = "body") -> str:
    """Return what stands on the page."""
    return cell(browser, place)


def clicked(browser: webdriver.Chrome, place: str) -> bool:
    """Click; rows are drawn anew again and again."""
    try:
        browser.find_element(By.CSS_SELECTOR, place).click()
    except (NoSuchElementException, StaleElementReferenceException):
        return False
    return True


def severe(browser: webdriver.Chrome) -> list[Any]:
    """Return what the browser's console complains of since the last look."""
    return [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
