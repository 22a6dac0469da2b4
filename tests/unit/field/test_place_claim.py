"""One device, one environment: what is claimed by whom on this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from heron_mqtt.errors import PlaceTaken
from heron_mqtt.field import place_claim
from heron_mqtt.field.modbus.place import SerialLine, TcpAddress
from heron_mqtt.field.place_claim import PlaceClaim, broker_place, place_name, unit_place

HOME = place_name("broker", 1883)


@pytest.fixture
def claims() -> Iterator[list[PlaceClaim]]:
    made: list[PlaceClaim] = []
    yield made
    for claim in made:
        claim.close()


@pytest.fixture
def place() -> str:
    """A place that no other test knows."""
    return place_name(f"box-{uuid.uuid4().hex}", 502, "unit", 1)


def test_another_environment_is_refused_and_named_until_the_first_one_leaves(
    claims: list[PlaceClaim], place: str
) -> None:
    first, second = PlaceClaim([place], "lab one", HOME), PlaceClaim([place], "field", HOME)
    claims += [first, second]
    first.take()
    with pytest.raises(PlaceTaken) as refused:
        second.take()
    told = f"{place}: environment 'labone' drives it already, by process {os.getpid()} on this machine"
    assert str(refused.value).startswith(told)
    first.take()
    first.close()
    second.take()
    with pytest.raises(PlaceTaken):
        first.take()


@pytest.mark.parametrize(("env_id", "broker"), [("lab", "other:1883"), ("field", HOME)])
def test_environments_of_one_name_at_two_brokers_are_two(
    claims: list[PlaceClaim], place: str, env_id: str, broker: str
) -> None:
    claims += [PlaceClaim([place], "lab", HOME), PlaceClaim([place], env_id, broker)]
    claims[0].take()
    with pytest.raises(PlaceTaken):
        claims[1].take()


def test_one_environment_may_drive_a_place_by_two_programs(claims: list[PlaceClaim], place: str) -> None:
    claims += [
        PlaceClaim([place], "lab", HOME),
        PlaceClaim([place], "lab", HOME),
        PlaceClaim([place], "f", HOME),
    ]
    claims[0].take()
    claims[1].take()
    claims[0].close()
    with pytest.raises(PlaceTaken):
        claims[2].take()


def test_a_place_for_one_device_alone_is_refused_to_another_of_its_environment(
    claims: list[PlaceClaim], place: str
) -> None:
    claims += [PlaceClaim([place], "lab", HOME, f"MG1/{name}") for name in ("ess", "ess", "pv")]
    claims[0].take()
    claims[1].take()
    with pytest.raises(PlaceTaken, match="MG1/ess of environment 'lab' drives it already"):
        claims[2].take()


def test_where_its_power_is_set_is_one_device_s_own_and_the_rest_its_environment_s(
    claims: list[PlaceClaim], place: str
) -> None:
    def device(name: str, register: int, env_id: str = "lab") -> PlaceClaim:
        own = [f"{place} holding {register}"]
        claims.append(PlaceClaim([place], env_id, HOME, own_places=own, own_device=f"MG1/{name}"))
        return claims[-1]

    device("ess", 7).take()
    device("ess", 7).take()
    device("pv", 8).take()
    second = device("ess2", 7)
    with pytest.raises(PlaceTaken, match="holding 7: MG1/ess of environment 'lab' drives it already"):
        second.take()
    with pytest.raises(PlaceTaken, match="1: environment 'lab' drives it already"):
        device("ess", 9, "field").take()
    for claim in claims[:2]:
        claim.close()
    second.take()


def test_of_several_places_all_are_claimed_or_none(claims: list[PlaceClaim], place: str) -> None:
    claims += [
        PlaceClaim([f"{place} b"], "lab", HOME),
        PlaceClaim([f"{place} a", f"{place} b"], "field", HOME),
        PlaceClaim([f"{place} a"], "third", HOME),
    ]
    claims[0].take()
    with pytest.raises(PlaceTaken):
        claims[1].take()
    claims[2].take()


def test_other_places_and_no_places_are_free(claims: list[PlaceClaim], place: str) -> None:
    claims += [
        PlaceClaim([place], "lab", HOME),
        PlaceClaim([f"{place}0"], "f", HOME),
        PlaceClaim([], "f", HOME),
    ]
    for claim in claims:
        claim.take()


def test_a_claim_ends_with_its_process_however_that_ends(claims: list[PlaceClaim], place: str) -> None:
    program = (
        "import sys, time; from heron_mqtt.field.place_claim import PlaceClaim\n"
        f"claim = PlaceClaim([{place!r}], 'lab', {HOME!r}); claim.take()\n"
        "print('up', flush=True); time.sleep(60)"
    )
    other = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == b"up\n"
        claims.append(PlaceClaim([place], "field", HOME))
        with pytest.raises(PlaceTaken, match=f"by process {other.pid} "):
            claims[0].take()
    finally:
        other.kill()
        other.wait()
        other.stdout.close() if other.stdout else None
    claims[0].take()


@pytest.mark.parametrize("how", ["forked", "started"])
def test_a_process_that_outlives_the_one_that_began_it_does_not_have_its_claim(
    claims: list[PlaceClaim], place: str, how: str
) -> None:
    begins = {
        "forked": "pid = os.fork()\nif pid == 0: time.sleep(60); os._exit(0)",
        "started": "pid = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], "
        "close_fds=False, stdout=subprocess.DEVNULL).pid",
    }
    program = (
        "import os, subprocess, sys, time; from heron_mqtt.field.place_claim import PlaceClaim\n"
        f"claim = PlaceClaim([{place!r}], 'lab', {HOME!r}); claim.take()\n"
        f"{begins[how]}\nprint(pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    try:
        claims.append(PlaceClaim([place], "field", HOME))
        with pytest.raises(PlaceTaken, match=f"by process {parent.pid} "):
            claims[0].take()
        parent.kill()
        parent.wait()
        os.kill(child, 0)  # it lives
        claims[0].take()
    finally:
        os.kill(child, signal.SIGKILL)
        parent.kill()
        parent.wait()
        parent.stdout.close()


def test_a_place_has_one_name_however_its_host_is_spelled(tmp_path: Path) -> None:
    assert (
        place_name("LOCALHOST", 502, "unit", 3)
        == place_name("127.0.0.1", 502, "unit", 3)
        == "127.0.0.1:502 unit 3"
    )
    assert place_name("Box.lan", 502) == "box.lan:502"
    (tmp_path / "tty").touch()
    (tmp_path / "by-id").symlink_to(tmp_path / "tty")
    assert place_name(str(tmp_path / "by-id"), None, "unit", 1) == place_name(
        str(tmp_path / "tty"), None, "unit", 1
    )


def test_what_is_learned_is_claimed_once_it_is_known_and_left_for_what_is_learned_instead(
    claims: list[PlaceClaim], place: str
) -> None:
    sets = [f"{place} {text}" for text in ("boxes/{id}/set", "boxes/7/set", "boxes/8/set", "mode")]
    learner, seven, eight, mode = (
        PlaceClaim([each], env, HOME) for each, env in zip(sets, "abcd", strict=True)
    )
    both = PlaceClaim([sets[0], sets[3]], "a", HOME)
    claims += [learner, seven, eight, mode, both]
    seven.take()
    learner.take()
    learner.take({"other": "7"})
    with pytest.raises(PlaceTaken, match="boxes/7/set: environment 'b' drives it already"):
        learner.take({"id": "7"})
    both.take()
    with pytest.raises(PlaceTaken, match="boxes/7/set"):
        both.take({"id": "7"})
    with pytest.raises(PlaceTaken):
        mode.take()  # what was claimed before stays
    both.take({"id": "8"})
    with pytest.raises(PlaceTaken):
        eight.take()
    both.take({"id": "9"})
    eight.take()


def test_a_broker_has_one_name_in_whatever_order_its_hosts_are_given() -> None:
    assert broker_place([("B", 1884), ("localhost", 1883)]) == "127.0.0.1:1883,b:1884"
    assert broker_place([("::1", 1883), ("b", 1884)]) == broker_place([("b", 1884), ("127.0.0.1", 1883)])


def test_where_nothing_can_be_known_nothing_is_refused(
    claims: list[PlaceClaim], place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    claims += [PlaceClaim([place], name, HOME) for name in ("lab", "field", "last")]
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(place_claim, "_NAMES", Path("/nowhere"))
        for claim in claims[:2]:
            claim.take()
    claims[2].take()  # nor did they bind a name, which no other system has


@pytest.mark.parametrize("env_id", ["x" * 200, "a b@c", "äöü", ""])
def test_any_environment_can_claim(claims: list[PlaceClaim], place: str, env_id: str) -> None:
    claims += [PlaceClaim([place], env_id, HOME), PlaceClaim([place], "field", HOME)]
    claims[0].take()
    with pytest.raises(PlaceTaken):
        claims[1].take()


def test_a_claim_that_is_left_is_closed_at_once_and_shows_the_beginning_of_who_holds_it(
    claims: list[PlaceClaim], place: str
) -> None:
    claims += [PlaceClaim([place], "e" * 20, HOME, "d" * 20), PlaceClaim([place], "field", HOME)]
    claims[0].take()
    with pytest.raises(PlaceTaken, match=f": {'d' * 16} of environment '{'e' * 16}' drives it already"):
        claims[1].take()
    (held,) = claims[0]._held.values()
    claims[0].close()
    claims[0].close()
    assert held.fileno() == -1


def test_a_modbus_unit_is_named_by_its_line_or_its_address() -> None:
    assert unit_place(SerialLine("/dev/null"), 7) == "/dev/null unit 7"
    assert unit_place(TcpAddress("Box", 1502), 7) == "box:1502 unit 7"
