"""From what boxes say to a mapping: recorded payloads of every shipped profile, and announcements."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from heron_mqtt.app.probe.announcements import announced
from heron_mqtt.app.probe.draft import draft
from heron_mqtt.app.probe.listen import MAX_TOPICS, ListenResult, pairs_in
from heron_mqtt.app.probe.mapped import mapping_of
from heron_mqtt.app.probe.meaning import guess
from heron_mqtt.app.probe.recognise import profiles_that_fit
from heron_mqtt.config import shipped_config
from heron_mqtt.errors import ConfigError
from heron_mqtt.field.vendor.vendor_state import VendorState
from support.doc_pages import ROOT
from support.rows import each_row

RECORDED = ROOT / "tests" / "unit" / "field" / "vendor" / "device_profiles"
BOXES = Path(__file__).parents[5] / "shared" / "cases" / "boxes"


def heard(*messages: tuple[str, bytes]) -> ListenResult:
    found = ListenResult(listened_s=1.0)
    for n, (topic, payload) in enumerate(messages):
        found.take(topic, payload, False, float(n))
    return found


def played(name: str) -> tuple[ListenResult, dict[str, Any]]:
    recorded = json.loads((RECORDED / f"{name}.json").read_text("utf-8"))
    payloads = [
        (one["topic"], _bytes(one)) for one in recorded["received"] if one.get("topic") and "payload" in one
    ]
    return heard(*payloads), recorded["parameters"]


def _bytes(one: dict[str, Any]) -> bytes:
    payload = one["payload"]
    return payload.encode() if isinstance(payload, str) else json.dumps(payload).encode()


GENERIC = {"home_assistant"}  # all parameters and plain numbers: nothing to know it by
ON_MODBUS = {path.stem for path in RECORDED.glob("*.json") if "polled" in json.loads(path.read_text())}
SHIPPED = sorted({path.stem for path in RECORDED.glob("*.json")} - GENERIC - ON_MODBUS)


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_profile_is_recognised_by_its_recorded_payloads(name: str, tmp_path: Path) -> None:
    found, parameters = played(name)
    match = next((m for m in profiles_that_fit(found) if m.profile == f"device_profiles/{name}.toml"), None)
    assert match is not None
    for key, value in match.parameters.items():
        assert str(value) == str(parameters.get(key, value)), key
    text = draft(found, [match])
    table = tomllib.loads(text)
    assert table["profile"] == match.profile
    file = tmp_path / "box.toml"
    missing = "".join(
        f"{key} = {json.dumps(parameters[key])}\n" for key in match.missing if key in parameters
    )
    file.write_text(text + missing)
    assert mapping_of(file, "MG1/ess").reads


def test_no_profile_fits_what_none_was_written_for() -> None:
    assert profiles_that_fit(heard(("garden/pump/state", b"on"), ("weather/wind", b"3.2"))) == []


def fitting(*messages: tuple[str, bytes]) -> list[tuple[str, dict[str, str], tuple[str, ...]]]:
    found = profiles_that_fit(heard(*messages))
    return [(Path(m.profile).stem, dict(m.parameters), tuple(m.missing)) for m in found]


def test_a_profile_whose_payloads_hold_something_else_does_not_fit() -> None:
    assert (
        fitting(("tele/hall/SENSOR", b'{"SI7021": {"Temperature": 20}}'), ("tele/hall/LWT", b"Online")) == []
    )
    plug = ("tele/hall/SENSOR", b'{"ENERGY": {"Power": 20}}'), ("stat/hall/POWER", b"ON")
    assert fitting(*plug, ("tele/hall/LWT", b"Online"))[0][0] == "tasmota_plug"


def test_a_topic_of_one_box_is_no_sign_of_another_one() -> None:
    phases = [(f"shellies/em/emeter/{n}/{what}", b"1") for n in range(3) for what in ("power", "voltage")]
    assert [name for name, _, _ in fitting(*phases)] == ["shelly_3em"]  # not OpenEVSE with <base>/power


def test_a_profile_of_plain_values_does_not_fit_topics_of_json() -> None:
    inverter = ("plant/ess/power", b"12.5"), ("plant/ess/soc", b"55")
    assert (
        fitting(*inverter, ("plant/ess/state", b'{"mode": "auto"}')) == []
    )  # not OpenEVSE with <base>/state
    assert fitting(*inverter, ("plant/ess/state", b"3"))[0][0] == "openevse"


def test_a_number_in_a_topic_is_sent_to_the_box_as_a_number(tmp_path: Path) -> None:
    found, _ = played("shelly_gen2")
    file = tmp_path / "box.toml"
    file.write_text(draft(found, profiles_that_fit(found)) + "on_from_w = 500\n")
    (message,) = mapping_of(file, "MG1/ess").release()
    assert json.loads(message.payload)["params"]["id"] == 0


def test_what_a_payload_names_is_a_parameter() -> None:
    told = fitting(("tele/m/SENSOR", b'{"MT175": {"E_in": 1.5, "Power_curr": 7}}'), ("tele/m/LWT", b"Online"))
    assert told == [("tasmota_sml", {"topic": "m", "meter": "MT175", "power": "Power_curr"}, ())]


def test_a_parameter_with_a_default_is_that_where_it_can_be() -> None:
    bridge = ("deye/ac/active_power", b"1"), ("deye/ac/l1/voltage", b"230"), ("deye/status", b"online")
    told = fitting(("attic/status", b"online"), *bridge, ("deye/logger_status", b"online"))
    assert told == [("deye_bridge", {"prefix": "deye", "service": "deye"}, ("rated_mw",))]


def test_a_box_that_waits_to_be_asked_is_known_by_what_it_says_unasked() -> None:
    assert fitting(("N/c0ffee/system/0/Serial", b'{"value": "c0ffee"}')) == [
        ("victron_venus", {"portal_id": "c0ffee"}, ("vebus",))
    ]


def test_almost_json_is_understood_and_its_draft_says_tolerant(tmp_path: Path) -> None:
    found = heard(("plant/inverter", b"{'power': 410, 'note': None}"))
    file = tmp_path / "box.toml"
    file.write_text(draft(found, []))
    mapping = mapping_of(file, "MG1/ess")
    assert mapping.reads == {"p_mw"}
    assert mapping.telemetry[0].table.tolerant


def test_a_draft_names_the_boxes_that_it_leaves_out() -> None:
    found = heard(
        ("smart/sensor/1/obis/1-0:16.7.0/value", b"3"),
        ("edge/e/channel/x/ActivePower", b"1"),
        ("edge/e/channel/x/Soc", b"50"),
    )
    matches = profiles_that_fit(found)
    assert len(matches) == 2
    assert f"#   {matches[1].name}: {matches[1].topics[0]}" in draft(found, matches)


@each_row(
    ("topic", "path", "value", "quantity", "unit"),
    [
        ("box/status", "power_w", 12.0, "p_mw", "W"),
        ("box/status", "ENERGY.Power", 12, "p_mw", "W"),
        ("box/power", "", "12.5", "p_mw", "W"),
        ("box/power", "", "1.25 kW", "p_mw", "kW"),
        ("battery/soc", "", "57", "soc", "%"),
        ("inverter/0/voltage", "", "230.1", "vm_pu", "V"),
        ("meter/l1", "voltage", 229.0, "vm_pu", "V"),
        ("plug/relay/0", "", "on", "running", ""),
        ("ess0/ReactivePower", "", "120", "q_mvar", "var"),
        ("meter", "ApparentPower", 120, "apparent power", "VA"),
        ("meter", "power_factor", 0.98, "power factor", ""),
        ("stack/state", "power_pct", 40.0, "p_mw", "%"),
        ("stack/state", "power.percent", 40.0, "p_mw", "%"),
        ("stack/state", "tank_pct", 40.0, "soc", "%"),
        ("stack/state", "rated_kw", 20, "rating", "kW"),
        ("inverter/limit", "maxPower", 20, "rating", "W"),
    ],
)
def test_words_and_units_tell_what_a_value_may_be(
    topic: str, path: str, value: Any, quantity: str, unit: str
) -> None:
    found = guess(topic, path, value)
    assert found is not None
    assert (found.quantity, found.unit) == (quantity, unit)


@pytest.mark.parametrize("value", [None, "x" * 500, "power"])
def test_what_holds_no_value_means_nothing(value: Any) -> None:
    assert guess("box/power", "", value) is None


def test_a_power_in_percent_is_drafted_with_what_one_hundred_percent_is() -> None:
    payload = b'{"rated_kw": 20, "power_pct": 40.0, "tank_pct": 55.0}'
    lines = draft(heard(("stack/7/state", payload)), []).splitlines()
    assert [line for line in lines if line.startswith("path = ")] == [
        'path = "power_pct"    # 40.0',
        'path = "tank_pct"    # 55.0',
    ]
    assert any(line.startswith("rated_mw = ") for line in lines)


def test_a_draft_is_a_mapping_that_reads_what_was_heard(tmp_path: Path) -> None:
    found = heard(
        ("plant/inverter/status", b'{"power": 1234.5, "voltage": 231.0, "serial": "x"}'),
        ("plant/battery/soc", b"57"),
    )
    text = draft(found, profiles_that_fit(found))
    file = tmp_path / "box.toml"
    file.write_text(text)
    mapping = mapping_of(file, "MG1/ess")
    assert mapping.reads == {"p_mw", "vm_pu", "soc"}
    assert "[setpoint]" in text


@pytest.mark.parametrize(
    ("power", "soc", "p_mw"),
    [
        (b"-12.5 W", b"57 %", -12.5e-6),
        (b"2,75kW", b"57%", 2.75e-3),
        (b'{"power": "40 W"}', b"57", 40e-6),
    ],
)
def test_a_draft_reads_numbers_with_their_unit_behind(
    power: bytes, soc: bytes, p_mw: float, tmp_path: Path
) -> None:
    found = heard(("plant/ess/power", power), ("plant/ess/soc", soc))
    file = tmp_path / "box.toml"
    file.write_text(draft(found, profiles_that_fit(found)))
    state = VendorState(mapping_of(file, "MG1/ess"))
    for topic, payload in (("plant/ess/power", power), ("plant/ess/soc", soc)):
        state.take(topic, payload, now_s=0.0)
    telemetry = state.telemetry()
    assert telemetry is not None
    assert (telemetry.p_mw, telemetry.soc) == (pytest.approx(p_mw), pytest.approx(0.57))


@pytest.mark.parametrize(
    ("payload", "p_mw", "soc"),
    [
        (b"P=-3,2;SOC=55,5;M=EXT", -3.2e-6, 0.555),
        (b"power:40 soc:98 mode:auto", 4e-5, 0.98),
        (b"power=40,soc=98", 4e-5, 0.98),
        (b"t=12&power=40.5&soc=98", 4.05e-5, 0.98),
    ],
)
def test_pairs_of_name_and_value_are_found_in_a_text(
    tmp_path: Path, payload: bytes, p_mw: float, soc: float
) -> None:
    file = tmp_path / "box.toml"
    file.write_text(draft(heard(("box/7/st", payload)), []))
    state = VendorState(mapping_of(file, "MG1/ess"))
    update = state.take("box/7/st", payload, 0.0)
    assert update is not None
    assert update.problems == ()
    assert update.fields["p_mw"] == pytest.approx(p_mw)
    assert update.fields["soc"] == pytest.approx(soc)


@pytest.mark.parametrize("text", ["", "40", "P=4", "P=;Q=", "2026-11-30 08:01:02", "a=1;b", "http://x:1;y"])
def test_what_is_no_list_of_pairs_is_not_taken_for_one(text: str) -> None:
    assert pairs_in(text) is None


def test_boxes_that_announce_themselves_are_named() -> None:
    config = {
        "name": "Battery Power",
        "state_topic": "~/power",
        "~": "inverter/1",
        "unit_of_measurement": "W",
        "device": {"name": "Hybrid 5k"},
    }
    found = announced(
        heard(
            ("homeassistant/sensor/hybrid/power/config", json.dumps(config).encode()),
            ("tele/plug1/SENSOR", b'{"ENERGY": {"Power": 3}}'),
            ("shellies/em3/emeter/0/power", b"12.3"),
            ("zigbee2mqtt/bridge/devices", b'[{"friendly_name": "plug2"}]'),
        )
    )
    assert [(box.how, box.name) for box in found] == [
        ("Home Assistant", "Hybrid 5k"),
        ("Shelly", "em3"),
        ("Tasmota", "plug1"),
        ("Zigbee2MQTT", "plug2"),
    ]
    assert found[0].says == (("Battery Power", "inverter/1/power", "W"),)


def test_garbage_and_floods_are_bounded_and_harm_nothing() -> None:
    found = ListenResult()
    for n in range(MAX_TOPICS + 10):
        found.take(f"junk/{n}", b"\xff\x00" if n % 2 else b"[" * 5_000, False, 0.0)
    assert len(found.topics) == MAX_TOPICS
    assert found.more == 10
    found.meanings()
    announced(found)
    draft(found, profiles_that_fit(found))
    ours = ListenResult()
    ours.take("heron/lab/devices/MG1/ess/telemetry", b"{}", False, 0.0)
    ours.take("$SYS/broker/uptime", b"1", False, 0.0)
    assert ours.topics == {}
    below = ListenResult(topic_prefix="sites/7/")
    below.take("sites/7/heron/lab/devices/MG1/ess/telemetry", b"{}", False, 0.0)
    below.take("sites/7/inverter/power", b"{}", False, 0.0)
    assert list(below.topics) == ["sites/7/inverter/power"]


def test_a_mapping_is_a_file_or_a_shipped_profile_with_its_parameters(tmp_path: Path) -> None:
    needed = {"serial": 42, "rated_mw": 0.0006}
    shipped = mapping_of("device_profiles/opendtu.toml", "MG1/pv", needed)
    own = tmp_path / "own.toml"
    own.write_text(
        'profile = "device_profiles/opendtu.toml"\nparameters = { serial = 7, rated_mw = 0.0006 }\n'
    )
    assert mapping_of(own, "MG1/pv", {"serial": 42}).topic_filters() == shipped.topic_filters()
    assert "solar/42/0/power" in shipped.topic_filters()
    (tmp_path / "profile.toml").write_bytes((shipped_config() / "device_profiles/opendtu.toml").read_bytes())
    copied = mapping_of(tmp_path / "profile.toml", "MG1/pv", needed)
    assert copied.topic_filters() == shipped.topic_filters()
    with pytest.raises(ConfigError, match=r"^--mapping opendtu: no such file; shipped"):
        mapping_of("opendtu", "MG1/pv")


def test_a_device_without_an_agent_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "box.toml"
    file.write_text('profile = "device_profiles/opendtu.toml"\n')
    with pytest.raises(ConfigError, match="--device ess: expected AGENT/DEVICE"):
        mapping_of(file, "ess")


def test_every_profile_has_recorded_payloads() -> None:
    shipped = {path.stem for path in (shipped_config() / "device_profiles").glob("*.toml")}
    assert {path.stem for path in RECORDED.glob("*.json")} == shipped
