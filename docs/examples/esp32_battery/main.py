"""A battery controller on an ESP32 (MicroPython, umqtt.simple): the bare device of ../bare_device.py.

Copy it to the board as main.py beside config.py, which holds HOST, PORT, ENV, AGENT, DEVICE and, for a
broker that asks for it, USER and PASSWORD; connect to the network in boot.py. Replace ``measure`` and
``drive`` with what talks to your inverter.
"""

import json
import time

from umqtt.simple import MQTTClient

import config

E_MAX_MWH, P_MAX_MW = 0.2, 0.05
BASE = "heron/%s/devices/%s/%s" % (config.ENV, config.AGENT, config.DEVICE)
ESTOP = "heron/%s/estop" % config.ENV

power_mw = 0.0
soc = 0.5
ack_seq = None
ack_boot = None
lease_ends = None
stopped = False


def drive(p_mw):
    """Tell the inverter: positive = into the grid."""
    global power_mw
    power_mw = min(max(p_mw, -P_MAX_MW), P_MAX_MW)


def measure():
    """Ask the inverter."""
    return power_mw, soc


def now():
    """Seconds; ticks wrap, differences do not (ticks_diff)."""
    return time.ticks_ms() if hasattr(time, "ticks_ms") else int(time.time() * 1000)


def since(then):
    """Milliseconds since a moment of ``now``."""
    return time.ticks_diff(now(), then) if hasattr(time, "ticks_diff") else now() - then


def telemetry():
    """Publish what the inverter does."""
    p_mw, charge = measure()
    message = {"type": "telemetry", "p_mw": p_mw, "soc": charge}
    if ack_seq is not None:
        message["ack_seq"] = ack_seq
    if ack_boot is not None:
        message["ack_boot"] = ack_boot
    client.publish(BASE + "/telemetry", json.dumps(message), qos=1)


def on_message(topic, payload):
    """Take a setpoint, or an emergency stop."""
    global ack_seq, ack_boot, lease_ends, stopped, soc
    try:
        told = json.loads(payload)
        if topic.decode() == ESTOP:
            stopped = bool(told["active"])
            if stopped:
                drive(0.0)
            telemetry()
            return
        p_mw, lease_s = float(told["p_mw"]), float(told["lease_s"])
    except (ValueError, KeyError, TypeError) as exc:
        print("ignored:", exc)
        return
    seq, boot = told.get("seq"), told.get("boot")
    if seq is not None and boot == ack_boot and ack_seq is not None and seq <= ack_seq:
        return
    ack_seq, ack_boot = seq, boot
    lease_ends = (now(), lease_s * 1000)
    if not told.get("renewal") and not stopped:
        dt_h = (told.get("dt_s") or 0.0) / 3600.0
        if dt_h > 0.0:
            p_mw = min(max(p_mw, (soc - 1.0) * E_MAX_MWH / dt_h), soc * E_MAX_MWH / dt_h)
        drive(p_mw)
        soc -= power_mw * dt_h / E_MAX_MWH
        telemetry()


def connect():
    """Connect, leave a will, subscribe, be born."""
    made = MQTTClient(
        "heron-%s-%s" % (config.AGENT, config.DEVICE),
        config.HOST,
        port=config.PORT,
        user=getattr(config, "USER", None),
        password=getattr(config, "PASSWORD", None),
        keepalive=15,
    )
    made.set_callback(on_message)
    made.set_last_will(BASE + "/status", json.dumps({"type": "status", "state": "offline"}), True, 1)
    made.connect()
    made.subscribe(BASE + "/setpoint", 1)
    made.subscribe(ESTOP, 1)
    birth = {"type": "status", "state": "online", "kind": "battery", "max_e_mwh": E_MAX_MWH, "soc": soc}
    birth["p_min_mw"], birth["p_max_mw"] = -P_MAX_MW, P_MAX_MW
    made.publish(BASE + "/status", json.dumps(birth), True, 1)
    return made


client = connect()
last = now()
while True:
    try:
        client.check_msg()
        if since(last) > 1000:
            last = now()
            telemetry()
        if lease_ends is not None and since(lease_ends[0]) > lease_ends[1]:
            lease_ends = None
            drive(0.0)  # nobody renewed it: the safe state
            telemetry()
    except OSError as exc:
        print("connection lost:", exc)
        time.sleep(1)
        try:
            client = connect()
        except OSError as again:
            print("still away:", again)
    time.sleep(0.01)
