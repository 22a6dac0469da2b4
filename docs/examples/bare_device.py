"""A battery on the wire with plain paho-mqtt and nothing of ours: what any device has to do.

    python bare_device.py 127.0.0.1 1883 three_microgrids MG1 ess

It takes setpoints, answers each with telemetry, is born with its nameplate, leaves ``offline`` as its
will, and goes to 0 MW by itself when the lease of the last setpoint runs out. docs/wire-contract.md.
"""

import json
import sys
import time

import paho.mqtt.client as mqtt

host, port, env, agent, device = sys.argv[1], int(sys.argv[2]), *sys.argv[3:6]
base = f"heron/{env}/devices/{agent}/{device}"
E_MAX_MWH, P_MAX_MW = 0.2, 0.05
state = {"p_mw": 0.0, "soc": 0.5, "ack_seq": None, "ack_boot": None}
newest = (None, -1)  # boot and seq of the newest setpoint or renewal
stopped = False  # an emergency stop is in force
lease_ends = None  # by our own clock: time.monotonic()


def publish_telemetry():
    """Say what we do; positive = into the grid."""
    known = {name: value for name, value in state.items() if value is not None}
    client.publish(f"{base}/telemetry", json.dumps({"type": "telemetry", **known}), qos=1)


def on_connect(client, userdata, flags, reason, properties):
    """Subscribe again after every connect, and be born."""
    client.subscribe([(f"{base}/setpoint", 1), (f"heron/{env}/estop", 1)])
    birth = {"type": "status", "state": "online", "kind": "battery", "max_e_mwh": E_MAX_MWH}
    nameplate = {"p_min_mw": -P_MAX_MW, "p_max_mw": P_MAX_MW, "soc": state["soc"]}
    client.publish(f"{base}/status", json.dumps({**birth, **nameplate}), qos=1, retain=True)


def on_message(client, userdata, message):
    """Take a setpoint, or an emergency stop."""
    global stopped
    try:
        told = json.loads(message.payload)
        if message.topic.endswith("/estop"):
            stopped = bool(told["active"])
            state["p_mw"] = 0.0 if stopped else state["p_mw"]
            publish_telemetry()
        else:
            take(told, float(told["p_mw"]), float(told["lease_s"]), told.get("seq"), told.get("boot"))
    except (ValueError, KeyError, TypeError) as exc:
        print("ignored:", exc, file=sys.stderr)


def take(told, p_mw, lease_s, seq, boot):
    """Do what a setpoint says, and answer; a renewal only lets the newest one hold for longer."""
    global lease_ends, newest
    if not (abs(p_mw) < 1e6 and 0.0 < lease_s < 1e6):  # NaN is not below anything
        raise ValueError(f"p_mw = {p_mw}, lease_s = {lease_s}")
    if seq is not None and boot == newest[0] and seq <= newest[1]:
        return  # not newer than what we do already
    newest = (boot, seq if seq is not None else -1)
    if told.get("renewal"):
        lease_ends = None if lease_ends is None else time.monotonic() + lease_s
        return
    lease_ends = time.monotonic() + lease_s
    state["ack_seq"], state["ack_boot"] = seq, boot
    dt_h = (told.get("dt_s") or 0.0) / 3600.0  # simulated time; a real battery has its own
    if dt_h > 0.0:
        p_mw = min(max(p_mw, (state["soc"] - 1.0) * E_MAX_MWH / dt_h), state["soc"] * E_MAX_MWH / dt_h)
    state["p_mw"] = 0.0 if stopped else min(max(p_mw, -P_MAX_MW), P_MAX_MW)
    state["soc"] -= state["p_mw"] * dt_h / E_MAX_MWH
    publish_telemetry()


client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
client.will_set(f"{base}/status", json.dumps({"type": "status", "state": "offline"}), qos=1, retain=True)
client.on_connect, client.on_message = on_connect, on_message
client.connect_timeout = 1.0  # nothing may keep us from watching the lease
client.connect(host, port, keepalive=15)
next_telemetry = time.monotonic() + 1.0
while True:
    if client.loop(timeout=0.1) != mqtt.MQTT_ERR_SUCCESS:
        time.sleep(0.5)
        try:
            client.reconnect()
        except OSError as exc:
            print("still away:", exc, file=sys.stderr)
    if lease_ends is not None and time.monotonic() > lease_ends:
        lease_ends, state["p_mw"] = None, 0.0  # nobody renewed it: the safe state
        publish_telemetry()
    if time.monotonic() > next_telemetry:
        next_telemetry = time.monotonic() + 1.0
        publish_telemetry()
