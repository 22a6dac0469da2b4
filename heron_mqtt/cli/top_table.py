"""The screen of ``heron-mqtt top``: fits the terminal, cuts no value, shows what is wrong first."""

from __future__ import annotations

from collections import deque

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from heron_mqtt.app.operator_client.text import printable
from heron_mqtt.cli.kilo import kilo
from heron_mqtt.cli.sparkline import sparkline
from heron_mqtt.json_object import Json

KEPT = 40

STYLES = {"online": "green", "silent": "bold red", "fault": "bold red", "offline": "red", "model": "dim"}


class TopScreen:
    """Makes screens of snapshots; remembers the prices between them."""

    def __init__(self) -> None:
        self._prices: dict[str, deque[float]] = {}

    def draw(
        self, snapshot: Json, width: int, height: int | None, *, ascii_only: bool = False
    ) -> RenderableType:
        """Return what ``LiveView.snapshot`` says as a screen.

        Args:
            snapshot: Of the view.
            width: Of the terminal, columns.
            height: Of the terminal, rows; devices that do not fit are counted. None = no limit.
            ascii_only: Whether the terminal's encoding knows no blocks.
        """
        self._note_prices(snapshot["environments"])
        link = "live" if snapshot["connected"] else "THE BROKER IS AWAY"
        parts: list[RenderableType] = [
            Text(f"{snapshot['broker']}  {link}", "bold" if snapshot["connected"] else "bold red")
        ]
        if not snapshot["environments"]:
            parts.append(Text("no environment is alive", "bold red"))
        for environment in snapshot["environments"]:
            prices = self._prices.get(environment["env_id"], ())
            line = sparkline(prices, ascii_only=ascii_only)
            parts += _environment(environment, line, width, height)
        return Group(*parts)

    def _note_prices(self, environments: list[Json]) -> None:
        """Remember the prices of the environments that are there, and forget those of the others."""
        kept = {one["env_id"]: self._prices.get(one["env_id"], deque(maxlen=KEPT)) for one in environments}
        for one in environments:
            prices = kept[one["env_id"]]
            if one["price"] is not None and (not prices or prices[-1] != one["price"]):
                prices.append(one["price"])
        self._prices = kept


def _environment(environment: Json, prices: str, width: int, height: int | None) -> list[RenderableType]:
    env_id, run = environment["env_id"], environment["run"]
    parts: list[RenderableType] = []
    where = "no run" if run is None else run["state"]
    if run is not None and run["step"] is not None:
        where += f", step {run['step']}"
    price = environment["price"]
    line = f"{printable(env_id)}: {where}"
    if price is not None:
        line += f", {price:.2f} $/MWh {prices}"
    parts.append(Text(line[:width], "bold"))
    if environment["stop"] is not None:
        stop = environment["stop"]
        who, why = printable(stop["who"] or "unknown"), printable(stop["why"] or "no reason given")
        rejected = environment["rejected_in_stop"]
        since = f"; {rejected} setpoints rejected since" if rejected else ""
        parts.append(Text(f"EMERGENCY STOP by {who}: {why}{since}", "bold white on red"))
    problems = environment["problems"]
    parts += [Text(f"  {printable(problem, 300)}", "red") for problem in problems[:5]]
    if len(problems) > 5:
        parts.append(Text(f"  and {len(problems) - 5} more", "red"))
    if environment["microgrids"]:
        parts.append(_microgrids(environment["microgrids"]))
    devices = environment["devices"]
    room = len(devices) if height is None else max(3, height - 10 - len(environment["microgrids"]))
    if devices:
        parts.append(_devices(dict(list(devices.items())[:room])))
    if len(devices) > room:
        parts.append(Text(f"  and {len(devices) - room} more devices", "dim"))
    for event in environment["events"][:3]:
        if not event["kept"]:
            text = f"  {event['ago_s']:.0f} s ago  {printable(event['subject'])}: {printable(event['what'])}"
            parts.append(Text(text[:width], "dim"))
    return parts


def _microgrids(microgrids: Json) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("  microgrid", "load kW", "devices kW", "voltage pu", "charge %"):
        table.add_column(heading, justify="left" if heading == "  microgrid" else "right")
    for name, one in microgrids.items():
        powers = one.get("p_mw") or {}
        socs = one.get("soc") or {}
        low, high = one.get("vm_min_pu"), one.get("vm_max_pu")
        table.add_row(
            f"  {printable(name)}",
            _kw(one.get("load_mw")),
            _kw(sum(powers.values()) if powers else None),
            "-" if low is None or high is None else f"{low:.3f}-{high:.3f}",
            " ".join(f"{soc * 100:.0f}" for soc in socs.values()) or "-",
        )
    return table


def _devices(devices: Json) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("  device", "health", "authority", "set kW", "kW", "age s", "lease s"):
        table.add_column(
            heading, justify="left" if heading in {"  device", "health", "authority"} else "right"
        )
    for label, device in devices.items():
        health = device["health"]
        authority = device["authority"]
        table.add_row(
            f"  {printable(label)}",
            Text(health, STYLES.get(health, "yellow")),
            "-" if authority is None else str(authority["level"]),
            _kw(device["setpoint_mw"]),
            _kw(device["p_mw"]),
            "-" if device["age_s"] is None else f"{device['age_s']:.1f}",
            "-" if device["lease_left_s"] is None else f"{device['lease_left_s']:.1f}",
        )
    return table


def _kw(mw: float | None) -> str:
    return "-" if mw is None else kilo(mw)
