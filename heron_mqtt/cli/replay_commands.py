"""``heron-mqtt replay``, ``what-if``, ``merge``: runs again, with something changed, or put together."""

from __future__ import annotations

import asyncio
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from heron_mqtt.errors import ConfigError
from heron_mqtt.messaging import topics

if TYPE_CHECKING:
    from heron_mqtt.app.what_if import Comparison
    from heron_mqtt.record.replay import Replayed

Run = Annotated[Path, typer.Argument(metavar="RUN", help="The record of a run: a .heron file.")]


def add_replay_commands(app: typer.Typer) -> None:
    """Add the commands to ``heron-mqtt``."""
    app.command(epilog="Example: heron-mqtt replay runs/day.heron --broker mqtt://127.0.0.1:1883 --speed 10")(
        replay
    )
    app.command("what-if", epilog="Example: heron-mqtt what-if runs/day.heron --price x1.2")(what_if)
    app.command(epilog="Example: heron-mqtt merge environment.heron MG2.heron --to whole.heron")(merge)


def replay(
    run: Run,
    broker: Annotated[str, typer.Option(metavar="URL", help="mqtt://host:port")],
    speed: Annotated[float, typer.Option(metavar="FACTOR", help="How many times faster than the run.")] = 1.0,
    env_id: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", callback=topics.checked_env_id, help="Another environment than the recorded one."
        ),
    ] = None,
    commands_real_devices: Annotated[
        bool,
        typer.Option(
            "--command-real-devices",
            help="Publish setpoints of real devices, stops, authority and leases too: hardware will move.",
        ),
    ] = False,
) -> None:
    """Publish the messages of a run again at the same distances; commands to real devices are held back."""
    if not 1e-3 <= speed <= 1e6:
        raise ConfigError(f"--speed {speed:g}: expected a number from 0.001 to 1000000")
    done = asyncio.run(_replay(run, broker, speed, env_id, commands_real_devices))
    typer.echo(
        f"{done.published} messages in {done.took_s:.1f} s, at most {done.late_s * 1e3:.0f} ms behind time"
    )
    for channel, n in sorted(done.held_back.items()):
        typer.echo(f"held back: {n} on {channel}")


async def _replay(
    run: Path, url: str, speed: float, env_id: str | None, commands_real_devices: bool
) -> Replayed:
    from heron_mqtt.messaging.schemes import open_broker
    from heron_mqtt.record.reader import RecordFile
    from heron_mqtt.record.replay import replay as replay_record

    with RecordFile(run) as record:
        own = record.scenario.get("env_id") or record.scenario["name"]
        env_id_there = own if env_id is None else env_id
        async with open_broker(url, env_id=env_id_there, at_address=True, lasting=False) as broker:
            return await replay_record(
                record, broker, speed=speed, commands_real_devices=commands_real_devices, env_id=env_id
            )


def what_if(
    run: Run,
    policy: Annotated[
        str | None,
        typer.Option(
            metavar="MODULE:CLASS", help="Another policy: a class, made with the environment, with act()."
        ),
    ] = None,
    without_impairment: Annotated[
        bool, typer.Option("--without-impairment", help="As if the network had been perfect.")
    ] = False,
    network: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Another network: a file, or a shipped one's name."),
    ] = None,
    price: Annotated[
        str | None, typer.Option(metavar="CHANGE", help="x1.2: a factor; +5 or -5: added; 80: instead. $/MWh")
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Another value of the scenario; may be repeated."),
    ] = None,
) -> None:
    """Run a recorded day again with something changed, and compare; with nothing changed it is exact."""
    from heron_mqtt.app.what_if import what_if as run_again

    found = run_again(
        run,
        policy=policy,
        without_impairment=without_impairment,
        network=network,
        price=price,
        changes=_values(changes or []),
    )
    _print_comparison(run, found)
    for line in found.changed:
        typer.echo(f"what-if: {line}")
    nothing = not (policy or without_impairment or network or price or changes)
    raise SystemExit(0 if found.is_exact or not nothing else 1)


def _values(changes: list[str]) -> dict[str, Any]:
    found = {}
    for change in changes:
        key, equals, text = change.partition("=")
        if not equals or not key:
            raise ConfigError(
                f"--set {change}: expected KEY=VALUE, for example market.import_adder_per_mwh=30"
            )
        try:
            found[key] = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            found[key] = text  # a word without quotes
        except (
            ValueError,
            RecursionError,
        ) as exc:  # a number of more than 4,300 digits, brackets without end
            raise ConfigError(f"--set {key}: cannot be read: {str(exc).partition(';')[0]}") from None
    return found


def _print_comparison(run: Path, found: Comparison) -> None:
    from rich.table import Table

    from heron_mqtt.cli.console import make_console

    console = make_console()
    table = Table(title=f"{run}: {found.steps} steps again", title_justify="left")
    for heading in ("microgrid", "", "recorded", "replayed", "difference"):
        table.add_column(heading, justify="left" if heading in {"microgrid", ""} else "right")
    for agent in found.rewards:
        for name, sums in (
            ("reward $", found.rewards),
            ("cost $", found.costs),
            ("net MWh", found.energy_mwh),
        ):
            one, other = sums[agent]
            table.add_row(agent, name, f"{one:.4f}", f"{other:.4f}", f"{other - one:+.4f}")
    console.print(table)
    if found.is_exact:
        console.print(f"exact: nothing differs by more than {found.largest:.1e}")
        return
    console.print(f"first difference: {found.first}", soft_wrap=True)
    worst = sorted(found.differences, key=lambda one: -abs(one[2]))[:5]
    for step, agent, change in worst:
        console.print(f"reward of {agent} in step {step}: {change:+.4f} $")
    for device, step in found.apart.items():
        console.print(f"{device} behaves differently from step {step}: from there on its model is used")
    for message in found.unsure:
        console.print(f"not known: whether this was in time: {message}", soft_wrap=True)


def merge(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="The environment's record, then those of proxies.")
    ],
    to: Annotated[Path, typer.Option(metavar="FILE", help="The record to write.")],
) -> None:
    """Join the records of one run, each of one side; offsets of their clocks come from their messages."""
    from heron_mqtt.record.merge import merge as merge_files

    for side, offset in merge_files(runs, to).items():
        error = (
            f"at most {offset.error_s * 1e3:.3f} ms off"
            if offset.error_s is not None
            else "its error is not known: messages went one way only"
        )
        typer.echo(
            f"{side}: its clock is {offset.seconds * 1e3:+.3f} ms ahead, {error}, "
            f"from {offset.exchanged} messages"
        )
    typer.echo(to)
