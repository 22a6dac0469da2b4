"""A module of ours that is forked as a program: it has what it was given, and nothing of a test."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

import heron_mqtt
from heron_mqtt.own_program import module_command, module_environment
from support.forked_modules import fork_modules

PROGRAM = """
import asyncio, json, logging, os, signal, sys, threading

def has_a_loop():
    try:
        return bool(asyncio.get_running_loop())
    except RuntimeError:
        return False

all_is_told = threading.Event()
threading.Thread(target=lambda: print("late") if all_is_told.wait(20.0) else None).start()
told = {
    "arguments": sys.argv[1:], "name": __name__, "folder": os.getcwd(), "forked": "pytest" in sys.modules,
    "environment": os.environ.get("A"), "home": os.environ.get("HOME"), "input": sys.stdin.readline(),
    "descriptors": [int(n) for n in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{n}")],
    "own_group": os.getpgrp() == os.getpid(), "own_session": os.getsid(0) == os.getpid(),
    "parent": os.getppid(), "threads": threading.active_count(), "loop": has_a_loop(),
    "handlers": len(logging.root.handlers), "term": signal.getsignal(signal.SIGTERM) is signal.SIG_DFL,
    "int": signal.getsignal(signal.SIGINT) is signal.default_int_handler,
    "hup": signal.getsignal(signal.SIGHUP) is signal.SIG_IGN, "held_back": len(signal.pthread_sigmask(0, ())),
}
print(json.dumps(told))
print("an error", file=sys.stderr)
all_is_told.set()
sys.exit(int(sys.argv[1]))
"""


@pytest.fixture(autouse=True)
def _forking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have modules forked also where ``HERON_FRESH_PROCESSES`` is set."""
    monkeypatch.setattr(subprocess, "_fork_exec", subprocess._fork_exec)  # afterwards it is what it was
    fork_modules()


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of ours, found in this process alone."""
    (tmp_path / "given.py").write_text(PROGRAM)
    monkeypatch.setattr(heron_mqtt, "__path__", [*heron_mqtt.__path__, str(tmp_path)])
    return "heron_mqtt.given"


def run(module: str, folder: Path, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        module_command(module, *arguments),
        cwd=folder,
        env=module_environment({"A": "b=c"}),
        input="a line\n",
        capture_output=True,
        text=True,
        timeout=20.0,
        check=False,
        **options,
    )


def test_it_has_what_it_was_given_and_nothing_of_the_test(
    module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    kept = os.open(tmp_path, os.O_RDONLY)
    try:
        signal.signal(signal.SIGTERM, lambda *_: None)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        ended = run(module, tmp_path, "3", "two words", start_new_session=True, pass_fds=(kept,))
    finally:
        os.close(kept)
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert (ended.returncode, ended.stderr) == (3, "an error\n")
    first, late = sorted(ended.stdout.splitlines(), reverse=True)  # the thread may be first
    assert late == "late"  # a program waits for its threads
    assert json.loads(first) == {
        "arguments": ["3", "two words"],
        "name": "__main__",
        "folder": str(tmp_path),
        "forked": True,
        "environment": "b=c",
        "home": None,
        "input": "a line\n",
        "descriptors": [0, 1, 2, kept],
        "own_group": True,
        "own_session": True,
        "parent": os.getpid(),
        "threads": 2,
        "loop": False,
        "handlers": 0,
        "term": True,
        "int": True,
        "hup": True,
        "held_back": 0,
    }


async def test_it_is_forked_from_within_an_event_loop_too(module: str, tmp_path: Path) -> None:
    logging.getLogger().addHandler(handler := logging.NullHandler())
    try:
        process = await asyncio.create_subprocess_exec(
            *module_command(module, "0"), stdin=-1, stdout=-1, process_group=0, cwd=tmp_path
        )
        told = json.loads((await process.communicate(b"x\n"))[0].splitlines()[0])
    finally:
        logging.getLogger().removeHandler(handler)
    assert process.returncode == 0
    assert (told["forked"], told["loop"], told["handlers"]) == (True, False, 0)
    assert (told["own_group"], told["own_session"]) == (True, False)


def test_beside_a_thread_in_the_midst_of_something_it_is_started_afresh(module: str, tmp_path: Path) -> None:
    ended, begun = threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        while not ended.is_set():
            pass

    thread = threading.Thread(target=work)
    thread.start()
    begun.wait(5.0)
    try:
        done = run(module, tmp_path, "0")
    finally:
        ended.set()
        thread.join()
    assert (done.returncode, done.stdout) == (1, "")
    assert "No module named heron_mqtt.given" in done.stderr


class GarbageFile:
    """Has a descriptor, and is garbage of the kind that only the collector finds."""

    def __init__(self) -> None:
        self.descriptor, self.itself = os.open(os.devnull, os.O_RDONLY), self

    def __del__(self) -> None:
        os.close(self.descriptor)


def test_garbage_of_a_test_closes_no_file_of_it(module: str, tmp_path: Path) -> None:
    (tmp_path / "given.py").write_text(
        "import gc, os\nopened = [os.open(os.devnull, os.O_RDONLY) for _ in range(50)]\n"
        "gc.collect()\nprint(len([os.fstat(number) for number in opened]))\n"
    )
    gc.disable()
    try:
        for _ in range(20):
            GarbageFile()
        ended = run(module, tmp_path)
    finally:
        gc.enable()
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "50\n", "")


@pytest.mark.usefixtures("fresh_programs")
def test_where_a_test_asks_for_it_it_is_started_afresh(module: str, tmp_path: Path) -> None:
    assert "No module named heron_mqtt.given" in run(module, tmp_path, "0").stderr
