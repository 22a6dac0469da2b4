"""A report in a real browser: on paper every plot has its place, and the screen is as before afterwards."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver

from support.browser import open_browser
from support.heron_command import run_heron
from support.recorded_runs import record_run

WIDTHS = """return [...document.querySelectorAll('.plot')].map((plot) =>
    [plot.querySelector('canvas').getBoundingClientRect().width, plot.getBoundingClientRect().width])"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    with open_browser(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    record_run(folder / "run.heron")
    run_heron("report", str(folder / "run.heron"), cwd=folder)
    return folder / "run.html"


@pytest.mark.slow
def test_on_paper_no_plot_is_wider_than_its_place(browser: webdriver.Chrome, page: Path) -> None:
    browser.get(page.as_uri())
    on_screen = browser.execute_script(WIDTHS)
    assert on_screen
    browser.execute_script("dispatchEvent(new Event('beforeprint'))")
    on_paper = browser.execute_script(WIDTHS)
    assert all(canvas <= place + 0.5 for canvas, place in on_paper), on_paper
    assert max(place for _, place in on_paper) < 350
    browser.execute_script("dispatchEvent(new Event('afterprint'))")
    assert browser.execute_script(WIDTHS) == on_screen


@pytest.mark.slow
def test_it_prints_on_a_few_pages_of_a4(browser: webdriver.Chrome, page: Path) -> None:
    browser.get(page.as_uri())
    pdf = base64.b64decode(browser.execute_cdp_cmd("Page.printToPDF", {"paperWidth": 8.27})["data"])
    pages = len(re.findall(rb"/Type\s*/Page\b", pdf))
    assert 2 <= pages <= 8
