"""A battery on the wire with plain paho-mqtt and nothing of ours: what any device has to do.

    python bare_device.py 127.0.0.1 1883 three_microgrids MG1 ess [--require-proof]

It follows docs/wire-contract.md, "Devices", rule by rule: numbered telemetry, setpoints that prove their
age and belong to the owner of the lease, a lease by its own clock, emergency stops, and 0 MW otherwise.
"""

import json
import secrets
import sys
import time

import paho.mqtt.client as mqtt

if len(sys.argv) < 6:
    sys.exit("bare_device.py: expected HOST PORT ENV AGENT DEVICE, for example 127.0.0.1 1883 bench MG1 ess")
host, port, env, agent, device = sys.argv[1], int(sys.argv[2]), *sys.argv[3:6]
require_proof = "--require-proof" in sys.argv[6:]
name, base, estop = f"{agent}/{device}", f"heron/{env}/devices/{agent}/{device}", f"heron/{env}/estop"
confirm = f"heron/{env}/estop/confirm/{agent}/{device}"
E_MAX_MWH, P_MAX_MW = 0.2, 0.05
boot = secrets.token_hex(4)  # another one at every start
now = time.monotonic  # our own clock: it never jumps, and no other clock is used

power = {"p_mw": 0.0, "soc": 0.5}
seqs = {}  # topic -> seq of the next message on it
published = {}  # seq of our telemetry -> when it left; the newest 64
newest = {}  # (sender, boot) -> seq of the newest setpoint or renewal; the last 16 senders
answered = (None, None)  # boot and seq of the newest setpoint done, or rejected because of a stop
holder = None  # (sender, boot) of the lease's owner; None: free
lease_s = lease_ends = heard_at = 0.0
stopped, stop_id, releases = False, (None, None), []  # releases: the last 64 heard, by boot and seq
next_telemetry = 0.0


# -- what we say -----------------------------------------------------------------------------------------


def say(topic, retain=False, qos=1, **fields):
    """Publish with our name, boot and the next number; nothing is queued while there is no connection."""
    if not client.is_connected():
        return None
    seqs[topic] = seq = seqs.get(topic, -1) + 1
    message = {name: value for name, value in fields.items() if value is not None}
    message |= {"sender": name, "env_id": env, "boot": boot, "seq": seq}
    client.publish(topic, json.dumps(message), qos=qos, retain=retain)
    return seq


def say_telemetry(ack=None, **fields):
    """Say what we do, positive = into the grid, and note when: a setpoint will echo boot and seq."""
    global next_telemetry
    next_telemetry = now() + (min(1.0, lease_s / 4.0) if holder else 1.0)
    ack_boot, ack_seq = ack or answered
    fields |= {"ack_boot": ack_boot, "ack_seq": ack_seq, "stopped": stopped or None}
    # QoS 0: at 1 the client would say it again after a reconnect, when it is no longer true
    seq = say(f"{base}/telemetry", qos=0, type="telemetry", **power, safe=holder is None, **fields)
    if seq is not None:
        published[seq] = now()
        published.pop(seq - 64, None)


def say_lease():
    """Say whose setpoints we follow; retained."""
    who, whose = holder or (None, None)
    fields = {"holder": who, "holder_boot": whose, "lease_s": lease_s if holder else None}
    say(f"{base}/lease", retain=True, type="lease", state="held" if holder else "free", **fields)


def go_safe(**fields):
    """End the lease and go to 0 MW."""
    global holder
    holder, power["p_mw"] = None, 0.0
    say_telemetry(**fields)
    say_lease()


# -- what we hear ----------------------------------------------------------------------------------------


def on_connect(client, userdata, flags, reason, properties):
    """Subscribe after every connect, to the stop first: a retained one comes before any setpoint."""
    client.subscribe([(estop, 1), (f"{base}/setpoint", 1)])


def on_subscribe(client, userdata, mid, reasons, properties):
    """Be born, again after every connect, and say at once what we do. A birth has no seq."""
    birth = {
        "type": "status",
        "state": "online",
        "kind": "battery",
        "sender": name,
        "env_id": env,
        "boot": boot,
    }
    nameplate = {"p_min_mw": -P_MAX_MW, "p_max_mw": P_MAX_MW, "max_e_mwh": E_MAX_MWH, "soc": power["soc"]}
    client.publish(f"{base}/status", json.dumps(birth | nameplate), qos=1, retain=True)
    say_telemetry()
    say_lease()


def on_message(client, userdata, message):
    """Take an emergency stop, or a setpoint that is for now (not retained)."""
    try:
        told = json.loads(
            message.payload.decode(), parse_constant=finite, parse_float=finite, object_pairs_hook=unique
        )
    except (ValueError, RecursionError):
        told = None  # not UTF-8, or not JSON
    if message.topic == estop:
        take_stop(told)
    elif isinstance(told, dict) and not message.retain:
        try:
            take_setpoint(told)
        except (ValueError, OverflowError) as exc:
            print("ignored:", exc, file=sys.stderr)


def take_stop(told):
    """Stop at everything that is not a valid release; a release counts once. Confirm in any case."""
    global stopped, stop_id
    told = told if isinstance(told, dict) else {}
    ident = told.get("boot"), told.get("seq")
    is_named = isinstance(ident[0], str) and type(ident[1]) is int
    is_ours = told.get("type", "estop") == "estop" and told.get("env_id", env) == env
    if told.get("active") is False and is_ours:
        if not (is_named and ident in releases):
            stopped, stop_id = False, ident if is_named else (None, None)
            releases.append(ident)
            del releases[:-64]
            say_telemetry()
    else:
        stopped, stop_id = True, ident if is_named else (None, None)
        go_safe()
    fields = {"stop_boot": stop_id[0], "stop_seq": stop_id[1], "safe": holder is None}
    say(confirm, type="estop_confirm", active=stopped, **fields)


def take_setpoint(told):
    """Do what a setpoint says, unless it is repeated, stale, or of another than the lease's owner."""
    global answered, holder, lease_s, lease_ends, heard_at
    p_mw, for_s, seq = number(told, "p_mw"), number(told, "lease_s"), count(told, "seq")
    number(told, "q_mvar", 0.0)  # a battery without reactive power: read, and refused if it is nonsense
    sender, its_boot, heard_boot = text(told, "sender"), text(told, "boot"), text(told, "heard_boot")
    heard_seq, dt_s = count(told, "heard_seq"), number(told, "dt_s", 0.0)
    renewal, take_over, release = flag(told, "renewal"), flag(told, "take_over"), flag(told, "release")
    if told.get("type") not in (None, "setpoint") or text(told, "env_id") not in {None, env}:
        raise ValueError("not a setpoint for us")
    if not 0.0 < for_s <= 86_400.0:
        raise ValueError(f"lease_s = {for_s}")
    who, ack = (sender, its_boot), None if seq is None else (its_boot, seq)
    if seq is not None:
        if seq <= newest.get(who, -1):
            return  # heard before, or older
        newest.pop(who, None)
        newest[who] = seq
        if len(newest) > 16:
            del newest[next(iter(newest))]

    # How old can it be? Not older than our telemetry that it echoes.
    is_held = holder is not None and now() < lease_ends
    begin, refused = now(), None
    if heard_boot is None and heard_seq is None:
        refused = "no proof of its age (heard_boot, heard_seq)" if require_proof else None
    elif heard_boot != boot or heard_seq not in published:
        refused = "stale: it echoes telemetry that we do not know"
    else:
        begin = published[heard_seq]
        refused = "stale: older than its lease" if begin + for_s <= now() else None
    if is_held and who != holder and not (take_over and not release):
        refused = (
            f"the lease is held by {holder[0]} (boot {holder[1]}) for another {lease_ends - now():.3g} s"
        )

    if release:
        if is_held and who != holder:
            say_telemetry(ack, rejected="not the owner of the lease")
        else:
            answered = ack or answered
            go_safe()
        return
    if renewal:  # it extends what runs, and is never answered
        if refused is None and is_held and who == holder:
            lease_ends, lease_s, heard_at = max(lease_ends, begin + for_s), for_s, now()
        return
    if refused:
        say_telemetry(ack, rejected=refused)
        return
    answered = ack or answered
    if stopped:
        say_telemetry(rejected="emergency stop")
        return
    was, holder = holder, who
    lease_s, lease_ends, heard_at = for_s, begin + for_s, now()
    dt_h = max(dt_s, 0.0) / 3600.0  # simulated time; a real battery has its own
    if dt_h > 0.0:
        p_mw = min(max(p_mw, (power["soc"] - 1.0) * E_MAX_MWH / dt_h), power["soc"] * E_MAX_MWH / dt_h)
    power["p_mw"] = min(max(p_mw, -P_MAX_MW), P_MAX_MW)  # clip, and say what is really done
    power["soc"] = min(max(power["soc"] - power["p_mw"] * dt_h / E_MAX_MWH, 0.0), 1.0)
    say_telemetry()
    if was != holder:
        say_lease()


# -- fields, liberally: 5.0 for 5, 1 for true, a number for a text, null for one that is left out ---------


def unique(pairs):
    """Refuse an object in which a key comes twice: another reader may have taken the other one."""
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a key comes twice")
    return dict(pairs)


def finite(written):
    """Return what a number in JSON is worth; NaN and 1e999 make the message one that cannot be read."""
    value = float(written)
    if value - value != 0.0:
        raise ValueError(f"{written} is not finite")
    return value


def number(told, field, default=None):
    """Return a number."""
    value = default if told.get(field) is None else told[field]
    if type(value) not in {int, float}:
        raise ValueError(f"{field} = {str(value)[:40]}")
    return float(value)  # an integer of 401 digits: OverflowError


def count(told, field):
    """Return a whole number from 0 to 2^63, or None."""
    value = told.get(field)
    if value is not None and (
        type(value) not in {int, float} or value != int(value) or not 0 <= value <= 2**63
    ):
        raise ValueError(f"{field} is not a whole number")
    return None if value is None else int(value)


def text(told, field):
    """Return a text of 1 to 200 characters, or None."""
    value = told.get(field)
    if type(value) in {int, float}:
        value = f"{value:.15g}" if value != int(value) else str(int(value))
    if value is not None and not (isinstance(value, str) and 1 <= len(value) <= 200):
        raise ValueError(f"{field} is not a text of 1 to 200 characters")
    return value


def flag(told, field):
    """Return true or false; false where it is left out."""
    value = told.get(field)
    if value is not None and not (type(value) in {bool, int, float} and value in {0, 1}):
        raise ValueError(f"{field} is neither true nor false")
    return bool(value)


client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, f"heron-{agent}-{device}-{boot}")  # clean session
will = {"type": "status", "state": "offline", "sender": name, "env_id": env}
client.will_set(f"{base}/status", json.dumps(will), qos=1, retain=True)
client.on_connect, client.on_subscribe, client.on_message = on_connect, on_subscribe, on_message
client.connect_timeout = 1.0  # nothing may keep us from watching the lease
client.connect(host, port, keepalive=15)
reconnect_at = 0.0
while True:
    if client.loop(timeout=0.02) != mqtt.MQTT_ERR_SUCCESS:
        time.sleep(0.02)
        is_short = (
            holder is not None and lease_ends - now() < 1.5
        )  # connecting may take longer than the lease
        if now() > reconnect_at and not is_short:
            reconnect_at = now() + 0.5
            try:
                client.reconnect()
            except OSError as exc:
                print("still away:", exc, file=sys.stderr)
    if holder is not None and now() >= lease_ends:
        go_safe(safe_after_s=round(now() - heard_at, 3))  # it was not renewed
    if now() >= next_telemetry:
        say_telemetry()
