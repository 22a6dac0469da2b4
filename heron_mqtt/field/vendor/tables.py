"""The tables of a mapping, as scenarios and device profiles write them. See docs/device-mappings.md."""

from __future__ import annotations

import itertools
import struct
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from heron_mqtt.config import Table
from heron_mqtt.field.vendor.cleaning_keys import MAX_ITEMS, CleaningKeys, Path, Scalar
from heron_mqtt.field.vendor.parameters import as_text
from heron_mqtt.field.vendor.register_tables import ModbusTable, RegisterTable, WriteFunction
from heron_mqtt.field.vendor.sparkplug_payload import DATATYPES
from heron_mqtt.field.vendor.units import UnitKeys


def _as_sent(value: Any) -> Any:
    """Return a number or true/false as its text: what ``"{rated_w}"`` is where it stands alone."""
    return as_text(value) if isinstance(value, bool | int | float) else value


Payload = Annotated[str | dict[str, Any] | list[Any], BeforeValidator(_as_sent)]
Topic = Annotated[str, BeforeValidator(_as_sent), Field(min_length=1, max_length=1000)]
Topics = Topic | Annotated[list[Topic], Field(min_length=1, max_length=50)]
ValueName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=64)]
FormulaText = Annotated[str, Field(min_length=1, max_length=500)]
Qos = Literal[0, 1, 2]
MAX_REGISTERS = 200

SetQuantity = Literal["p_mw", "q_mvar", "lease_s", "seq", "uid"]
ReadQuantity = Literal["p_mw", "q_mvar", "soc", "vm_pu", "running", "ack_seq"]
Format = Literal["json", "text", "csv", "key_value", "binary", "sparkplug"]
InputKind = Literal["number", "numbers", "text", "boolean", "time"]


class InputTable(CleaningKeys):
    """One raw input: where it stands in a payload, and how it becomes a number, a text or true/false."""

    path: Path | None = Field(None, description="JMESPath expression; for format json.")
    column: Annotated[int, Field(ge=0, le=1000)] | Path | None = Field(
        None, description="Column, from 0, or its name in the header line; for format csv."
    )
    key: Path | None = Field(None, description="Name before the sign of assignment; for format key_value.")
    metric: Path | None = Field(None, description="Name of the metric; for format sparkplug.")
    struct: Annotated[str, Field(min_length=1, max_length=8)] | None = Field(
        None, description="How bytes are packed: byte order < or >, and one letter of Python's struct."
    )
    at: int = Field(0, ge=0, le=65_535, description="First byte of the packed value, from 0.")
    swap_words: bool = Field(False, description="The 16-bit words of the value come in reverse order.")
    bytes: Literal["raw", "hex", "base64"] = Field("raw", description="How the bytes are written.")
    type: InputKind = Field("number", description="What it is.")
    decimal: Literal[".", ","] = Field(".", description="Decimal sign of numbers in text.")
    thousands: Literal[".", ",", " ", "'", "_"] | None = Field(
        None, description="Separator of thousands in text."
    )
    suffix: bool | str | list[str] | dict[str, float] | None = Field(
        None, description="What may stand behind the number; a table gives each unit its factor."
    )
    wrap: Literal[8, 16, 32, 64] | None = Field(
        None, description="Bits of a signed number that was sent as an unsigned one."
    )
    on_change: bool = Field(
        False, description="Sent only when it changes: its last value counts while the device sends anything."
    )

    @model_validator(mode="after")
    def _places_are_consistent(self) -> Self:
        if self.thousands == self.decimal:
            raise ValueError(f"thousands and decimal must differ, both are {self.decimal!r}")
        if self.struct is not None:
            _check_struct(self.struct)
        elif self.at or self.swap_words:
            raise ValueError("at and swap_words need struct")
        return self


class FieldTable(InputTable, UnitKeys):
    """An input that is a quantity as it stands: sign * (number * scale + offset), in unit."""

    offline: float | bool | None = Field(
        None, description="What the quantity is while the device is offline, in unit; None = not known."
    )


class QuantityTable(UnitKeys):
    """A quantity by a formula over named inputs."""

    formula: FormulaText = Field(description="Over names of inputs; its result is in unit.")
    update: Literal["round", "each"] = Field(
        "round", description="Computed once a round of all topics, or at each message."
    )
    within_s: float = Field(
        5.0, gt=0.0, le=86_400.0, description="How far apart the messages of one value may be, s."
    )
    clamp: tuple[float, float] | None = Field(None, description="As with an input; in unit.")
    clamp_tolerance: float | None = Field(None, ge=0.0, description="As with an input.")
    offline: float | bool | None = Field(None, description="What it is while the device is offline, in unit.")

    _arrays = field_validator("clamp", mode="before")(lambda v: tuple(v) if isinstance(v, list) else v)

    @model_validator(mode="after")
    def _clamp_is_a_range(self) -> Self:
        if self.clamp is not None and self.clamp[0] >= self.clamp[1]:
            raise ValueError(f"clamp: the first must be below the second, got {list(self.clamp)}")
        if self.clamp_tolerance is not None and self.clamp is None:
            raise ValueError("clamp_tolerance needs clamp")
        return self


_ACTS_IN = {
    "tolerant": ("json",),
    "separator": ("csv", "key_value"),
    "assign": ("key_value",),
    "line": ("json", "csv"),
    "encoding": ("json", "text", "csv", "key_value"),
}


class PayloadKeys(Table):
    """How payloads are read before anything is looked for in them."""

    format: Format = "json"
    encoding: str = Field("utf-8", description="Of text: a name that Python knows.")
    tolerant: bool = Field(
        False, description="Read almost-JSON: nan, empty values, single quotes, None, trailing commas."
    )
    separator: Annotated[str, Field(min_length=1, max_length=8)] = Field(
        ",", description="Between columns (csv) or pairs (key_value)."
    )
    assign: Annotated[str, Field(min_length=1, max_length=8)] = Field(
        "=", description="Between name and value; for key_value."
    )
    line: int | None = Field(None, description="Line of json or csv text, from 0, -1 = the last.")

    @model_validator(mode="after")
    def _acts(self) -> Self:
        for key, formats in _ACTS_IN.items():
            if key in self.model_fields_set and self.format not in formats:
                raise ValueError(f"{key}: not with format = {self.format!r}; it is for {', '.join(formats)}")
        return self

    @field_validator("encoding")
    @classmethod
    def _is_known(cls, name: str) -> str:
        try:
            "".encode(name)
        except (LookupError, UnicodeError):
            raise ValueError(
                "no text encoding of that name; common ones are utf-8, latin-1, cp1252"
            ) from None
        return name


class TelemetryTable(PayloadKeys):
    """Payloads of one topic (or several alike), and what is read from them."""

    topic: Topics
    inputs: dict[ValueName, InputTable] = Field(
        {}, max_length=MAX_ITEMS, description="Named inputs for formulas."
    )
    fields: dict[ReadQuantity, FieldTable] = Field(
        {}, description="Inputs that are quantities as they stand."
    )
    when: FormulaText | None = Field(
        None, description="Read a payload only while this is true, over inputs of this table."
    )
    timestamp: ValueName | None = Field(None, description="Input that says when the payload was made.")
    timestamp_tolerance_s: float = Field(
        60.0, gt=0.0, le=86_400.0, description="How old such a payload may be, s; also how far ahead."
    )
    changed_by: ValueName | None = Field(
        None, description="Input that changes with every new measurement: a counter or a time."
    )
    reports: Literal["always", "on_change"] = Field(
        "always", description="on_change: sent only when something changes; [liveness] says what proves life."
    )

    @model_validator(mode="after")
    def _reads_something(self) -> Self:
        if not self.inputs and not self.fields:
            raise ValueError("nothing is read from it: give fields or inputs")
        if self.when is not None and self.format == "sparkplug":
            raise ValueError("when: not with format 'sparkplug': each metric has a name")
        return self

    @property
    def topics(self) -> list[str]:
        """Its topics, one or several."""
        return [self.topic] if isinstance(self.topic, str) else list(self.topic)


class WordTable(Table):
    """One word, and the lowest number from which on it is sent."""

    word: Scalar
    from_: float | None = Field(None, alias="from", description="None = from minus infinity; the first only.")


class ValueTable(UnitKeys):
    """A number of the setpoint in the vendor's terms: of a quantity, or by a formula over other values."""

    quantity: SetQuantity | None = Field(None, description="What it is a number of; or give formula.")
    formula: FormulaText | None = Field(
        None, description="Over other values, named inputs and p_mw, q_mvar, ..."
    )
    pack: Annotated[list[Scalar], Field(min_length=1, max_length=100)] | None = Field(
        None, description="Numbers and {value}s above it that are packed into bytes, as struct says."
    )
    struct: Annotated[str, Field(min_length=2, max_length=100)] | None = Field(
        None, description="With pack: byte order < or >, and a letter of Python's struct for each."
    )
    bytes: Literal["hex", "base64"] | None = Field(
        None, description="With pack: how the bytes are written in the text that it is."
    )
    sign: Literal[1, -1] = Field(1, description="-1 where the device counts consumption as positive.")
    absolute: bool = Field(False, description="Take the magnitude, before scale and offset.")
    scale: float = Field(1.0, description="Multiplies; not 0.")
    offset: float = 0.0
    table: Annotated[list[tuple[float, float]], Field(min_length=2, max_length=100)] | None = Field(
        None, description="Points [meant, sent]; between them a straight line, beyond them the last one."
    )
    min: float | None = Field(None, description="Lower values are sent as this.")
    max: float | None = Field(None, description="Higher values are sent as this.")
    decimals: Annotated[int, Field(ge=0, le=9)] | None = Field(None, description="None = not rounded.")
    rounding: Literal["nearest", "toward_zero"] = "nearest"
    wrap: Literal[8, 16, 32, 64] | None = Field(
        None, description="Send a negative number as an unsigned one of so many bits."
    )
    decimal: Literal[".", ","] = Field(".", description="Decimal sign in text payloads.")
    width: int = Field(0, ge=0, le=32, description="Fill with zeros to so many characters, in text payloads.")
    words: Annotated[list[WordTable], Field(min_length=2, max_length=MAX_ITEMS)] | None = Field(
        None, description="Send a word instead of the number, by increasing thresholds."
    )

    @field_validator("table", mode="before")
    @classmethod
    def _points_are_tuples(cls, value: Any) -> Any:
        return [tuple(v) if isinstance(v, list) else v for v in value] if isinstance(value, list) else value

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        given = [key for key in ("quantity", "formula", "pack") if getattr(self, key) is not None]
        if len(given) != 1:
            raise ValueError("give one of quantity, formula and pack")
        of_pack = {"pack", "struct", "bytes"}
        if self.pack is None and (self.struct is not None or self.bytes is not None):
            raise ValueError("struct and bytes need pack")
        if self.pack is not None:
            beside = sorted(self.model_fields_set - of_pack)
            if beside:
                raise ValueError(f"{beside[0]}: not with pack: it belongs to the values that are packed")
            if self.struct is None or self.bytes is None:
                raise ValueError('pack needs struct, for example ">BhH", and bytes, "hex" or "base64"')
            _check_packing(self.struct, self.pack, "pack")
        if self.scale == 0.0:
            raise ValueError("scale must not be 0")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min must not be above max, got {self.min:g} and {self.max:g}")
        if self.rounding != "nearest" and self.decimals is None:
            raise ValueError("rounding needs decimals")
        if self.wrap is not None and self.decimals != 0:
            raise ValueError("wrap needs decimals = 0")
        if self.table is not None and any(b[0] <= a[0] for a, b in itertools.pairwise(self.table)):
            raise ValueError("table: what is meant must rise from point to point")
        if self.words is not None:
            starts = [w.from_ for w in self.words]
            if starts[0] is not None or None in starts[1:]:
                raise ValueError("words: every word but the first needs 'from', and the first has none")
            rising = [s for s in starts if s is not None]
            if any(b <= a for a, b in itertools.pairwise(rising)):
                raise ValueError("words: 'from' must rise from word to word")
        return self


RegisterValues = Annotated[dict[ValueName, Scalar], Field(min_length=1, max_length=MAX_ITEMS)]


RELEASE_PAUSES_S = 0.5
"""All pauses of a release: at the end of a program it has a second, and a part would not be sent else."""


class MessageTable(Table):
    """One message to the device, or registers of it to write."""

    topic: Topic | None = None
    payload: Payload | None = Field(
        None, description="A text, or a table or array to be sent as JSON; {value} inside."
    )
    registers: RegisterValues | None = Field(
        None, description="Registers to write, in this order: name of the register -> value or {value}."
    )
    function: WriteFunction | None = Field(
        None, description="With registers: Modbus function 16, or single: 6; None = as [modbus] says."
    )
    read_back: bool = Field(
        False, description="With registers: read them after writing; other words are a rejection."
    )
    qos: Qos = 1
    retain: bool = Field(False, description="A retained setpoint outlives its lease: avoid.")
    when: FormulaText | dict[str, Annotated[list[Scalar], Field(min_length=1)]] | None = Field(
        None, description="Send it only while values are at one of these words, or while a formula is true."
    )
    pause_s: float = Field(0.0, ge=0.0, le=5.0, description="Wait so long before it, s.")
    struct: Annotated[str, Field(min_length=2, max_length=100)] | None = Field(
        None, description="Pack the array of the payload: byte order < or >, and letters of Python's struct."
    )

    metrics: dict[str, str] | None = Field(
        None, description="Send a Sparkplug payload: metric -> datatype; the payload is a table of values."
    )

    @model_validator(mode="after")
    def _is_a_message_or_registers(self) -> Self:
        if self.registers is None:
            missing = [key for key in ("topic", "payload") if getattr(self, key) is None]
            if missing:
                raise ValueError(f"{missing[0]}: missing; it must be given (or registers, on Modbus)")
            given, which = [k for k in ("function", "read_back") if getattr(self, k)], "registers"
        else:
            keys = ("topic", "payload", "retain", "struct", "metrics")
            given, which = [k for k in keys if getattr(self, k)], "a topic"
        if given:
            raise ValueError(f"{given[0]}: belongs to a message with {which}")
        return self

    @model_validator(mode="after")
    def _struct_packs_an_array(self) -> Self:
        if self.metrics is not None:
            if not isinstance(self.payload, dict) or self.payload.keys() != self.metrics.keys():
                raise ValueError("metrics: the payload must be a table of the same names")
            unknown = sorted(set(self.metrics.values()) - DATATYPES.keys())
            if unknown:
                raise ValueError(f"metrics: no datatype {unknown[0]!r}; there are {', '.join(DATATYPES)}")
        if self.struct is not None:
            _check_packing(self.struct, self.payload, "the payload")
        return self


class IdTable(InputTable):
    """The number or text of a message that its answer repeats."""

    of: str | None = Field(None, description="Value of the setpoint that is repeated; None = the only one.")


class EchoTable(InputTable):
    """The value that an answer repeats."""

    of: str = Field(description="Value of the setpoint that is repeated.")
    tolerance: float = Field(0.0, ge=0.0, description="How far it may be from what was sent.")


class SuccessTable(InputTable):
    """What tells success."""

    is_: list[Scalar] = Field(alias="is", min_length=1, description="Words that mean success.")


class AnswerTable(PayloadKeys):
    """A message by which the device accepts or rejects a setpoint."""

    topic: Topic = Field(description="May hold {value}s of the setpoint.")
    id: IdTable | None = Field(None, description="Without: any message on this topic answers.")
    echo: EchoTable | None = Field(None, description="The value that it took.")
    success: SuccessTable | None = Field(None, description="The flag that tells success.")
    error: InputTable | None = Field(
        None, description="The text of an error: the reason, and without success the rejection itself."
    )


class SetpointTable(Table):
    """How a setpoint is sent: the values, and the messages they stand in, in order."""

    values: dict[ValueName, ValueTable] = Field({}, max_length=MAX_ITEMS)
    messages: list[MessageTable] = Field(min_length=1, max_length=MAX_ITEMS)
    release: (
        Literal["zero"] | Annotated[list[MessageTable], Field(min_length=1, max_length=MAX_ITEMS)] | None
    ) = Field(None, description="Messages that hand the device back, or zero: a setpoint of 0 does it.")
    answers: list[AnswerTable] = Field([], max_length=MAX_ITEMS)
    confirm: Literal["answer", "power", "sent"] | None = Field(
        None, description="What confirms a setpoint; None = answer if there is one, else sent."
    )
    answer_within_s: float = Field(1.0, gt=0.0, le=60.0, description="How long to wait for it, s.")
    settle_s: float = Field(
        0.0, ge=0.0, le=60.0, description="Power measured earlier than this does not confirm, s."
    )
    send: Literal["always", "setpoint", "change"] = Field(
        "always",
        description="Also at renewals; at every setpoint; only what differs from what was sent last.",
    )
    min_interval_s: float = Field(
        0.0, ge=0.0, le=86_400.0, description="Shortest time between two writes, s; the newest waits."
    )
    max_writes_per_day: int | None = Field(
        None, ge=1, le=1_000_000, description="More are refused; for values that live in flash."
    )

    @model_validator(mode="after")
    def _is_released_in_time(self) -> Self:
        match self.release:
            case None:
                return self
            case "zero":
                where, messages = 'messages, which release = "zero" sends', self.messages
            case messages:
                where = "release"
        pauses_s = sum(message.pause_s for message in messages)
        if pauses_s > RELEASE_PAUSES_S:
            raise ValueError(
                f"{where}: the pause_s of its messages are {pauses_s:g} s together; a program that ends has "
                f"a second for the whole release, expected {RELEASE_PAUSES_S:g} s at most"
            )
        return self


class AvailabilityTable(Table):
    """A topic, or a register, that says whether the device is there."""

    topic: Topic | None = None
    register_: ValueName | None = Field(
        None, alias="register", description="On Modbus: the register with the word."
    )
    path: Path | None = Field(None, description="JMESPath to the word, where the payload is JSON.")
    pattern: Path | None = Field(None, description="Regular expression; its group is the word.")
    encoding: str = Field("utf-8", description="Of the text.")
    tolerant: bool = Field(False, description="As with telemetry.")
    online: list[str] = Field([], max_length=MAX_ITEMS)
    offline: list[str] = Field([], max_length=MAX_ITEMS)
    fault: list[str] = Field([], max_length=MAX_ITEMS)
    other: Literal["online", "offline", "fault", "ignore"] = Field(
        "fault", description="Meaning of a word that is not listed."
    )
    timeout_s: float | None = Field(
        None, gt=0.0, le=86_400.0, description="Offline if no message arrives on the topic for this time, s."
    )

    @model_validator(mode="after")
    def _is_of_a_topic_or_a_register(self) -> Self:
        if (self.topic is None) == (self.register_ is None):
            raise ValueError("topic: missing; it must be given (or register, on Modbus), one of them")
        if self.register_ is not None and self.path is not None:
            raise ValueError("path: a register holds the word itself; leave it out")
        return self

    _encoding = field_validator("encoding")(PayloadKeys._is_known.__func__)  # type: ignore[attr-defined]


class KeepaliveTable(Table):
    """A message to repeat, or registers to write again, for as long as the device is watched."""

    topic: Topic | None = None
    payload: Payload = ""
    registers: RegisterValues | None = Field(None, description="On Modbus: as in a message.")
    first_payload: Payload | None = Field(
        None, description="Of the first one after connecting; None = the same."
    )
    period_s: float = Field(ge=0.1, le=86_400.0)
    qos: Qos = 0
    while_: Literal["always", "driven"] | None = Field(
        None, alias="while", description="driven: only while a setpoint holds; so if it holds a {value}."
    )

    @model_validator(mode="after")
    def _is_a_message_or_registers(self) -> Self:
        if (self.topic is None) == (self.registers is None):
            raise ValueError("topic: missing; it must be given (or registers, on Modbus), one of them")
        if self.registers is not None and (self.payload or self.first_payload):
            raise ValueError("payload: registers are written as they are; leave it out")
        return self


class LivenessTable(Table):
    """What proves that a device is there which reports only when something changes."""

    by: Literal["heartbeat", "poll", "availability"] = Field(
        description="A topic that it repeats, its answers to a keepalive, or its availability topics."
    )
    topic: Topics | None = Field(None, description="Of the heartbeat, or of the answers; none: its power's.")

    @model_validator(mode="after")
    def _topic_fits(self) -> Self:
        if self.by == "heartbeat" and self.topic is None:
            raise ValueError("topic: missing; say on which topic the heartbeat comes")
        if self.by == "availability" and self.topic is not None:
            raise ValueError("topic: not with by = 'availability'; its topics are in [[availability]]")
        return self

    @property
    def topics(self) -> list[str]:
        """Its topics, none or several."""
        if self.topic is None:
            return []
        return [self.topic] if isinstance(self.topic, str) else list(self.topic)


class SparkplugTable(Table):
    """What we are to Sparkplug nodes."""

    host_id: Annotated[str, Field(pattern=r"^[^/+#]+$", max_length=200)] = Field(
        description="Name of a host application that nodes wait for: its STATE is published."
    )


class MappingTable(Table):
    """A whole mapping."""

    name: Annotated[str, Field(min_length=1, max_length=200)] = "device"
    parameters: dict[ValueName, Any] = Field({}, description="What the placeholders stand for.")
    setpoint: SetpointTable | None = Field(None, description="None = the device can only be read.")
    telemetry: list[TelemetryTable] = Field([], max_length=MAX_ITEMS, description="Of a device on MQTT.")
    registers: dict[ValueName, RegisterTable] = Field(
        {}, max_length=MAX_REGISTERS, description="Of a device on Modbus."
    )
    modbus: ModbusTable | None = Field(None, description="What holds of all registers.")
    quantities: dict[ReadQuantity, QuantityTable] = Field({}, description="Quantities by formula.")
    availability: list[AvailabilityTable] = Field([], max_length=MAX_ITEMS)
    liveness: LivenessTable | None = Field(
        None, description="None = any message of the device proves that it is there."
    )
    sparkplug: SparkplugTable | None = Field(None, description="None = we are no host application.")
    keepalive: list[KeepaliveTable] = Field([], max_length=MAX_ITEMS)
    known_by: list[Topic] = Field(
        [],
        max_length=MAX_ITEMS,
        description="Not used by a run: probe recognises by it a device that has to be polled.",
    )

    @model_validator(mode="after")
    def _is_on_mqtt_or_on_modbus(self) -> Self:
        if not self.telemetry and not self.registers:
            raise ValueError("telemetry: missing; it must be given ([registers] for a device on Modbus)")
        if self.telemetry and self.registers:
            raise ValueError("registers: a device is on MQTT ([[telemetry]]) or on Modbus ([registers])")
        if self.modbus is not None and not self.registers:
            raise ValueError("modbus: needs [registers]")
        return self


ONE_BYTE = frozenset("bB")
"""Letters of a struct that have no byte order."""


def _check_struct(text: str) -> None:
    if text[0] not in "<>" and text not in ONE_BYTE:
        raise ValueError(
            f"struct: must begin with the byte order, < (little) or > (big), got {text!r}; "
            "one byte alone, b or B, has none"
        )
    try:
        unpacked = struct.unpack(text, bytes(struct.calcsize(text)))
    except struct.error as exc:
        raise ValueError(f"struct: {exc}") from None
    if len(unpacked) != 1 or not isinstance(unpacked[0], int | float | bytes):
        raise ValueError(f"struct: expected one value, {text!r} has {len(unpacked)}")


def _check_packing(form: str, values: Any, what: str) -> None:
    """Refuse what cannot be packed: no byte order, unknown letters, another number of values than letters."""
    if form[0] not in "<>":
        raise ValueError(f"struct: must begin with the byte order, < or >, got {form!r}")
    try:
        wanted = len(struct.unpack(form, bytes(struct.calcsize(form))))
    except struct.error as exc:
        raise ValueError(f"struct: {exc}") from None
    if isinstance(values, dict):
        raise ValueError(
            "struct: packs a payload that is an array; bytes within JSON are a value with pack: "
            "[setpoint.values.NAME] pack = [...], struct, bytes"
        )
    if not isinstance(values, list) or len(values) != wanted:
        raise ValueError(f"struct: {what} must be an array of {wanted}, one for each letter")
