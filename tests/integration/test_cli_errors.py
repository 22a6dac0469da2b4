"""What a user can get wrong on the command line: the line that says so, and the exit code."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from support.heron_command import HERON, Program, heron, run_heron, run_heron_into, write_toml
from support.small_grid import scenario

FAILED, USAGE = 1, 2


def _lines(*arguments: str, code: int, cwd: Path | None = None) -> list[str]:
    """Run ``heron-mqtt``; return its complaints, after checking that this is all there is."""
    done = run_heron(*arguments, cwd=cwd)
    assert done.code == code, f"{done.code}: {done.err}"
    assert "Traceback" not in done.err
    assert done.out == "" or code == FAILED
    return [line.removeprefix("heron-mqtt: ") for line in done.errors]


# -- arguments -----------------------------------------------------------------------------------------


def test_every_wrong_option_is_told_at_once(tmp_path: Path) -> None:
    wrong = ["--steps", "0", "--seed", "-1", "--realtime", "1e300", "--broker", "amqp://x"]
    lines = _lines("run", "no_such_scenario", *wrong, code=USAGE, cwd=tmp_path)
    assert lines[:4] == [
        "--steps 0: expected a number of at least 1",
        "--seed -1: expected a number of at least 0",
        "--realtime 1e+300: expected seconds per step, more than 0, at most 86400",
        "--broker amqp://x: expected embedded, memory or mqtt://host:port",
    ]
    assert lines[4].startswith("no_such_scenario: no such scenario file; shipped scenarios are: ")
    assert len(lines) == 5


def test_a_broken_url_is_refused_without_showing_its_password() -> None:
    (line,) = _lines("run", "--broker", "mqtt://mg1:secret@127.0.0.1:port", code=USAGE)
    assert line.startswith(
        "--broker: 'mqtt://***@127.0.0.1:port' has no valid port or host: expected mqtt://"
    )
    assert "secret" not in line


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--devices", "emulated", "--broker", "memory"], "nothing can connect to --broker memory"),
        (["--devices", "emulated", "--centralized"], "--centralized uses no broker"),
        (["--centralized", "--broker", "memory"], "uses no broker; leave it or --broker out"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options: list[str], why: str) -> None:
    (line,) = _lines("run", *options, code=USAGE)
    assert why in line


def test_an_unknown_option_or_command_names_a_close_one() -> None:
    done = run_heron("run", "--stepps", "3")
    assert done.code == USAGE
    assert "--steps" in done.err
    done = run_heron("rnu")
    assert done.code == USAGE
    assert "run" in done.err


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["run", "--stepps", "3"], "run: no such option: --stepps, did you mean --state, --steps?"),
        (["rnu"], "no such command 'rnu', did you mean 'run'?"),
        (["run", "--steps", "x"], "run: invalid value for '--steps': "),
        (["credentials", "remove"], "credentials remove: missing argument 'NAME'"),
        (["run", "--days", "2", "--steps", "3"], "--steps and --days: each sets the length of the run"),
        (["run", "--days", "nan"], "--days nan: expected a number of days"),
        (["run", "--days", "1e308"], "--days 1e+308: expected a number of days"),
        (
            ["run", "--steps", "9999999999999999"],
            "--steps: 9999999999999999 steps of 900 s; expected at most ",
        ),
        (
            ["run", "--until", "9999-12-31 00:00"],
            "--until 9999-12-31 00:00: 279927360 steps of 900 s; expected",
        ),
        (["evaluate", "--seeds", "99999999999"], "--seeds 99999999999 --first-seed 0: expected 1 to 100000"),
        (
            ["replay", "x", "--broker", "mqtt://127.0.0.1:1", "--speed", "1e-300"],
            "--speed 1e-300: expected a",
        ),
        (
            [
                *("conformance", "--device", "MG1/ess", "--env-id", "x", "--broker", "mqtt://127.0.0.1:1"),
                *("--within", "1e308"),
            ],
            "--within 1e+308: expected a number above 0, at most 3600",
        ),
        (["run", "--max-fallbacks", "-1"], "--max-fallbacks -1: expected a number of at least 0"),
    ],
)
def test_a_wrong_argument_is_one_line_like_every_other_mistake(arguments: list[str], line: str) -> None:
    (told,) = _lines(*arguments, code=USAGE)
    assert told.startswith(line)
    assert "--" in told


def test_more_of_the_log_can_be_asked_for_behind_the_command_too() -> None:
    done = run_heron("check", "three_microgrids", "-v")
    assert done.code == 0, done.err


def test_an_unknown_kind_of_device_names_the_known_ones() -> None:
    (line,) = _lines("device", "batery", code=USAGE)
    assert line.startswith("device batery: no such kind; expected battery, ")
    assert line.endswith("did you mean 'battery'?")


# -- scenarios -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["run", "check"])
def test_every_error_of_a_scenario_is_told_with_file_key_and_value(command: str, tmp_path: Path) -> None:
    wrong = scenario(
        {"stepz": 4, "seed": "x", "network.vm_pu": 9.0, "microgrids.MG1.devices.ess.max_socc": 1}
    )
    file = write_toml(tmp_path / "wrong.toml", wrong)
    lines = _lines(command, str(file), code=USAGE)
    assert all(line.startswith(f"{file}: ") for line in lines)
    told = "\n".join(lines)
    assert "stepz: unknown key; did you mean 'steps'?" in told
    assert "seed = 'x': should be a valid integer" in told
    assert "network.vm_pu = 9.0: should be less than 1.5" in told
    assert "microgrids.MG1.devices.ess.max_socc: unknown key; did you mean 'max_soc'?" in told
    assert len(lines) == 4


def test_every_wrong_name_in_a_scenario_is_told(tmp_path: Path) -> None:
    """What only building finds: both of these, and nothing on standard output, not even with --json."""
    wrong = scenario({"profiles.price_file": "nowhere.csv", "microgrids.MG1.devices.ess.bus": "Bus 99"})
    file = write_toml(tmp_path / "wrong.toml", wrong)
    lines = _lines("run", str(file), "--centralized", "--json", code=USAGE)
    assert any("nowhere.csv" in line for line in lines)
    assert any("microgrids.MG1.devices.ess.bus" in line and "Bus 99" in line for line in lines)
    assert all(line.startswith(f"{file}: ") for line in lines)


def test_a_file_that_is_no_scenario_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.toml").write_text("steps = = 3\n")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    (line,) = _lines("check", "text.toml", code=USAGE, cwd=tmp_path)
    assert line.startswith("text.toml: not valid TOML: ")
    assert "line 1" in line
    (line,) = _lines("check", "binary.toml", code=USAGE, cwd=tmp_path)
    assert line.startswith("binary.toml: not UTF-8 at byte 0")


def test_a_byte_order_mark_is_no_mistake_and_a_folder_is_no_scenario(tmp_path: Path) -> None:
    file = write_toml(tmp_path / "small.toml", scenario())
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert run_heron("check", str(file)).code == 0
    (line,) = _lines("check", str(tmp_path), code=USAGE)
    assert line.endswith("is a folder, a scenario is a file; name a file in it: small.toml")


def test_a_remote_agent_needs_a_broker_it_can_reach(tmp_path: Path) -> None:
    file = write_toml(tmp_path / "remote.toml", scenario({"microgrids.MG1.remote": True}))
    (line,) = _lines("run", str(file), "--broker", "memory", code=USAGE)
    assert "microgrids.MG1.remote = true: its agent must be able to connect" in line


def test_a_grid_without_a_solution_ends_the_run_with_its_reason(tmp_path: Path) -> None:
    """Nothing is invented: what two steps earned is told, and what the third did is null."""
    shipped = Path(__file__).resolve().parents[2] / "config" / "profiles" / "simbench_week.csv"
    rows = shipped.read_text().splitlines()
    head = next(i for i, row in enumerate(rows) if row.startswith("time,"))
    from_step_2 = head + 1 + 28 + 2
    for i in range(from_step_2, len(rows)):
        time_, p_pu, *others = rows[i].split(",")
        rows[i] = ",".join([time_, str(500.0 * float(p_pu)), *others])
    (tmp_path / "heavy.csv").write_text("\n".join(rows) + "\n")
    file = write_toml(tmp_path / "heavy.toml", scenario({"profiles.file": "heavy.csv"}))
    done = run_heron("run", str(file), "--centralized", "--json")
    assert done.code == FAILED, done.err
    (line,) = done.errors
    assert line.startswith("heron-mqtt: the power flow diverged in step 2: ")
    result = done.result
    assert result["steps"] == 3
    assert result["diverged"] in line
    assert result["rewards"] == dict.fromkeys(("MG1", "MG2", "MG3"))
    assert "NaN" not in done.out


# -- brokers -------------------------------------------------------------------------------------------


@pytest.fixture
def nobody() -> Iterator[str]:
    """The address of a port that is taken and not listened to."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield f"mqtt://127.0.0.1:{sock.getsockname()[1]}"


@pytest.fixture
def mute() -> Iterator[str]:
    """The address of a server that accepts connections and never sends anything."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken: list[socket.socket] = []

        def accept() -> None:
            try:
                while True:
                    taken.append(server.accept()[0])
            except OSError:  # the test is over
                return

        threading.Thread(target=accept, daemon=True).start()
        yield f"mqtt://127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
        for sock in taken:
            sock.close()


def test_a_broker_that_is_not_there_is_named_within_a_bounded_wait(nobody: str) -> None:
    begin = time.monotonic()
    done = run_heron("run", "--broker", nobody, "--steps", "2", "--json")
    assert done.code == FAILED
    (line,) = done.errors
    assert f"no answer at {nobody}" in line
    assert done.result["error"] == line.removeprefix("heron-mqtt: ")
    assert done.result["steps"] == 0
    assert time.monotonic() - begin < 30.0


def test_a_broker_that_never_answers_is_given_up(mute: str) -> None:
    done = run_heron("run", "--broker", mute, "--steps", "2")
    assert done.code == FAILED
    (line,) = done.errors
    assert mute in line
    assert "Traceback" not in done.err


def test_a_port_in_use_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        (line,) = _lines("broker", "--port", str(port), code=FAILED)
    assert str(port) in line
    assert "is taken" in line


def test_a_broker_for_the_world_wants_to_know_its_users() -> None:
    (line,) = _lines("broker", "--host", "0.0.0.0", "--port", "0", code=USAGE)
    assert "no login is required" in line
    assert "heron-mqtt credentials add" in line
    assert line.startswith("--host: 0.0.0.0 is")
    assert "--allow-remote-anonymous" in line


def test_what_is_wrong_with_the_broker_names_its_options(tmp_path: Path) -> None:
    files = ["--tls-cert", "cert_file", "--client-ca", "ca", "--users", "users_file", "--acl", "acl_file"]
    lines = _lines("broker", *files, code=USAGE, cwd=tmp_path)
    here = os.path.realpath(tmp_path)
    assert lines == [
        "--tls-cert and --tls-key: only one is given, expected both or none",
        *(
            f"{option}: {here}/{name} is not a file, expected the path of a readable file"
            for option, name in zip(files[::2], files[1::2], strict=True)
        ),
    ]


def test_an_address_without_a_broker_is_said_once(tmp_path: Path) -> None:
    url = "mqtt://127.0.0.1:1"
    mapping = tmp_path / "box.toml"
    mapping.write_text('profile = "device_profiles/openems.toml"\n')
    for command in (
        ["probe", "--broker", url],
        ["probe", "--broker", url, "--mapping", str(mapping)],
        ["status", "--broker", url],
        ["tail", "--broker", url],
        ["home-assistant", "three_microgrids", "--broker", url],
    ):
        (line,) = _lines(*command, code=FAILED)
        assert line.startswith(f"no answer at {url} (Connection refused): start an MQTT broker there"), (
            command
        )


def test_options_for_tls_are_not_ignored_by_a_plain_connection(tmp_path: Path) -> None:
    """Who names an authority expects an encrypted connection."""
    url = "mqtt://127.0.0.1:1"
    device = ["--agent", "MG1", "--name", "ess", "--broker", url]
    bridge = ["device", "sunspec_bridge", *device, "--modbus", "127.0.0.1:1"]
    for command in (
        ["status", "--broker", url],
        ["run", "--broker", url],
        ["device", "battery", *device],
        bridge,
    ):
        (line,) = _lines(*command, "--ca", "ca.pem", "--alpn", "mqtt", code=USAGE, cwd=tmp_path)
        assert "--ca, --alpn: for TLS, but --broker is plain (mqtt://): use mqtts:// or wss://" in line


def test_a_user_is_removed_where_there_are_users(tmp_path: Path) -> None:
    (line,) = _lines("credentials", "remove", "ann", code=USAGE, cwd=tmp_path)
    assert line == "credentials: --users heron-users.txt: no such file, so there is no user 'ann'"


def test_the_credentials_command_that_this_names_exists(tmp_path: Path) -> None:
    add = ["credentials", "add", "MG1/ess", "--role", "device"]
    with heron(*add, cwd=tmp_path) as program:
        assert program.process.stdin is not None
        program.process.stdin.write("a secret\n")
        program.process.stdin.close()
        done = program.wait()
    assert done.code == 0, done.err
    assert "MG1/ess" in (tmp_path / "heron-users.txt").read_text()
    assert "a secret" not in (tmp_path / "heron-users.txt").read_text() + done.out
    assert run_heron("credentials", "remove", "MG1/ess", cwd=tmp_path).code == 0
    (line,) = _lines("credentials", "remove", "MG1/ess", code=USAGE, cwd=tmp_path)
    assert "MG1/ess" in line


# -- the output ----------------------------------------------------------------------------------------


def test_a_reader_that_goes_away_is_no_error_worth_a_traceback(tmp_path: Path) -> None:
    file = write_toml(tmp_path / "small.toml", scenario())
    reading, writing = os.pipe()
    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(run_heron_into, writing, "run", str(file), "--broker", "memory")
        with open(reading) as pipe:  # noqa: PTH123
            assert pipe.readline()
        done = ended.result()
    os.close(writing)
    assert done.err == ""


def assert_not_lost_and_said(code: int, err: str, record: Path) -> None:
    assert code == FAILED
    assert "Traceback" not in err
    *_, result, told = err.splitlines()
    assert json.loads(result)["steps"] > 0
    assert told.startswith("heron-mqtt: standard output cannot be written: ")
    assert run_heron("verify", str(record)).code == 0


def test_a_result_that_cannot_be_written_is_not_lost_and_said(tmp_path: Path) -> None:
    file = write_toml(tmp_path / "small.toml", scenario())
    record = tmp_path / "day.heron"
    arguments = ["run", str(file), "--broker", "memory", "--json", "--record", str(record)]
    with Path("/dev/full").open("w") as full:
        done = run_heron_into(full.fileno(), *arguments)
    assert_not_lost_and_said(done.code, done.err, record)


@pytest.mark.slow
def test_a_result_is_not_lost_where_standard_output_is_closed(tmp_path: Path) -> None:
    """``tests/unit/cli/test_streams.py`` has the quick one."""
    file = write_toml(tmp_path / "small.toml", scenario())
    record = tmp_path / "day.heron"
    arguments = ["run", str(file), "--broker", "memory", "--json", "--record", str(record)]
    with Program(["sh", "-c", '"$0" "$@" >&-', HERON, *arguments]) as program:
        done = program.wait()
    assert_not_lost_and_said(done.code, done.err, record)


def test_a_run_that_fell_short_says_so_and_fails_where_that_was_asked() -> None:
    poor = ["run", "hil_battery", "--steps", "33", "--realtime", "0.05", "--no-record"]
    done = run_heron(*poor, "--strict", "--max-fallbacks", "0")
    assert done.code == FAILED
    assert done.errors[0].startswith("heron-mqtt: --strict: ")
    assert done.errors[1].startswith("heron-mqtt: --max-fallbacks 0: ")
    (last,) = [line for line in done.out.splitlines() if "NOT WELL" in line]
    assert "a model stood in for MG1/ess in " in last
