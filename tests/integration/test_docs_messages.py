"""docs/messages-by-hand.md: every line runs against a real mosquitto; what was sent is heard and valid."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Callable

from heron_mqtt.messages import WIRE_TYPES, parse_any
from heron_mqtt.messaging import topics
from support.doc_pages import ROOT, blocks
from support.heron_command import run_script
from support.mosquitto_server import Mosquitto

PAGE = ROOT / "docs" / "messages-by-hand.md"
WITHIN_S = 30


def lines(program: str) -> list[str]:
    """Return the page's lines of a program, those behind the introduction."""
    found = [line for block in blocks(PAGE, "sh") for line in block.text.splitlines()]
    return [line for line in found if line.startswith(program) and " -n " not in line]


def test_the_page_is_up_to_date() -> None:
    script = ROOT / "scripts" / "messages_by_hand.py"
    done = run_script(script, "--check")
    assert done.code == 0, done.out + done.err


def test_every_message_is_sent_by_a_line() -> None:
    sent = set(re.findall(r'"type":"(\w+)"', "\n".join(lines("mosquitto_pub"))))
    assert sent == set(WIRE_TYPES)


def test_what_the_lines_send_the_lines_hear(own_mosquitto: Callable[..., Mosquitto]) -> None:
    mosquitto = own_mosquitto()  # the shared one keeps what other tests of the page have sent
    sent = [shlex.split(line) for line in lines("mosquitto_pub")]
    filters = [shlex.split(line) for line in lines("mosquitto_sub")]
    port = ["-p", str(mosquitto.port), "-q", "1"]
    listening = []
    for line in filters:
        due = [one for one in sent if topics.matches(line[line.index("-t") + 1], one[one.index("-t") + 1])]
        assert due, f"nothing is sent that {line} hears"
        listening.append(
            subprocess.Popen(
                ["stdbuf", "-oL", *line, *port, "-d", "-C", str(len(due)), "-W", str(WITHIN_S)],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    try:
        for process in listening:
            assert process.stdout is not None
            assert any("Subscribed" in line for line in process.stdout), "the broker took the subscription"
        for program, *arguments in sent:
            subprocess.run([program, *port, *arguments], check=True, timeout=WITHIN_S)
        # Read as above: communicate() would leave out what was read ahead. They end by themselves.
        printed = [process.stdout.read() for process in listening if process.stdout is not None]
    finally:
        for process in listening:
            process.kill()
            process.wait()
    heard = re.findall(r"^(heron/\S+) (.*)$", "\n".join(printed), re.MULTILINE)
    assert sorted(heard) == sorted((line[line.index("-t") + 1], line[-1]) for line in sent)
    for _, payload in heard:
        parse_any(json.loads(payload))
