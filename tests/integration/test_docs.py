"""Every page does what it says: its links lead somewhere, its Python and its shell lines run."""

from __future__ import annotations

import re
import shlex
import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from heron_mqtt.cli.run_commands import app
from powergrid.envs import MultiAgentMicrogrids
from powergrid.scenario import scenario_from_dict
from powergrid.simulation.build import build
from support.doc_pages import PAGES, ROOT, Block, all_blocks, anchors, blocks, links
from support.doc_shell import Terminals, write_site_csv
from support.heron_command import run_script

pytestmark = pytest.mark.usefixtures("built_once")

README = ROOT / "README.md"
SNIPPETS = [b for b in all_blocks("python") if not {"no-run", "from"} & set(b.words)]
TAKEN = [b for b in all_blocks("python") if "from" in b.words]
SCENARIOS = [b for b in all_blocks("toml") if "scenario" in b.words]
NOT_HERE = {"no-run", "heard"}  # ``heard``: test_docs_wire runs it, beside what is published
SHELL_PAGES = [page for page in PAGES if any(not NOT_HERE & set(b.words) for b in blocks(page, "sh"))]
LONG = {"quickstart.md", "record.md"}  # whole days with emulated devices
LONG |= {"README.md", "dashboard.md"}  # processes; .ci/run reads the README once more, on a wheel
LONG |= {"training.md", "agents.md"}  # they compute; test_docs_examples runs an agent of one's own
LONG |= {"testing-your-controller.md", "testing-your-device.md"}  # test runs, and promises that take waiting


# A page of a dozen programs takes 20 s on a machine that does nothing else; one that is busy needs minutes.
LONG_MARKS = (pytest.mark.slow, pytest.mark.timeout(600))


def _name(item: Block | Path) -> str:
    return item.name


def test_every_link_between_pages_leads_somewhere() -> None:
    for page in PAGES:
        for target in links(page):
            if "://" in target:
                continue
            file, _, anchor = target.partition("#")
            there = (page.parent / file).resolve() if file else page
            assert there.exists(), f"{page.name}: {target}"
            assert there.is_relative_to(ROOT), f"{page.name}: {target} leads out of the repository"
            if anchor:
                assert anchor in anchors(there), f"{page.name}: {target}: there are {sorted(anchors(there))}"


def test_files_that_a_page_names_are_there() -> None:
    named = r"`((?:benchmarks|config|docs|heron_mqtt|powergrid|scripts|tests)/[\w/.-]+\.\w+)`"
    for page in [*PAGES, ROOT / "CONTRIBUTING.md"]:
        missing = [file for file in re.findall(named, page.read_text("utf-8")) if not (ROOT / file).exists()]
        assert not missing, page.name


def test_the_readme_has_the_two_commands() -> None:
    lines = [line for block in blocks(README, "sh") for line in block.text.splitlines()]
    assert "pip install -e . && heron-mqtt run" in lines
    assert "pip install -e '.[test]' && pytest" in lines


def test_no_page_is_out_of_reach_of_the_readme() -> None:
    reached, waiting = set(), [README]
    while waiting:
        page = waiting.pop()
        reached.add(page)
        found = {(page.parent / t.partition("#")[0]).resolve() for t in links(page) if "://" not in t}
        waiting += [p for p in found if p.suffix == ".md" and p.exists() and p not in reached]
    assert set(PAGES) <= reached


@pytest.mark.parametrize("block", SNIPPETS, ids=_name)
def test_python_runs_as_written(
    block: Block, embedded_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_site_csv(tmp_path / "site.csv")
    monkeypatch.chdir(tmp_path)
    text = block.text.replace("mqtt://127.0.0.1:1883", embedded_url)
    code = compile("\n" * block.line + text, str(block.page), "exec")
    exec(code, {"__name__": "__main__"})


@pytest.mark.parametrize("block", TAKEN, ids=_name)
def test_what_a_page_takes_from_an_example_is_in_it(block: Block) -> None:
    source = block.words[block.words.index("from") + 1]
    assert block.text in (block.page.parent / source).read_text(encoding="utf-8")


@pytest.mark.parametrize("block", SCENARIOS, ids=_name)
def test_scenarios_in_pages_are_valid(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_site_csv(tmp_path / "site.csv")
    build(scenario_from_dict(tomllib.loads(block.text)))


@pytest.fixture
def terminals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminals]:
    if shutil.which("mosquitto_pub") is None:
        pytest.skip("the pages use mosquitto_pub and mosquitto_sub (Debian: apt install mosquitto-clients)")
    opened = Terminals(tmp_path, monkeypatch)
    yield opened
    opened.close()


@pytest.mark.parametrize(
    "page",
    [pytest.param(p, id=p.name, marks=LONG_MARKS if p.name in LONG else ()) for p in SHELL_PAGES],
)
def test_shell_lines_run_in_the_order_of_the_page(page: Path, terminals: Terminals) -> None:
    for block in blocks(page, "sh"):
        if not NOT_HERE & set(block.words):
            terminals.run(block)


def _commands_that_are_not_run() -> Iterator[tuple[str, list[str]]]:
    """Each ``heron-mqtt`` line of a block that needs a site, a login or a device: where, and its words."""
    for page in PAGES:
        for block in blocks(page, "sh"):
            for line in block.text.replace("\\\n", " ").splitlines() if "no-run" in block.words else ():
                words = shlex.split(line, comments=True)
                while "heron-mqtt" in words:
                    words = words[words.index("heron-mqtt") + 1 :]
                    ends = [i for i, word in enumerate(words) if word in {"|", "&&", ";", "&", ">", "--"}]
                    yield f"{page.name}:{block.line}: {line}", words[: min(ends, default=len(words))]


def test_commands_of_blocks_that_are_not_run_have_the_options_of_the_program() -> None:
    root: Any = get_command(app)
    seen = 0
    for where, words in _commands_that_are_not_run():
        command, context = root, root.make_context("heron-mqtt", [], resilient_parsing=True)
        while words and words[0] in getattr(command, "commands", {}):
            command = command.commands[words.pop(0)]
            context = type(context)(command, info_name=command.name, parent=context)
        if command.name == "device":
            continue  # hands its options on to the device's program
        try:
            command.make_parser(context).parse_args(args=words)
        except Exception as exc:
            pytest.fail(f"{where}: {exc}")
        seen += 1
    assert seen > 30


def test_the_scenario_reference_is_up_to_date() -> None:
    script = ROOT / "scripts" / "scenario_reference.py"
    done = run_script(script, "--check")
    assert done.code == 0, done.out + done.err


def test_the_quickstart_shows_what_a_run_gives() -> None:
    """The table in the quickstart against the same day in centralized mode, which gives the same."""
    (block,) = (b for b in blocks(ROOT / "docs" / "quickstart.md", "text") if "output" in b.words)
    shown = {
        agent: float(reward)
        for agent, reward in re.findall(r"│ (MG\d) .* (-?[\d.]+) │$", block.text, re.MULTILINE)
    }
    env = MultiAgentMicrogrids({"centralized": True})
    env.reset(seed=0)
    total = dict.fromkeys(env.agents, 0.0)
    while env.agents:
        _, rewards, _, _, _ = env.step({})
        for agent, reward in rewards.items():
            total[agent] += reward
    assert {agent: round(reward, 2) for agent, reward in total.items()} == shown


def test_every_shipped_scenario_is_on_the_page() -> None:
    page = (ROOT / "docs" / "scenarios.md").read_text(encoding="utf-8")
    for scenario in (ROOT / "config").glob("*.toml"):
        assert f"`heron-mqtt run {scenario.stem}`" in page
