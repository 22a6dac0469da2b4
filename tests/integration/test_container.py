"""The container file: what it copies is there, and an image that was built of it keeps a lease."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import time
import tomllib
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.lease_site import LONG_LEASE_S, assert_goes_on, watched
from support.mosquitto_server import Mosquitto

ROOT = Path(__file__).resolve().parents[2]
FILE = (ROOT / "config" / "deploy" / "Containerfile").read_text(encoding="utf-8")
IMAGE = "localhost/heron-mqtt"
PODMAN = shlex.split(os.environ.get("HERON_PODMAN", "podman"))
"""The command with the options that podman needs on this machine."""


def test_it_copies_all_that_the_package_is_made_of_and_nothing_that_is_not_there() -> None:
    copied = {
        source for line in re.findall(r"^COPY (?!--)(.*)", FILE, re.MULTILINE) for source in line.split()[:-1]
    }
    assert all((ROOT / source).exists() for source in copied)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    wanted = {*wheel["packages"], *wheel["force-include"], project["project"]["readme"]}
    files = {path for path in project["project"]["license-files"] if path.split("/")[0] not in wanted}
    assert wanted | files | {"pyproject.toml"} <= copied
    extras = re.search(r"^ARG EXTRAS=(.*)", FILE, re.MULTILINE)
    assert extras is not None
    assert set(extras[1].split(",")) <= set(project["project"]["optional-dependencies"])


def test_the_program_gets_the_signals_itself_and_its_state_is_in_the_volume() -> None:
    entry = re.search(r"^ENTRYPOINT (.*)", FILE, re.MULTILINE)
    assert entry is not None
    assert json.loads(entry[1]) == ["heron-mqtt"], "a shell in between would keep SIGTERM to itself"
    assert "\nSTOPSIGNAL SIGTERM\n" in FILE
    volume = re.search(r"^VOLUME (\S+)", FILE, re.MULTILINE)
    state = re.search(r"STATE_DIRECTORY=(\S+)", FILE)
    assert volume is not None
    assert state is not None
    assert state[1].startswith(f"{volume[1]}/")


def podman(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*PODMAN, *words], check=False, capture_output=True, text=True)


@pytest.fixture
def start() -> Iterator[Callable[..., str]]:
    """Start a container of one volume; gives its name."""
    if shutil.which(PODMAN[0]) is None or podman("image", "exists", IMAGE).returncode:
        pytest.skip(f"no image {IMAGE}: podman build -t heron-mqtt -f config/deploy/Containerfile .")
    volume = f"heron-{uuid.uuid4().hex[:8]}"
    names: list[str] = []

    def started(scenario: Path, *words: str) -> str:
        names.append(f"{volume}-{len(names)}")
        done = podman(
            *("run", "--detach", "--pull=never", "--network=host", f"--name={names[-1]}"),
            *(f"--volume={scenario}:/site/site.toml:ro", f"--volume={volume}:/home/heron"),
            *(IMAGE, "proxy", "/site/site.toml", "--agent", "MG1", "--devices", "simulated", *words),
        )
        assert done.returncode == 0, done.stderr
        return names[-1]

    yield started
    podman("rm", "--force", *names)
    podman("volume", "rm", volume)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_container_that_was_killed_has_its_lease_back_and_gives_it_back_when_stopped(
    start: Callable[..., str], own_mosquitto: Callable[..., Mosquitto], tmp_path: Path
) -> None:
    url = own_mosquitto().url
    with watched(url, tmp_path, LONG_LEASE_S, is_remote=True) as site, site.run():
        site.scenario.chmod(0o644)  # the container's user is another one
        first = start(site.scenario, "--broker", url)
        dead = site.until_held_by_another_than()
        site.observer.wait("it is driven", lambda: site.p_mw != 0.0)
        rival = podman("wait", start(site.scenario, "--broker", url))
        assert rival.stdout.split() == ["1"], "another container of the volume is refused"
        assert podman("kill", "--signal=KILL", first).returncode == 0
        at = time.monotonic()
        podman("rm", "--force", first)
        second = start(site.scenario, "--broker", url)
        assert_goes_on(site, dead, at)
        assert podman("stop", "--time=20", second).returncode == 0
        site.observer.wait("it is given back", lambda: site.holders[-1] is None)
        assert podman("inspect", "--format={{.State.ExitCode}}", second).stdout.strip() == "130"
