"""Take the pictures of the live page that the documentation shows, of a run and of its record.

python scripts/dashboard_screenshots.py                 write them to docs/
python scripts/dashboard_screenshots.py --to FOLDER     write them elsewhere, and those that docs/ leaves out

It needs chromium and chromedriver, and selenium (extra ``test``). Look at each picture before you commit it.
"""

from __future__ import annotations

import base64
import contextlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.common.by import By

from heron_mqtt.messaging.embedded.auth.credentials import add_credentials
from heron_mqtt.program_arguments import ProgramArguments

DOCS = Path(__file__).parents[1] / "docs"
STEPS, STEP_S, DEVICE = 96, "1.2", "MG2/ess"
PASSWORD = "correct horse"  # noqa: S105 - of a page that ends with this script
WIDE, PHONE = (1280, 800), (390, 760)
WITHIN_S = 60.0


@contextmanager
def program(*arguments: str, says: str) -> Iterator[str]:
    """Start ``heron-mqtt``; yield what follows the words it says."""
    process = subprocess.Popen(  # noqa: S603 - our own program
        [sys.executable, "-u", "-m", "heron_mqtt", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if found := re.search(rf"{says}(\S*)", line):
                yield found[1]
                return
        raise SystemExit(f"heron-mqtt {arguments[0]} never said {says!r}")
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=20.0)
        process.kill()
        process.wait()


@contextmanager
def open_browser(profile: str) -> Iterator[webdriver.Chrome]:
    """Open Chromium without a screen."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or "chromium"
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}"):
        options.add_argument(argument)
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        yield browser
    finally:
        browser.quit()


class Camera:
    """Takes pictures of one page.

    Args:
        browser: That looks at it.
        folder: Where to write them.
    """

    def __init__(self, browser: webdriver.Chrome, folder: Path) -> None:
        self.browser, self._folder = browser, folder

    def look(self, size: tuple[int, int], scheme: str = "light") -> None:
        """Look as from a screen of this size, by day or by night."""
        metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size == PHONE}
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def take(self, name: str, height: int | None = None) -> None:
        """Write a picture, ``height`` high at most; None = of what the screen shows."""
        size: dict[str, Any] = self.browser.execute_script(
            "return {width: innerWidth, screen: innerHeight, page: document.documentElement.scrollHeight}"
        )
        shown = size["screen"] if height is None else min(height, size["page"])
        clip = {"x": 0, "y": 0, "width": size["width"], "height": shown, "scale": 1}
        told = self.browser.execute_cdp_cmd(
            "Page.captureScreenshot", {"clip": clip, "captureBeyondViewport": height is not None}
        )
        (self._folder / f"{name}.png").write_bytes(base64.b64decode(told["data"]))

    def wait(self, what: str, look: Callable[[], Any]) -> None:
        """Wait until a look finds something."""
        end_s = time.monotonic() + WITHIN_S
        while time.monotonic() < end_s:
            if look():
                return
            time.sleep(0.2)
        raise SystemExit(f"{what}: it did not come within {WITHIN_S:g} s")

    def go(self, view: str, until: str) -> None:
        """Open a view and wait until an element is there."""
        self.browser.execute_script("location.hash = arguments[0]", view)
        self.wait(f"#{view}", lambda: self.browser.find_elements(By.CSS_SELECTOR, until))

    def click(self, script: str) -> None:
        """Click what a script finds, once it does."""
        clicked = f"const found = {script}; if (found) found.click(); return Boolean(found);"
        self.wait(script, lambda: self.browser.execute_script(clicked))


def take_live(camera: Camera, page: str) -> None:
    """Take the pictures of a run that goes on."""
    browser = camera.browser
    camera.look(WIDE)
    browser.get(page)
    button = f"[...document.querySelectorAll('tbody button')].find((b) => b.textContent === '{DEVICE}')"
    camera.go("devices", "tbody tr")
    camera.click(button)
    time.sleep(20.0)  # a plot needs points
    camera.take("dashboard", 775)
    camera.look(WIDE, "dark")
    time.sleep(1.0)
    camera.take("dashboard-devices-dark", 775)
    for scheme in ("light", "dark"):
        camera.look((1000, 800), scheme)
        camera.go("overview", "svg.oneline")
        time.sleep(1.0)
        camera.take("dashboard-network" if scheme == "light" else "dashboard-dark", 1085)
    for size, where in ((WIDE, ""), (PHONE, "-phone")):
        camera.look(size)
        for view, until in (("overview", "svg.oneline"), ("devices", "tbody tr"), ("events", "tbody tr")):
            camera.go(view, until)
            time.sleep(1.0)
            camera.take(f"dashboard-{view}{where}")
        camera.go("messages", "ol.tail li")
        time.sleep(2.0)
        camera.take(f"dashboard-messages{where}")


def take_control(camera: Camera) -> None:
    """Take the question before a stop, and what is shown after it."""
    browser = camera.browser
    camera.look(PHONE)
    camera.go("control", "form.login input")
    for field, value in zip(
        browser.find_elements(By.CSS_SELECTOR, "form.login input"), ("ann", PASSWORD), strict=True
    ):
        field.send_keys(value)
    browser.find_element(By.CSS_SELECTOR, "form.login button").click()
    camera.wait("log in", lambda: "ann" in browser.find_element(By.ID, "person").text)
    camera.click("document.querySelector('#person button.danger')")
    camera.wait("the question", lambda: browser.find_elements(By.CSS_SELECTOR, "dialog"))
    browser.find_element(By.CSS_SELECTOR, "dialog input").send_keys("smoke in hall 2")
    camera.take("dashboard-control")
    camera.click("document.querySelector('dialog button.danger')")
    camera.wait("the stop", lambda: browser.find_element(By.ID, "result").text.startswith(("✓", "✖")))
    camera.look(WIDE)
    time.sleep(2.0)
    camera.take("dashboard-stopped")


def take_record(camera: Camera, page: str) -> None:
    """Take the picture of a recorded day."""
    camera.look((1000, 757))
    camera.browser.get(f"{page}#devices")
    camera.wait("the record", lambda: camera.browser.find_elements(By.CSS_SELECTOR, "tbody tr"))
    camera.click(f"[...document.querySelectorAll('tbody button')].find((b) => b.textContent === '{DEVICE}')")
    camera.browser.execute_script(
        "const slider = document.querySelector('#time input[type=range]'); slider.value = arguments[0];"
        "slider.dispatchEvent(new Event('input', {bubbles: true}))",
        STEPS // 2,
    )
    time.sleep(3.0)
    camera.take("dashboard-record", 757)


def main() -> None:
    """Read the command line."""
    parser = ProgramArguments(description=__doc__.partition("\n")[0])
    parser.add_argument("--to", type=Path, default=None, metavar="FOLDER")
    folder: Path | None = parser.parse_args().to
    with contextlib.ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        users, acl, record = work / "users.txt", work / "acl.txt", work / "day.heron"
        add_credentials("ann", "operator", PASSWORD.encode(), users_file=users, acl_file=acl)
        camera = Camera(stack.enter_context(open_browser(str(work / "chromium"))), work)
        broker = stack.enter_context(program("broker", "--port", "0", says="listening "))
        page = ("dashboard", "--broker", broker, "--port", "0", "--control")
        with (
            program("run", "--broker", broker, "--realtime", STEP_S, "--no-record", says="step 24/"),
            program(*page, "--users", str(users), "--acl", str(acl), says="dashboard: ") as address,
        ):
            take_live(camera, address)
            take_control(camera)
        done = [sys.executable, "-m", "heron_mqtt", "run", "--steps", str(STEPS), "--record", str(record)]
        subprocess.run(done, check=True, stdout=subprocess.DEVNULL)  # noqa: S603 - the same
        with program("dashboard", "--run", str(record), "--port", "0", says="dashboard: ") as address:
            take_record(camera, address)
        for picture in work.glob("*.png"):
            if folder is not None or (DOCS / picture.name).exists():
                shutil.copy(picture, (folder or DOCS) / picture.name)


if __name__ == "__main__":
    main()
