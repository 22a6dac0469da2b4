"""``heron-mqtt probe --send``: asks before a test setpoint is sent, and prints what it proved."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import typer

from heron_mqtt.end_signals import run_until_told
from heron_mqtt.errors import ConfigError

if TYPE_CHECKING:
    from heron_mqtt.app.probe.trial import TrialPlan, TrialReport
    from heron_mqtt.field.modbus.address_table import DeviceModbusTable

CONSENT = "yes"


def try_setpoint(
    broker: str,
    named: str,
    device: str,
    env_id: str,
    *,
    parameters: Mapping[str, Any],
    send: str,
    for_: str,
    max_: str,
    listen_s: float,
    is_confirmed: bool,
    as_json: bool,
    modbus: DeviceModbusTable | None = None,
) -> None:
    """Try one setpoint with a mapping, and end the program with 0 if all that it proves is good."""
    from heron_mqtt.app.operator_client.take import parse_duration, parse_power_with_unit
    from heron_mqtt.app.probe.mapped import mapping_of
    from heron_mqtt.app.probe.trial import SetpointTrial, TrialOrder

    order = TrialOrder(
        send_mw=parse_power_with_unit("--send", send),
        max_mw=parse_power_with_unit("--max", max_),
        for_s=parse_duration("--for", for_),
        listen_s=listen_s,
    )
    if not is_confirmed and not sys.stdin.isatty():
        raise ConfigError(
            "--send: asks for confirmation at a terminal, but there is no terminal; in a script, add --yes"
        )
    mapping = mapping_of(named, device, parameters)

    async def confirm(plan: TrialPlan) -> bool:
        _show_plan(plan, send, for_, device)
        return True if is_confirmed else await _consent()

    async def tried() -> TrialReport | None:
        trial = SetpointTrial(broker, mapping, device, env_id=env_id, order=order, say=_say, modbus=modbus)
        return await trial.run(confirm)

    report = run_until_told(tried())
    if report is None:
        _say("not confirmed: nothing was sent")
        raise SystemExit(1)
    if as_json:
        typer.echo(json.dumps(_plain(report, order.send_mw)))
    else:
        _print(report)
    raise SystemExit(0 if report.is_good else 1)


def _say(line: str) -> None:
    typer.echo(line, err=True)


def _show_plan(plan: TrialPlan, send: str, for_: str, device: str) -> None:
    from heron_mqtt.app.probe.trial import shown_message
    from heron_mqtt.app.probe.verdicts import kw

    before = plan.before
    _say(
        f"{device}: the power is {kw(before.p_mw)} (noise {kw(before.noise_mw)}, a value every "
        f"{before.every_s:.2g} s)"
    )
    _say(f"to be sent for {send}, holding for {for_}:")
    for topic, payload in plan.messages:
        _say(f"  {shown_message(topic, payload)}")
    _say("then, to hand the device back:")
    for topic, payload in plan.release:
        _say(f"  {shown_message(topic, payload)}")


async def _consent() -> bool:
    """Ask at the terminal; listening continues meanwhile."""
    typer.echo(f"The device will follow this setpoint. Type {CONSENT} to send: ", nl=False, err=True)
    loop = asyncio.get_running_loop()
    line: asyncio.Future[str] = loop.create_future()

    def read() -> None:
        if not line.done():
            line.set_result(sys.stdin.readline())  # a terminal gives whole lines

    loop.add_reader(sys.stdin, read)
    try:
        return (await line).strip().lower() == CONSENT
    finally:
        loop.remove_reader(sys.stdin)


def _print(report: TrialReport) -> None:
    from rich.text import Text

    from heron_mqtt.app.operator_client.text import printable
    from heron_mqtt.cli.status_table import status_console

    console = status_console()
    for verdict in report.verdicts:
        word, style = ("good", "green") if verdict.is_good else ("BAD ", "bold red")
        line = Text.assemble((word, style), f"  {verdict.name}: {printable(verdict.text, 500)}")
        console.print(line, soft_wrap=not console.is_terminal)
    if report.broken_off is not None:
        line = Text(f"BAD   broken off: {printable(report.broken_off, 500)}", "bold red")
        console.print(line, soft_wrap=not console.is_terminal)


def _plain(report: TrialReport, asked_mw: float) -> dict[str, object]:
    from heron_mqtt.app.probe.trial import rounded

    return {
        "asked_mw": asked_mw,
        "before": {
            "p_mw": rounded(report.before.p_mw),
            "noise_mw": rounded(report.before.noise_mw),
            "drift_mw_s": rounded(report.before.drift_mw_s),
            "every_s": rounded(report.before.every_s),
        },
        "verdicts": {v.name: {"good": v.is_good, "text": v.text} for v in report.verdicts},
        "broken_off": report.broken_off,
        "good": report.is_good,
        "power": [[round(t, 3), rounded(p)] for t, p in report.every],
    }
