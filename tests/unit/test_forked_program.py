"""A program that is forked from this one: what it has of it, what not, and how it ends.

The tests' own process has threads, and is not forked: each case is the beginning of a program of its own.
"""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks on Linux alone")

BEGIN = """
import asyncio, os, signal, sys, threading, time
from pathlib import Path
from heron_mqtt.forked_program import fork_program

def main():
    line = sys.stdin.readline().strip()
    if line == "descriptors":
        time.sleep(0)
        print(sorted(int(p.name) for p in Path("/proc/self/fd").iterdir())[:-1], flush=True)
    elif line == "signals":
        print(signal.getsignal(signal.SIGTERM) is signal.SIG_DFL, os.getpgrp() == os.getpid(), flush=True)
    elif line == "environment":
        print(dict(os.environ), flush=True)
    elif line == "error":
        raise ValueError("a bug")
    elif line == "leave":
        sys.exit(5)
    elif line == "stay":
        print("here", flush=True)
        time.sleep(60)
    return 3

async def ask(program, line):
    await program.open(1 << 16)
    program.stdin.write(line.encode() + b"\\n")
    said = (await program.stdout.readline()).decode().strip()
    return said, program
"""


def outcome(case: str) -> tuple[str, str]:
    """Run a case after ``BEGIN``, and return what it prints on standard output and error."""
    code = BEGIN + textwrap.dedent(case)
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    return ran.stdout.strip(), ran.stderr


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("descriptors", "[0, 1, 2]"),
        ("signals", "True True"),
        ("environment", "{'A': 'b'}"),
        ("nothing", ""),
    ],
)
def test_it_answers_by_its_own_descriptors_signals_and_environment(line: str, said: str) -> None:
    out, err = outcome(f"""
        from heron_mqtt.end_signals import OF_THIS_PROGRAM
        held = open(os.devnull)
        with OF_THIS_PROGRAM:
            program = fork_program(main, {{"A": "b"}}, own_stderr=False)
        async def parent():
            said, _ = await ask(program, {line!r})
            print(said, await program.wait(), program.returncode)
        asyncio.run(parent())
        """)
    assert (out, err) == (f"{said} 3 3".strip(), "")


def test_it_does_not_speak_for_the_service(tmp_path: Path) -> None:
    out, err = outcome(f"""
        import socket
        supervisor = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        supervisor.bind({str(tmp_path / "notify")!r})
        supervisor.setblocking(False)
        os.environ["NOTIFY_SOCKET"] = {str(tmp_path / "notify")!r}
        from heron_mqtt.service_manager import THE_SERVICE
        def speak():
            THE_SERVICE.tell_ready("the fork")
            return int("NOTIFY_SOCKET" in os.environ)
        program = fork_program(speak, os.environ, own_stderr=False)
        print(os.waitstatus_to_exitcode(os.waitpid(program.pid, 0)[1]))
        try:
            print(supervisor.recv(4096))
        except BlockingIOError:
            print("nothing")
        THE_SERVICE.tell_ready("the parent")
        print(supervisor.recv(4096).decode().splitlines()[0])
        """)
    assert (out.split("\n"), err) == (["0", "nothing", "READY=1"], "")


def test_it_has_our_environment_where_it_is_given_that() -> None:
    out, _ = outcome("""
        os.environ["OF_THE_TEST"] = "1"
        program = fork_program(lambda: int(os.environ.get("OF_THE_TEST", "0")), os.environ, own_stderr=False)
        print(os.waitstatus_to_exitcode(os.waitpid(program.pid, 0)[1]))
        """)
    assert out == "1"


def test_what_it_raises_is_told_where_its_standard_error_goes() -> None:
    out, err = outcome("""
        program = fork_program(main, os.environ, own_stderr=True)
        async def parent():
            await ask(program, "error")
            error = (await program.stderr.read()).decode().splitlines()
            print(error[0], error[-1], await program.wait())
        asyncio.run(parent())
        """)
    assert out == "Traceback (most recent call last): ValueError: a bug 1"
    assert err == ""


def test_it_ends_with_the_code_that_it_leaves_by() -> None:
    out, _ = outcome("""
        program = fork_program(main, os.environ, own_stderr=False)
        async def parent():
            await ask(program, "leave")
            print(await program.wait())
        asyncio.run(parent())
        """)
    assert out == "5"


def test_its_input_ends_with_its_parent() -> None:
    out, _ = outcome("""
        program = fork_program(lambda: print(repr(sys.stdin.read()), flush=True) or 0, {}, own_stderr=False)
        os.set_inheritable(program._pipes[1], True)
        os.execv("/bin/cat", ["cat", f"/proc/self/fd/{program._pipes[1]}"])
        """)
    assert out == "''"


@pytest.mark.parametrize("opened", [False, True])
def test_one_that_is_abandoned_is_gone(opened: bool) -> None:
    out, _ = outcome(f"""
        program = fork_program(main, os.environ, own_stderr=False)
        if {opened}:
            asyncio.run(ask(program, "stay"))
        program.abandon()
        print(program.returncode, Path(f"/proc/{{program.pid}}").exists())
        """)
    assert out in ({"-9 False"} if opened else {"-9 False", "3 False"}), "its input has ended, too"


def test_what_one_has_started_is_gone_with_it_though_it_was_killed_before() -> None:
    out, _ = outcome("""
        def mother():
            child = os.fork()
            if child == 0:
                time.sleep(60)
                os._exit(0)
            print(child, flush=True)
            time.sleep(60)
        program = fork_program(mother, os.environ, own_stderr=False)
        async def parent():
            child, _ = await ask(program, "")
            program.kill()
            await program.wait()
            return Path(f"/proc/{child}/stat")
        child = asyncio.run(parent())
        lived = child.exists()
        program.abandon()
        for _ in range(500):
            if not child.exists() or child.read_text().split()[2] == "Z":
                break
            time.sleep(0.01)
        else:
            print("lives")
        print(program.returncode, lived)
        """)
    assert out == "-9 True"


def test_a_process_with_threads_is_not_forked() -> None:
    out, _ = outcome("""
        done = threading.Event()
        threading.Thread(target=done.wait).start()
        print(fork_program(main, os.environ, own_stderr=False))
        done.set()
        """)
    assert out == "None"


@pytest.mark.parametrize("missing", ["pidfd_open", "fork"])
def test_where_the_system_refuses_nothing_is_forked_and_nothing_left_open(missing: str) -> None:
    """As on a kernel before 5.3, in a sandbox, or where a user may have no more processes."""
    out, err = outcome(f"""
        def refused(*_):
            raise OSError(1, "Operation not permitted")
        os.{missing} = refused
        before = os.listdir("/proc/self/fd")
        print(fork_program(main, os.environ, own_stderr=True), os.listdir("/proc/self/fd") == before)
        print(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
        """)
    assert (out.split("\n"), err) == (["None True", "set()"], "")


SIGNALLED = """
from heron_mqtt.end_signals import OF_THIS_PROGRAM, AskedToEnd
fork = os.fork
def signalled_at_once():
    pid = fork()
    if (pid == 0) == (WHO == "the fork"):
        os.kill(os.getpid(), signal.SIGTERM)
    return pid
os.fork = signalled_at_once
"""


def test_a_signal_to_one_that_was_just_forked_ends_it_and_runs_none_of_our_code() -> None:
    out, err = outcome(
        "WHO = 'the fork'"
        + SIGNALLED
        + textwrap.dedent("""
            with OF_THIS_PROGRAM:
                try:
                    program = fork_program(main, os.environ, own_stderr=False)
                except AskedToEnd:
                    print("raised", flush=True)
                    os._exit(0)
            print(os.waitstatus_to_exitcode(os.waitpid(program.pid, 0)[1]))
            """)
    )
    assert (out, err) == ("-15", "")


def test_a_signal_to_us_while_we_fork_leaves_no_fork_behind() -> None:
    out, err = outcome(
        "WHO = 'us'"
        + SIGNALLED
        + textwrap.dedent("""
            before = os.listdir("/proc/self/fd")
            with OF_THIS_PROGRAM:
                try:
                    fork_program(main, os.environ, own_stderr=False)
                except AskedToEnd:
                    print("raised", os.listdir("/proc/self/fd") == before)
            print(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
            try:
                os.waitpid(-1, 0)
            except ChildProcessError:
                print("no child")
            """)
    )
    assert (out.split("\n"), err) == (["raised True", "set()", "no child"], "")


@pytest.mark.parametrize("own_stderr", [False, True])
def test_one_whose_opening_is_cancelled_or_fails_leaves_nothing_open(own_stderr: bool) -> None:
    out, err = outcome(f"""
        import gc
        async def cancelled(program, iterations):
            before = set(os.listdir("/proc/self/fd"))
            opening = asyncio.create_task(program.open(1 << 16))
            for _ in range(iterations):
                await asyncio.sleep(0)
            if opening.done():
                return True
            opening.cancel()
            await asyncio.gather(opening, return_exceptions=True)
            await asyncio.sleep(0)
            after = set(os.listdir("/proc/self/fd"))
            assert after <= before, (iterations, after - before)
            assert len(before - after) == {3 if own_stderr else 2}, (iterations, before - after)
            return False
        async def failed(program):
            pidfd_open, os.pidfd_open = os.pidfd_open, None
            try:
                await program.open(1 << 16)
            except TypeError:
                print("failed")
            os.pidfd_open = pidfd_open

        was_opened, iterations = False, 1
        while not was_opened:
            program = fork_program(main, os.environ, own_stderr={own_stderr})
            was_opened = asyncio.run(cancelled(program, iterations))
            program.abandon()
            iterations += 1
        print(iterations > 4, program.returncode)
        del program  # the one that was opened, with its pipes
        gc.collect()
        held = sorted(os.listdir("/proc/self/fd"))
        program = fork_program(main, os.environ, own_stderr={own_stderr})
        asyncio.run(failed(program))
        program.abandon()
        del program
        print(sorted(os.listdir("/proc/self/fd")) == held)
        """)
    assert (out.split("\n"), err) == (["True -9", "failed", "True"], "")
