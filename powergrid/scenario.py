"""The scenario: everything one run needs to know, as TOML. docs/scenarios.md lists every key.

Importing this loads neither numpy nor pandapower: device scripts read scenarios too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from heron_mqtt.agents.deadlines import Deadlines
from heron_mqtt.config import Table, find_scenario, read_toml, shipped_config, validate, validate_inside
from heron_mqtt.errors import ConfigError
from heron_mqtt.field.broker_table import DeviceBrokerTable
from heron_mqtt.field.gateway.authority import RULES
from heron_mqtt.field.gateway.settings import DeviceSettings, GatewayTable, authority_problem
from heron_mqtt.field.modbus.address_table import DeviceModbusTable
from heron_mqtt.input_files import NO_SUCH_FILE, is_file, why_no_file
from heron_mqtt.messages import MAX_LEASE_S, FaultKind, Level
from heron_mqtt.messaging.impairment import ImpairmentTable
from heron_mqtt.messaging.settings import FILES, prefix_problem
from heron_mqtt.messaging.topics import name_problem
from heron_mqtt.messaging.urls import DEFAULT_PORTS, parse_url
from heron_mqtt.protocols.registry import PROTOCOLS
from heron_mqtt.registry import NameIn
from powergrid.devices import DEVICES, DeviceSpec

MAX_STEPS = 10_000_000  # of a run: 285 years of quarter hours


def _seen(name: str) -> str:
    if (problem := name_problem(name)) is not None:
        raise ValueError(problem)
    return name


Name = Annotated[str, Field(min_length=1, max_length=64), AfterValidator(_seen)]
Weight = Annotated[float, Field(ge=0.0)]


class LoadProfile(Table):
    """Columns that scale the network's own loads: p = p_nominal * scale * column.

    Where a column is not given it follows the load's customer (``residential_p_pu``, ...) if the network
    says whose load it is; else the load is constant.
    """

    p: str | None = Field(None, description="Profile column of P, per unit.")
    q: str | None = Field(None, description="Profile column of Q, per unit.")
    scale: float = Field(1.0, ge=0.0, description="Factor on P and Q.")


class NetworkTable(Table):
    """The pandapower network and how it is solved."""

    source: str = Field(
        "cigre_mv_lv", description="A shipped network, a pandapower.networks name or a JSON file."
    )
    solver: Literal["newton", "fixed_point", "pandapower"] = "newton"
    tolerance_mva: float = Field(
        1e-10,
        gt=0.0,
        le=1.0,
        description="Largest power mismatch of a bus, MVA; not below the rounding error.",
    )
    vm_pu: float | None = Field(
        None, gt=0.5, lt=1.5, description="Slack voltage, pu; None = the network's own."
    )
    loads: LoadProfile = Field(LoadProfile(), description="Those outside all microgrids.")


class ProfilesTable(Table):
    """The time series files, relative to the scenario."""

    file: str = Field("profiles/simbench_week.csv", description="Load and renewable profiles, per unit.")
    price_file: str = Field("profiles/price_week.csv", description="Prices; may be the same file.")
    price_column: str = Field("price_per_mwh", description="Column of the price, $/MWh.")
    start_row: int = Field(0, ge=0, description="Row (from 0) with which an episode begins.")
    repeat: bool = Field(True, description="Continue with the first row after the last one.")


class MarketTable(Table):
    """Costs of energy besides the operator's price."""

    import_adder_per_mwh: float = Field(0.0, ge=0.0, description="Network charge on imported energy, $/MWh.")


class ProtocolTable(Table):
    """Communication between the agents."""

    horizontal: Annotated[str, NameIn(PROTOCOLS)] = "p2p"
    consensus_rounds: int = Field(4, ge=1, le=100)
    neighbours: Literal["all", "ring"] = Field(
        "all", description="Which agents exchange values in consensus, or trade in p2p (docs/models.md)."
    )
    options: dict[str, Any] = Field({}, description="Settings of a protocol that is not shipped.")

    @model_validator(mode="after")
    def _options_are_the_protocols(self) -> ProtocolTable:
        model = PROTOCOLS[self.horizontal].options
        if model is not None:
            validate_inside(model, "options", self.options)
        elif self.options:
            raise ValueError(f"options: {self.horizontal} has none; leave the table out")
        if self.neighbours != "all" and not PROTOCOLS[self.horizontal].has_neighbours:
            raise ValueError(
                f"neighbours = {self.neighbours!r}: {self.horizontal} has no neighbours, every agent trades "
                "with every other; leave the key out"
            )
        return self


class RewardTable(Table):
    """Weights of the violations in the reward, $ per unit of violation and step."""

    voltage_weight: Weight = Field(
        100.0, description="Per pu outside [vm_min_pu, vm_max_pu], summed over buses."
    )
    loading_weight: Weight = Field(
        1.0, description="Per 100 % above the limit, summed over lines and trafos."
    )
    soc_weight: Weight = Field(1.0, description="Per unit of state of charge outside the band, summed.")
    vm_min_pu: float = Field(0.95, gt=0.0, description="EN 50160 allows 0.9; planning uses less.")
    vm_max_pu: float = Field(1.05, gt=0.0)
    loading_max_percent: float = Field(100.0, gt=0.0)
    soc_min: float = Field(0.2, ge=0.0, le=1.0, description="Lower end of the preferred band.")
    soc_max: float = Field(0.8, ge=0.0, le=1.0, description="Upper end of the preferred band.")
    on_divergence: Literal["penalty", "nan"] = Field(
        "penalty",
        description="If the power flow has no solution: the penalty as reward and the last valid results as "
        "observation, or NaN for both.",
    )
    divergence_penalty: Weight = Field(
        100.0, description="Penalty of each microgrid in that step, in place of all other terms, $."
    )
    terms: dict[str, float] = Field({}, description="Weights of reward terms that are not shipped, by name.")

    @model_validator(mode="after")
    def _bands_are_not_empty(self) -> RewardTable:
        if self.vm_min_pu >= self.vm_max_pu:
            raise ValueError(f"vm_min_pu must be below vm_max_pu, got {self.vm_min_pu} and {self.vm_max_pu}")
        if self.soc_min >= self.soc_max:
            raise ValueError(f"soc_min must be below soc_max, got {self.soc_min} and {self.soc_max}")
        return self


class EnvelopeTable(Table):
    """Grid limits that the setpoints of a step must not violate together; checked before they are sent."""

    grid_check: bool = Field(False, description="Check every step's setpoints together by power flow.")
    vm_min_pu: float = Field(0.9, gt=0.0, description="EN 50160: 0.9 of nominal.")
    vm_max_pu: float = Field(1.1, gt=0.0, description="EN 50160: 1.1 of nominal.")
    loading_max_percent: float = Field(100.0, gt=0.0)

    @model_validator(mode="after")
    def _band_is_not_empty(self) -> EnvelopeTable:
        if self.vm_min_pu >= self.vm_max_pu:
            raise ValueError(f"vm_min_pu must be below vm_max_pu, got {self.vm_min_pu} and {self.vm_max_pu}")
        return self


def _range(least: float, most: float) -> BeforeValidator:
    """Return what checks a [least, most] within bounds, and says in one line what it should have been."""

    def check(given: Any) -> Any:
        pair = list(given) if isinstance(given, list | tuple) else []
        is_pair = len(pair) == 2 and all(
            isinstance(one, int | float) and not isinstance(one, bool) for one in pair
        )
        if not is_pair or not least <= pair[0] <= pair[1] <= most:
            raise ValueError(f"expected [least, most], two numbers within {least:g} and {most:g}")
        return tuple(pair)

    return BeforeValidator(check)


Range = tuple[float, float]


class RandomisationTable(Table):
    """Random changes between episodes, by the seed; the same in every mode. Formulas: docs/models.md."""

    start: Literal["fixed", "random"] = Field(
        "fixed", description="Begin at `profiles.start_row`, or at its time of day on a day that is drawn."
    )
    days: Literal["all", "weekdays", "weekends"] = Field("all", description="Days that may be drawn.")
    months: list[Annotated[int, Field(ge=1, le=12)]] = Field(
        [], description="Months that may be drawn (1 to 12); empty = all."
    )
    load_scale: Annotated[Range, _range(0.0, 100.0)] = Field(
        (1.0, 1.0), description="Factor on a microgrid's loads, for the whole episode, [least, most]."
    )
    load_noise: float = Field(0.0, ge=0.0, le=1.0, description="Relative standard deviation of loads.")
    pv_scale: Annotated[Range, _range(0.0, 100.0)] = Field(
        (1.0, 1.0), description="Factor on the available PV power, for the whole episode, [least, most]."
    )
    pv_noise: float = Field(
        0.0, ge=0.0, le=1.0, description="Relative standard deviation of the available PV power."
    )
    price_noise_per_mwh: float = Field(0.0, ge=0.0, le=1e6, description="Standard deviation of the price.")
    noise_correlation_s: float = Field(
        3600.0, ge=0.0, description="Time constant of the correlation of noise; 0 = uncorrelated."
    )
    initial_soc: Annotated[Range, _range(0.0, 1.0)] | None = Field(
        None, description="State of charge of batteries at the beginning, [least, most]; None = nameplate."
    )
    efficiency_factor: Annotated[Range, _range(0.01, 1.0)] = Field(
        (1.0, 1.0), description="Factor on efficiencies, [least, most]."
    )
    response_delay_s: Annotated[Range, _range(0.0, 86_400.0)] = Field(
        (0.0, 0.0),
        description="Dead time of devices, simulated or emulated, on top of their own, [least, most], "
        "simulated s.",
    )
    answer_delay_s: Annotated[Range, _range(0.0, 3600.0)] = Field(
        (0.0, 0.0),
        description="From setpoint to telemetry of emulated devices, on top of their own, [least, most], "
        "wall-clock s.",
    )

    @property
    def varies_delays(self) -> bool:
        """Whether emulated devices are slower in one episode than in another."""
        return self.response_delay_s != (0.0, 0.0) or self.answer_delay_s != (0.0, 0.0)

    @property
    def varies_response(self) -> bool:
        """Whether devices have another dead time in one episode than in another."""
        return self.response_delay_s != (0.0, 0.0)

    @property
    def varies_devices(self) -> bool:
        """Whether devices begin otherwise than their nameplate says."""
        return self.initial_soc is not None or self.varies_nameplates

    @property
    def varies_nameplates(self) -> bool:
        """Whether nameplates differ from episode to episode."""
        return self.efficiency_factor != (1.0, 1.0)


class ForecastTable(Table):
    """Forecasts of price, load and PV for the agents. Formulas: docs/models.md."""

    kind: Literal["none", "perfect", "persistence", "noisy"] = Field(
        "none",
        description="None, the true values, those of the day before, or the true values with an error.",
    )
    horizon: int = Field(96, ge=1, le=672, description="Number of steps after the coming one.")
    error: float = Field(
        0.1,
        ge=0.0,
        le=1.0,
        description="Relative standard deviation at the horizon, of noisy forecasts.",
    )


class PolicyTable(Table):
    """The agent's own policy, your class or price thresholds, and its prices in trading.

    ``policy = "module:Class"`` is short for ``policy = { use = "module:Class" }``.
    """

    use: str | None = Field(
        None,
        pattern=r"^[^:]+:[A-Za-z_]\w*$",
        description="module:Class, or file.py:Class beside the scenario, that decides (docs/agents.md); None "
        "= the rules below.",
    )
    arguments: dict[str, Any] = Field({}, description="Arguments of that class.")

    charge_below: float = Field(30.0, description="The battery charges at or below this price, $/MWh.")
    discharge_above: float = Field(45.0, description="The battery discharges at or above this price, $/MWh.")
    battery_share: float = Field(0.5, gt=0.0, le=1.0, description="Part of the battery's power that is used.")
    ask_share: float = Field(0.25, ge=0.0, le=1.0, description="Ask = price + share * import adder.")
    bid_share: float = Field(0.75, ge=0.0, le=1.0, description="Bid = price + share * import adder.")

    @model_validator(mode="before")
    @classmethod
    def _a_name_alone(cls, data: Any) -> Any:
        return {"use": data} if isinstance(data, str) else data

    @model_validator(mode="after")
    def _thresholds_are_ordered(self) -> PolicyTable:
        if self.charge_below >= self.discharge_above:
            raise ValueError(
                f"charge_below must be below discharge_above, got {self.charge_below} and "
                f"{self.discharge_above}"
            )
        return self


class EmulatorTable(Table):
    """Differences between the emulator and its model; none by default. See powergrid/emulators/."""

    response_delay_s: float = Field(0.0, ge=0.0, description="Dead time before it moves, simulated s.")
    lag_s: float = Field(0.0, ge=0.0, description="Time constant of its first-order lag, simulated s.")
    ramp_mw_per_s: float | None = Field(None, gt=0.0, description="Its own ramp, MW per simulated s.")
    efficiency_factor: float = Field(
        1.0, gt=0.0, le=1.0, description="Factor on both efficiencies of a battery."
    )
    offset_mw: float = Field(0.0, description="Constant error of the measurement, MW.")
    noise_mw: float = Field(0.0, ge=0.0, description="Standard deviation of the measurement, MW.")
    quantum_mw: float = Field(0.0, ge=0.0, description="Resolution of the measurement, MW; 0 = exact.")
    answer_delay_s: float = Field(0.0, ge=0.0, description="From setpoint to telemetry, wall-clock s.")
    jitter_s: float = Field(0.0, ge=0.0, description="Random part on top of it, uniform, wall-clock s.")
    seed: int = Field(0, ge=0, description="Seed of its random numbers, together with the device's name.")


class TwinTable(Table):
    """Differences between the device and its model, from ``heron-mqtt calibrate``; its twin has them."""

    response_delay_s: float = Field(0.0, ge=0.0, description="Dead time before it moves, s.")
    lag_s: float = Field(0.0, ge=0.0, description="Time constant of its first-order lag, s.")
    ramp_mw_per_s: float | None = Field(None, gt=0.0, description="Its own ramp, MW/s; None = unlimited.")
    offset_mw: float = Field(0.0, description="Constant error of its measurement, MW.")


class DeviceTable(Table):
    """One device: where it is, how it is reached, and its nameplate (the keys of its kind, beside these)."""

    bus: str | int | None = Field(None, description="Bus name or index; None = the network's suggestion.")
    profile: str | None = Field(
        None, description="Column of available PV power, or of demand, per unit of its nameplate."
    )
    control_q: bool = Field(False, description="Reactive power is part of the action.")
    authority: Level | None = Field(None, description="None = the run's default: simulated or emulated.")
    mapping: str | dict[str, Any] | None = Field(
        None, description="Of a vendor's device, its topics or registers: a profile's name or a table."
    )
    broker: DeviceBrokerTable | None = Field(
        None, description="Its own broker, for a device with a mapping; None = the run's."
    )
    modbus: DeviceModbusTable | None = Field(
        None, description="Where it is, for a device with a mapping of registers."
    )
    external: bool = Field(False, description="A real device, or your own program: run starts no emulator.")
    own_process: bool = Field(
        False, description="Its emulator has its own process; else it shares one with the others."
    )
    gateway: GatewayTable = Field(GatewayTable(), description="How the gateway treats it.")
    emulator: EmulatorTable = Field(EmulatorTable(), description="How its emulator differs from the model.")
    twin: TwinTable = Field(TwinTable(), description="How the device differs from its model, as measured.")
    spec: DeviceSpec

    @classmethod
    def models_inside(cls) -> Iterable[type[BaseModel]]:
        """Return the nameplates of all kinds of device."""
        return [device.spec_type for device in DEVICES.values()]

    @model_validator(mode="before")
    @classmethod
    def _spec_beside_our_keys(cls, data: Any) -> Any:
        if not isinstance(data, Mapping) or "spec" in data:
            return data
        ours = cls.model_fields.keys() - {"spec"}
        return {
            **{k: v for k, v in data.items() if k in ours},
            "spec": {k: v for k, v in data.items() if k not in ours},
        }

    @model_validator(mode="after")
    def _a_broker_or_modbus_belongs_to_a_mapping(self) -> DeviceTable:
        if self.broker is not None and self.mapping is None:
            raise ValueError("'broker' is for a device with a mapping; others are on the broker of the run")
        if self.modbus is not None and self.mapping is None:
            raise ValueError(
                "'modbus' is for a device with a mapping of registers; a SunSpec inverter is external = true "
                "and has a bridge (heron-mqtt device sunspec_bridge)"
            )
        if self.modbus is not None and self.broker is not None:
            raise ValueError("'broker' and 'modbus': a device is on MQTT or on Modbus")
        return self

    @model_validator(mode="after")
    def _keys_fit_the_kind(self) -> DeviceTable:
        spec = self.spec
        if spec.profile_says is not None and self.profile is None:
            raise ValueError(f"a {spec.kind} device needs 'profile', the column of {spec.profile_says}")
        if spec.profile_says is None and self.profile is not None:
            kinds = ", ".join(d for d in DEVICES if DEVICES[d].spec_type.profile_says is not None)
            raise ValueError(f"'profile' belongs to {kinds} devices, not to a {spec.kind}")
        if self.control_q and not spec.controls_q:
            raise ValueError(
                f"control_q = true: a {spec.kind}'s reactive power cannot be set; expected false"
            )
        return self

    @model_validator(mode="after")
    def _authority_can_be_held(self) -> DeviceTable:
        nameplate = self.spec.power_range_mw
        problem = authority_problem(self.authority, self.gateway, nameplate, is_real=self.is_real)
        if problem is not None:
            raise ValueError(problem)
        (low, high), band = self.spec.gap_mw, self.gateway.band
        if band is not None and low < high:
            end, end_mw, wanted = "p_max_mw", band.p_max_mw, f"{high} or more"
            if low < 0.0:
                end, end_mw, wanted = "p_min_mw", band.p_min_mw, f"{low} or less"
            least_mw = max(high, -low)
            if abs(end_mw) < least_mw:
                raise ValueError(
                    f"gateway.band.{end} = {end_mw}: nearer to 0 than min_p_mw = {least_mw}, the device can "
                    f"never run within it; expected {wanted}"
                )
        return self

    @property
    def is_real(self) -> bool:
        """Whether a real device is at the other end, with our topics or its vendor's."""
        return self.external or self.mapping is not None

    def settings(self, default: Level) -> DeviceSettings:
        """Return it as the gateway sees it.

        Args:
            default: For an authority that is left open; over a real device that is no more than shadow.
        """
        level = self.authority or default
        if self.authority is None and self.is_real and RULES[default].sends:
            level = "shadow"  # by rank emulated is below it, but an emulator's level sends
        kind = None if self.spec.is_any_kind else self.spec.kind
        return DeviceSettings(
            authority=level,
            kind=kind,
            is_real=self.is_real,
            has_adapter=self.mapping is not None,
            gap_mw=self.spec.gap_mw,
            gateway=self.gateway,
        )

    @property
    def has_own_process(self) -> bool:
        """Whether its emulator shares no process: what becomes of one must not become of the others."""
        return self.own_process or self.spec.runs_foreign_code

    @property
    def rated_s_mva(self) -> float:
        """Largest reactive power, Mvar."""
        return self.spec.rated_s_mva


class MicrogridTable(Table):
    """One microgrid: its place in the network, its loads, devices and agent."""

    buses: list[str | int] | None = Field(
        None, description="Bus names or indices; None = the network's zone."
    )
    loads: LoadProfile = LoadProfile()
    remote: bool = Field(False, description="Its agent runs elsewhere: heron-mqtt proxy --agent NAME.")
    policy: PolicyTable = PolicyTable()
    devices: dict[Name, DeviceTable] = Field(min_length=1)

    @field_validator("devices")
    @classmethod
    def _device_names_fit_into_fields(cls, devices: dict[str, DeviceTable]) -> dict[str, DeviceTable]:
        for name in devices:
            if not name.isidentifier():
                raise ValueError(
                    f"device name {name!r}: letters, digits and _ only, and no digit first (it is part of "
                    f"names such as p_{name})"
                )
        return devices


class FaultTable(Table):
    """A fault that a run causes in an emulator."""

    at_step: int = Field(ge=0, description="The fault begins before this step of the episode.")
    device: str = Field(description="AGENT/DEVICE, for example MG1/ess.")
    kind: FaultKind
    steps: int = Field(1, ge=1, le=1_000_000, description="Duration, in steps.")
    value: float = Field(0.0, description="Size of an offset, MW.")


class BrokerTable(Table):
    """The MQTT broker; command line and environment variables have priority. No password belongs here."""

    url: str | None = Field(None, description="mqtt://host[:port], mqtts://, ws:// or wss://; no password.")
    username: str | None = Field(None, description="User name at the MQTT broker.")
    password_file: str | None = Field(None, description="File that holds the password in its first line.")
    ca: str | None = Field(None, description="PEM file of the authority that signed its certificate.")
    cert: str | None = Field(None, description="PEM file of a client certificate.")
    key: str | None = Field(None, description="PEM file of its private key, unencrypted.")
    server_name: str | None = Field(None, description="Name in its certificate, if not the host.")
    alpn: str | None = Field(None, description="Application protocol to name in the TLS handshake.")
    topic_prefix: str | None = Field(
        None, description="Topic levels before heron/ at this broker, such as sites/7."
    )
    protocol: Literal["3.1.1", "5"] | None = Field(None, description="MQTT version; None = 3.1.1.")
    keepalive_s: int | None = Field(None, ge=1, le=65_535, description="None = 15 s.")
    client_id: str | None = Field(
        None, min_length=1, description="Client id of the run or proxy; None = generated."
    )
    clean_start: bool | None = Field(
        None, description="false: the broker keeps messages for us while we are disconnected; None = true."
    )
    session_expiry_s: int | None = Field(
        None, ge=1, le=(1 << 32) - 1, description="How long it keeps these messages (MQTT 5); None = 3600 s."
    )
    outbox: str | None = Field(
        None,
        min_length=1,
        description="File for messages that cannot be sent to the broker yet; None = no outbox.",
    )
    outbox_max_mb: float | None = Field(None, gt=0.0, description="Its largest size, megabytes; None = 100.")
    outbox_max_age_s: float | None = Field(
        None, gt=0.0, description="Older messages in it are not sent; None = 604800 s, a week."
    )

    @field_validator("topic_prefix")
    @classmethod
    def _begins_topics(cls, topic_prefix: str | None) -> str | None:
        if topic_prefix and (problem := prefix_problem(topic_prefix.removesuffix("/"))):
            raise ValueError(problem)
        return topic_prefix

    @field_validator("url")
    @classmethod
    def _holds_no_password(cls, url: str | None) -> str | None:
        is_mqtt = url is not None and url.partition("://")[0].lower() in DEFAULT_PORTS
        if url is not None and is_mqtt and parse_url(url).password is not None:
            raise ValueError("a password does not belong into a scenario; use password_file")
        return url


class HomeAssistantTable(Table):
    """Discovery messages for Home Assistant."""

    prefix: str = Field(
        "homeassistant",
        pattern="^[^+#/\\x00]+(/[^+#/\\x00]+)*$",
        description="Its discovery prefix: an MQTT topic without wildcards.",
    )
    stop_switch: bool = Field(
        False,
        description="Offer the emergency stop as a switch: every user of that Home Assistant may stop.",
    )


class IntegrationsTable(Table):
    """Messages of a run for other programs."""

    home_assistant: HomeAssistantTable | None = Field(
        None, description="Present: the run announces its devices and microgrids to Home Assistant."
    )


class Scenario(Table):
    """A whole scenario."""

    model_config = ConfigDict(defer_build=False)  # each program that reads one needs it

    name: Name
    env_id: Name | None = Field(None, description="First level of the topics; None = the scenario's name.")
    operator_id: Name = "system_operator"
    steps: int = Field(96, ge=1, le=MAX_STEPS, description="Steps of an episode (its time limit).")
    step_s: float = Field(900.0, gt=0.0, le=86_400.0, description="Length of a step, s.")
    seed: int = Field(0, ge=0)
    observation: Literal["full", "local"] | None = Field(None, description="None = by mode.")
    observation_scale: Literal["si", "unit"] = Field(
        "si", description="Observations in their units, or each scaled to -1 to 1 between its bounds."
    )
    lease_s: float = Field(
        30.0, gt=0.0, le=MAX_LEASE_S, description="How long a device holds a setpoint, wall-clock s."
    )
    realtime_s: float | None = Field(
        None,
        gt=0.0,
        le=86_400.0,
        description="Duration of a step, wall-clock s; None = as fast as possible.",
    )
    network: NetworkTable = NetworkTable()
    profiles: ProfilesTable = ProfilesTable()
    market: MarketTable = MarketTable()
    protocol: ProtocolTable = ProtocolTable()
    reward: RewardTable = RewardTable()
    envelope: EnvelopeTable = EnvelopeTable()
    randomisation: RandomisationTable = RandomisationTable()
    forecast: ForecastTable = ForecastTable()
    deadlines: Deadlines = Deadlines()
    broker: BrokerTable = BrokerTable()
    impairment: str | ImpairmentTable | None = Field(
        None, description="Impairment of the network: a file of config/networks, or a table."
    )
    faults: list[FaultTable] = Field([], max_length=10_000)
    integrations: IntegrationsTable = IntegrationsTable()
    microgrids: dict[Name, MicrogridTable] = Field(min_length=1)

    @model_validator(mode="after")
    def _faults_name_devices(self) -> Scenario:
        known = {f"{agent}/{name}" for agent, table in self.microgrids.items() for name in table.devices}
        for fault in self.faults:
            if fault.device not in known:
                raise ValueError(f"faults: no device {fault.device!r}; there are {', '.join(sorted(known))}")
        return self

    @property
    def topic_env_id(self) -> str:
        """The environment's id on the wire."""
        return self.env_id or self.name

    @property
    def mapped_devices(self) -> tuple[tuple[str, str], ...]:
        """(agent, device) of each device with its vendor's topics or registers."""
        return tuple(
            (agent, name)
            for agent, microgrid in self.microgrids.items()
            for name, table in microgrid.devices.items()
            if table.mapping is not None
        )


class LoadedScenario(Table):
    """A scenario with the place it came from, to which its file names are relative."""

    scenario: Scenario
    source: str
    directory: Path

    def path(self, name: str) -> Path:
        """Return a file that the scenario names: beside it, otherwise among the shipped files."""
        beside = self.directory / name
        shipped = shipped_config() / name
        return shipped if why_no_file(beside) == NO_SUCH_FILE and shipped.exists() else beside

    def broker_settings(self) -> dict[str, str]:
        """Return what the scenario says about the connection to the broker, its URL left out."""
        said = self.scenario.broker.model_dump(exclude_none=True, exclude={"url"})
        return {name: str(self.path(v)) if name in FILES else str(v) for name, v in said.items()}


def load_scenario(name: str | Path = "three_microgrids") -> LoadedScenario:
    """Read a scenario file, or a shipped scenario by its name.

    Raises:
        ConfigError: One line for each problem: file, key, value and what was expected.
    """
    path = find_scenario(name)
    scenario = _policies_beside(validate(Scenario, read_toml(path), str(path)), path.parent)
    return _located(LoadedScenario(scenario=scenario, source=str(path), directory=path.parent))


def _policies_beside(scenario: Scenario, directory: Path) -> Scenario:
    """Return the scenario with policies in files named by their whole path: proxies run elsewhere."""
    microgrids = {}
    for name, table in scenario.microgrids.items():
        file, _, kind = (table.policy.use or "").rpartition(":")
        if file.endswith(".py") and is_file(directory / file):
            use = f"{(directory / file).resolve()}:{kind}"
            policy = table.policy.model_copy(update={"use": use})
            microgrids[name] = table.model_copy(update={"policy": policy})
    return scenario.model_copy(update={"microgrids": {**scenario.microgrids, **microgrids}})


def scenario_from_dict(data: Mapping[str, Any], source: str = "scenario") -> LoadedScenario:
    """Validate a scenario given as a dict; file names in it are relative to the working directory.

    Raises:
        ConfigError: As ``load_scenario``.
    """
    scenario = validate(Scenario, data, source)
    return _located(LoadedScenario(scenario=scenario, source=source, directory=Path()))


def _located(loaded: LoadedScenario) -> LoadedScenario:
    """Return a scenario whose devices know where their files are.

    Raises:
        ConfigError: One line for each mistake in such a file.
    """
    problems: list[str] = []
    microgrids = {}
    for agent, microgrid in loaded.scenario.microgrids.items():
        devices = {}
        for name, table in microgrid.devices.items():
            try:
                spec = table.spec.located(loaded.path)
            except ConfigError as exc:
                where = f"{loaded.source}: microgrids.{agent}.devices.{name}"
                problems += [f"{where}.{problem}" for problem in exc.problems]
                continue
            devices[name] = table if spec is table.spec else table.model_copy(update={"spec": spec})
        microgrids[agent] = microgrid.model_copy(update={"devices": devices})
    if problems:
        raise ConfigError(*problems)
    return loaded.model_copy(
        update={"scenario": loaded.scenario.model_copy(update={"microgrids": microgrids})}
    )
