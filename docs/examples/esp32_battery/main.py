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
newest = (None, -1)  # boot and seq of the newest setpoint or renewal
ack_seq = None
ack_boot = None
answer_due = False
stopped = False
lease = None  # since when, and for how many ms


def drive(p_mw):
    """Tell the inverter: positive = into the grid."""
    global power_mw
    power_mw = min(max(p_mw, -P_MAX_MW), P_MAX_MW)


def measure():
    """Ask the inverter."""
    return power_mw, soc


def now():
    """Milliseconds; ticks wrap, differences do not (ticks_diff)."""
    return time.ticks_ms() if hasattr(time, "ticks_ms") else int(time.time() * 1000)


def since(then):
    """Milliseconds since a moment of ``now``."""
    return time.ticks_diff(now(), then) if hasattr(time, "ticks_diff") else now() - then


def telemetry():
    """Publish what the inverter does.

    At QoS 0: at 1 umqtt.simple waits for the broker's answer, and nobody watches the lease meanwhile.
    """
    global answer_due
    answer_due = False
    p_mw, charge = measure()
    message = {"type": "telemetry", "p_mw": p_mw, "soc": charge}
    if ack_seq is not None:
        message["ack_seq"] = ack_seq
    if ack_boot is not None:
        message["ack_boot"] = ack_boot
    client.publish(BASE + "/telemetry", json.dumps(message))


def on_message(topic, payload):
    """Take a setpoint, or an emergency stop; answered by the main loop: here umqtt is in the middle of it."""
    global answer_due, stopped
    try:
        told = json.loads(payload)
        if topic.decode() == ESTOP:
            stopped = bool(told["active"])
            if stopped:
                drive(0.0)
            answer_due = True
        else:
            take(told, float(told["p_mw"]), float(told["lease_s"]), told.get("seq"), told.get("boot"))
    except (ValueError, KeyError, TypeError) as exc:
        print("ignored:", exc)


def take(told, p_mw, lease_s, seq, boot):
    """Do what a setpoint says; a renewal only lets the newest one hold for longer."""
    global ack_seq, ack_boot, answer_due, lease, newest, soc
    if not (abs(p_mw) < 1e6 and 0.0 < lease_s < 1e6):  # NaN is not below anything
        raise ValueError("p_mw = %s, lease_s = %s" % (p_mw, lease_s))
    if seq is not None and boot == newest[0] and seq <= newest[1]:
        return
    newest = (boot, seq if seq is not None else -1)
    if told.get("renewal"):
        lease = None if lease is None else (now(), lease_s * 1000)
        return
    lease = (now(), lease_s * 1000)
    ack_seq, ack_boot = seq, boot
    dt_h = (told.get("dt_s") or 0.0) / 3600.0
    if dt_h > 0.0:
        p_mw = min(max(p_mw, (soc - 1.0) * E_MAX_MWH / dt_h), soc * E_MAX_MWH / dt_h)
    drive(0.0 if stopped else p_mw)
    soc -= power_mw * dt_h / E_MAX_MWH
    answer_due = True


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


client = None
last = now()
while True:
    try:
        if client is None:
            client = connect()
        client.check_msg()
        if lease is not None and since(lease[0]) > lease[1]:
            lease = None
            drive(0.0)  # nobody renewed it: the safe state
            answer_due = True
        if answer_due or since(last) > 1000:
            last = now()
            telemetry()
    except OSError as exc:
        print("no connection:", exc)
        client = lease = None
        drive(0.0)  # at once: connecting again may take longer than the lease
        time.sleep(1)
    time.sleep(0.01)
