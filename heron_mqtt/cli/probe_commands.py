"""``heron-mqtt probe``: the devices at a broker, and the values that a mapping reads from them."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from heron_mqtt.end_signals import run_until_told
from heron_mqtt.errors import ConfigError
from heron_mqtt.messaging import topics

if TYPE_CHECKING:
    from heron_mqtt.app.probe.announcements import Announced
    from heron_mqtt.app.probe.listen import ListenResult
    from heron_mqtt.app.probe.recognise import ProfileMatch
    from heron_mqtt.field.modbus.address_table import DeviceModbusTable
    from heron_mqtt.field.vendor.vendor_state import ReportLine

SHOWN = 40  # topics in the table; --json has all


def add_probe_commands(app: typer.Typer) -> None:
    """Add the command to ``heron-mqtt``."""
    example = "Example: heron-mqtt probe --broker mqtt://127.0.0.1:1883 --topic 'tele/#' --write device.toml"
    app.command(epilog=example)(probe)


def probe(
    broker: Annotated[str | None, typer.Option(metavar="URL", help="mqtt://host:port")] = None,
    topic: Annotated[str, typer.Option(metavar="FILTER", help="Topics to listen to.")] = "#",
    listen: Annotated[float, typer.Option(metavar="SECONDS", help="For how long.")] = 10.0,
    write: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a mapping to start from, with comments.")
    ] = None,
    mapping: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Show what this mapping makes of each payload; device_profiles/... for a shipped one.",
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME=VALUE", help="With --mapping: a parameter of the profile; may be repeated."
        ),
    ] = None,
    device: Annotated[
        str, typer.Option(metavar="AGENT/DEVICE", help="For placeholders in the mapping's topics.")
    ] = "MG1/ess",
    ask: Annotated[
        bool,
        typer.Option("--ask", help="With --mapping: send its keepalives, for devices that need them."),
    ] = False,
    send: Annotated[
        str | None,
        typer.Option(
            metavar="POWER",
            help="With --mapping: try one setpoint, such as 0.5kW or -500W; positive = injected. Asks first.",
        ),
    ] = None,
    for_: Annotated[
        str, typer.Option("--for", metavar="TIME", help="How long that setpoint holds: 10s, 1m.")
    ] = "10s",
    max_: Annotated[
        str,
        typer.Option(
            "--max",
            metavar="POWER",
            help="Largest power that is sent; the test ends if the device exceeds it.",
        ),
    ] = "1kW",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask, for scripts.")] = False,
    env_id: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            callback=topics.checked_env_id,
            help="Environment in which the device is driven; for --send.",
        ),
    ] = "default",
    modbus: Annotated[
        str | None,
        typer.Option(
            metavar="HOST[:PORT]|PORT",
            help="A device on Modbus, instead of --broker (with --send: in addition); a serial port is RTU.",
        ),
    ] = None,
    registers: Annotated[
        str | None,
        typer.Option(
            metavar="AREA:FIRST-LAST",
            help="With --modbus: show these registers, read as every type: input:0-49.",
        ),
    ] = None,
    unit: Annotated[int | None, typer.Option(metavar="N", help="With --modbus: its unit id (1).")] = None,
    framing: Annotated[str | None, typer.Option(metavar="tcp|rtu", help="rtu: RTU frames over TCP.")] = None,
    baud: Annotated[int | None, typer.Option(metavar="N", help="Of a serial port (9600).")] = None,
    parity: Annotated[
        str | None, typer.Option(metavar="none|even|odd", help="Of a serial port (none).")
    ] = None,
    stop_bits: Annotated[int | None, typer.Option(metavar="1|2", help="Of a serial port (1).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Listen to devices: list their messages and likely meanings, recognise known devices, try a mapping.

    Publishes and writes nothing, except with --ask and --send. With --mapping: raw payloads or registers
    beside their values, and why a value is missing.
    With --send: one bounded test setpoint, and its results: sign, factor, delay, acknowledgement, release.
    Exit code 0 only if all five are good.
    """
    if not 0.0 < listen <= 3600.0:
        raise ConfigError(f"--listen {listen:g}: expected seconds, more than 0, at most 3600")
    if mapping is not None and write is not None:
        raise ConfigError("--mapping and --write: one or the other")
    if send is None and (broker is None) == (modbus is None):
        raise ConfigError("--broker URL or --modbus HOST[:PORT]: one of them must be given")
    if modbus is not None and (mapping is None) == (registers is None):
        raise ConfigError(
            "--modbus needs --mapping FILE or --registers AREA:FIRST-LAST (a SunSpec inverter: "
            "device sunspec_bridge --show)"
        )
    if ask and (mapping is None or modbus is not None or send is not None):
        raise ConfigError(
            "--ask: needs --broker and --mapping; with --send and --modbus, leave it out: they always ask"
        )
    if set_ and mapping is None:
        raise ConfigError(f"--set {set_[0]}: needs --mapping FILE")
    parameters = dict(map(_parameter, set_ or ()))
    line = {"unit": unit, "framing": framing, "baud": baud, "parity": parity, "stop_bits": stop_bits}
    if modbus is None:
        for key, value in {"registers": registers, **line}.items():
            if value is not None:
                raise ConfigError(f"--{key.replace('_', '-')} {value}: needs --modbus HOST[:PORT]|PORT")
    place = None if modbus is None else _modbus(modbus, line)
    if send is not None:
        from heron_mqtt.cli.probe_trial import try_setpoint

        if mapping is None:
            raise ConfigError(
                "--send: needs --mapping FILE, which defines how a setpoint is sent to this device"
            )
        if broker is None:
            raise ConfigError("--send: needs --broker URL for stops and leases, also on Modbus")
        try_setpoint(
            broker,
            mapping,
            device,
            env_id,
            parameters=parameters,
            send=send,
            for_=for_,
            max_=max_,
            listen_s=listen,
            is_confirmed=yes,
            as_json=as_json,
            modbus=place,
        )
        return
    if place is not None and registers is not None:
        _show_registers(place, registers, as_json=as_json)
    elif place is not None and mapping is not None:
        _show_mapping(place, mapping, parameters, device, listen, as_json)
    elif broker is not None and mapping is not None:
        _show_mapping(broker, mapping, parameters, device, listen, as_json, asks=ask)
    elif broker is not None:
        _show_topics(broker, topic, listen, write, as_json=as_json)


def _parameter(text: str) -> tuple[str, Any]:
    from heron_mqtt.field.vendor.mapping import parameter_value

    name, is_given, value = text.partition("=")
    if not name or not is_given:
        raise ConfigError(f"--set {text}: expected NAME=VALUE")
    return name, parameter_value(value)


def _modbus(address: str, line: Mapping[str, object]) -> DeviceModbusTable:
    from heron_mqtt.config import validate
    from heron_mqtt.field.modbus.address_table import DeviceModbusTable
    from heron_mqtt.field.modbus.place import is_serial_port

    where = "serial" if is_serial_port(address) else "address"
    given = {key: value for key, value in line.items() if value is not None}
    return validate(DeviceModbusTable, {where: address, **given}, "--modbus")


def _show_registers(table: DeviceModbusTable, wanted: str, *, as_json: bool) -> None:
    from rich.table import Table

    from heron_mqtt.app.probe.raw_registers import PAIRS, read_raw, register_range
    from heron_mqtt.cli.status_table import status_console

    found = run_until_told(read_raw(table, register_range(wanted)))
    if as_json:
        rows = [{"area": r.area, "address": r.address, "word": r.word, **r.means} for r in found]
        typer.echo(json.dumps(rows))
    else:
        shown = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        headings = ("uint16", "int16", *(heading for heading, _, _ in PAIRS), "text")
        for heading in (found[0].area, "hex", *headings):
            shown.add_column(heading, justify="left" if heading == "text" else "right")
        for one in found:
            held = "-" if one.word is None else f"{one.word:04x}"
            meant = (one.means.get(heading, "") for heading in headings)
            cells = (f"{m:.5g}" if isinstance(m, float) else str(m) for m in meant)
            shown.add_row(str(one.address), held, *cells)
        status_console().print(shown)
    raise SystemExit(0 if any(one.word is not None for one in found) else 1)


def _show_topics(broker: str, topic: str, listen_s: float, write: Path | None, *, as_json: bool) -> None:
    from heron_mqtt.app.probe.announcements import announced
    from heron_mqtt.app.probe.draft import draft
    from heron_mqtt.app.probe.listen import listen
    from heron_mqtt.app.probe.recognise import profiles_that_fit

    if write is not None and write.exists():
        raise ConfigError(f"--write {write}: is there already; name another file")
    heard = run_until_told(listen(broker, topic, listen_s))
    matches, said = profiles_that_fit(heard), announced(heard)
    if as_json:
        typer.echo(json.dumps(_plain(heard, matches, said)))
    else:
        _print(heard, matches, said)
    if write is not None:
        try:
            write.write_text(draft(heard, matches), "utf-8")
        except OSError as exc:
            raise ConfigError(f"--write {write}: cannot be written: {exc.strerror}") from None
        typer.echo(f"{write}; try it: heron-mqtt probe --broker {broker} --mapping {write}", err=as_json)
    raise SystemExit(0 if heard.topics else 1)


def _print(heard: ListenResult, matches: list[ProfileMatch], said: list[Announced]) -> None:
    from rich.table import Table

    from heron_mqtt.app.operator_client.text import printable
    from heron_mqtt.cli.status_table import status_console
    from heron_mqtt.messaging.topics import ROOT

    console = status_console()
    if heard.left_out:
        of_boxes = "" if heard.topics else f"no message of a device in {heard.listened_s:g} s: "
        console.print(
            f"{of_boxes}{heard.left_out} messages on {heard.topic_prefix}{ROOT}/# or $SYS/# are left out: "
            "they come from this software or the broker; heron-mqtt tail shows those of this software",
            soft_wrap=True,
        )
    elif not heard.topics:
        console.print(
            f"no message in {heard.listened_s:g} s: is the filter correct, and may this user read it?"
        )
    if not heard.topics:
        return
    meant = {(one.topic, path): guess for one, path, _, guess in heard.meanings()}
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("topic", "every s", "kept", "may be", "last payload"):
        table.add_column(heading, justify="right" if heading == "every s" else "left", overflow="fold")
    for name in sorted(heard.topics)[:SHOWN]:
        one = heard.topics[name]
        guesses = [f"{g.quantity} in {g.unit or '?'}" for (t, _), g in meant.items() if t == name]
        table.add_row(
            printable(name, 60),
            "-" if one.every_s is None else f"{one.every_s:.3g}",
            "yes" if one.retained else "",
            ", ".join(dict.fromkeys(guesses)) or "",
            printable(one.sample[:60].decode(errors="replace"), 60),
        )
    console.print(table)
    more = len(heard.topics) - SHOWN + heard.more
    if more > 0:
        console.print(f"and {more} more topics: narrow it with --topic, or see all with --json")
    for box in said:
        offers = ", ".join(dict.fromkeys(f"{what} {unit}".strip() for what, _, unit in box.says))
        console.print(f"{box.how} announces {printable(box.name)}: {printable(offers, 300)}", soft_wrap=True)
    for match in matches:
        told = ", ".join(f"{name} = {value}" for name, value in match.parameters.items()) or "none needed"
        console.print(
            f"{match.name}: profile {match.profile} fits {len(match.topics)} topics; parameters: {told}"
            + (f"; not contained in the topics: {', '.join(match.missing)}" if match.missing else "")
            + ("; its mapping asks the device for more data, probe does not" if match.is_asked else ""),
            soft_wrap=True,
        )
    if not matches:
        console.print("no shipped profile fits; --write FILE writes a mapping to start from")


def _plain(heard: ListenResult, matches: list[ProfileMatch], said: list[Announced]) -> dict[str, Any]:
    return {
        "listened_s": heard.listened_s,
        "left_out": heard.left_out,
        "topics": {
            name: {
                "messages": one.messages,
                "every_s": one.every_s,
                "retained": one.retained,
                "sample": one.sample.decode(errors="replace"),
            }
            for name, one in sorted(heard.topics.items())
        },
        "meanings": [
            {"topic": one.topic, "path": path, "value": value, "quantity": g.quantity, "unit": g.unit}
            for one, path, value, g in heard.meanings()
        ],
        "profiles": [
            {
                "profile": m.profile,
                "parameters": {name: str(value) for name, value in m.parameters.items()},
                "missing": list(m.missing),
                "topics": list(m.topics),
                "share": round(m.share, 3),
            }
            for m in matches
        ],
        "announced": [
            {"how": box.how, "name": box.name, "says": [list(each) for each in box.says]} for box in said
        ],
    }


def _show_mapping(
    where: str | DeviceModbusTable,
    named: str,
    parameters: Mapping[str, Any],
    device: str,
    listen_s: float,
    as_json: bool,
    *,
    asks: bool = False,
) -> None:
    from rich.live import Live

    from heron_mqtt.app.probe.mapped import mapping_of, questions, watch_mapping, watch_registers
    from heron_mqtt.cli.status_table import status_console

    mapping = mapping_of(named, device, parameters)
    if (mapping.registers is None) != isinstance(where, str):
        wanted = "MQTT: give --broker" if mapping.registers is None else "Modbus: give --modbus"
        raise ConfigError(f"--mapping {named}: {mapping.name} is on {wanted}")
    console = status_console()
    if isinstance(where, str) and not asks and questions(mapping):
        asked = ", ".join(str(each.table.topic) for each in questions(mapping))
        typer.echo(f"this mapping asks the device with {asked}; probe asks only with --ask", err=True)

    def watch(
        show: Callable[[list[ReportLine]], None], every_s: float, until_s: float | None
    ) -> Coroutine[Any, Any, list[ReportLine]]:
        if isinstance(where, str):
            return watch_mapping(where, mapping, show, every_s=every_s, until_s=until_s, asks=asks)
        return watch_registers(where, mapping, show, every_s=every_s, until_s=until_s)

    if console.is_terminal and not as_json:
        with Live(console=console, auto_refresh=False) as live:
            run_until_told(watch(lambda lines: live.update(_mapped(lines), refresh=True), 0.5, None))
        return
    lines = run_until_told(watch(lambda _: None, listen_s, listen_s))
    if as_json:
        typer.echo(
            json.dumps(
                {
                    one.name: {
                        "value": one.value,
                        "payloads": one.payloads,
                        "sample": one.sample,
                        "why": one.why,
                        "topics": list(one.topics),
                    }
                    for one in lines
                }
            )
        )
    else:
        console.print(_mapped(lines))
    raise SystemExit(0 if all(one.value is not None for one in lines) else 1)


def _mapped(lines: list[ReportLine]) -> Any:
    from rich.table import Table

    from heron_mqtt.app.operator_client.text import printable

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("", "value", "age s", "payloads", "last payload", "why not"):
        is_number = heading in {"age s", "payloads"}
        table.add_column(heading, overflow="fold", justify="right" if is_number else "left")
    for one in lines:
        age = "-" if one.value is None or one.age_s > 1e6 else f"{one.age_s:.1f}"
        value = f"{one.value:.6g}" if isinstance(one.value, float) else str(one.value)
        table.add_row(
            one.name,
            "-" if one.value is None else printable(value, 40),
            age,
            str(one.payloads),
            printable(one.sample, 60),
            printable(one.why, 300),
        )
    return table
