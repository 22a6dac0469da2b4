"""A battery controller on an ESP32 (MicroPython, umqtt.simple): the bare device of ../bare_device.py.

Copy it to the board as main.py beside config.py, which holds HOST, PORT, ENV, AGENT, DEVICE and, for a
broker that asks for it, USER and PASSWORD; REQUIRE_PROOF = True refuses setpoints that do not prove their
age. Connect to the network in boot.py. Replace ``measure`` and ``drive`` with what talks to your inverter.
The rules stand in docs/wire-contract.md, "Devices".
"""

import json
import os
import time

from umqtt.simple import MQTTClient

import config

E_MAX_MWH, P_MAX_MW = 0.2, 0.05
NAME = "%s/%s" % (config.AGENT, config.DEVICE)
BASE = "heron/%s/devices/%s/%s" % (config.ENV, config.AGENT, config.DEVICE)
ESTOP = "heron/%s/estop" % config.ENV
CONFIRM = "heron/%s/estop/confirm/%s/%s" % (config.ENV, config.AGENT, config.DEVICE)
REQUIRE_PROOF = getattr(config, "REQUIRE_PROOF", False)
BOOT = "".join("%02x" % byte for byte in os.urandom(4))  # another one at every start

power_mw = 0.0
soc = 0.5
seqs = {}  # topic -> seq of the next message on it
published = {}  # seq of our telemetry -> when it left, ms; the newest 64
newest = []  # (sender, boot), seq of the newest setpoint or renewal; the last 16 senders
answered = (None, None)  # boot and seq of the newest setpoint done, or rejected because of a stop
holder = None  # (sender, boot) of the lease's owner; None: free
lease_from, lease_ms, lease_s, heard_at = 0, 0.0, 0.0, 0  # counted from then, for so long
stopped = False
stop_id = (None, None)
releases = []  # boot and seq of the last 64 heard
inbox = []  # topic and payload, until the main loop knows whether they were retained
last = 0


def drive(p_mw):
    """Tell the inverter: positive = into the grid."""
    global power_mw
    power_mw = min(max(p_mw, -P_MAX_MW), P_MAX_MW)


def measure():
    """Ask the inverter."""
    return power_mw, soc


def now():
    """Milliseconds; ticks wrap, differences do not (ticks_diff)."""
    return time.ticks_ms() if hasattr(time, "ticks_ms") else int(time.monotonic() * 1000)


def since(then):
    """Milliseconds since a moment of ``now``."""
    return time.ticks_diff(now(), then) if hasattr(time, "ticks_diff") else now() - then


def is_held():
    """Whether a lease is held and not over."""
    return holder is not None and since(lease_from) < lease_ms


# -- what we say -----------------------------------------------------------------------------------------


def say(topic, fields, retain=False):
    """Publish with our name, boot and the next number.

    At QoS 0: at 1 umqtt.simple waits for the broker's answer, and the lease is not watched meanwhile.
    """
    seqs[topic] = seq = seqs.get(topic, -1) + 1
    message = {"sender": NAME, "env_id": config.ENV, "boot": BOOT, "seq": seq}
    for name in fields:
        if fields[name] is not None:
            message[name] = fields[name]
    client.publish(topic, json.dumps(message), retain)
    return seq


def telemetry(ack=None, rejected=None, safe_after_s=None):
    """Publish what the inverter does, and note when: a setpoint will echo boot and seq."""
    global last
    last = now()
    p_mw, charge = measure()
    ack_boot, ack_seq = ack or answered
    message = {"type": "telemetry", "p_mw": p_mw, "soc": charge, "safe": holder is None}
    message["ack_boot"], message["ack_seq"] = ack_boot, ack_seq
    message["rejected"], message["safe_after_s"] = rejected, safe_after_s
    message["stopped"] = stopped or None
    seq = say(BASE + "/telemetry", message)
    published[seq] = last
    published.pop(seq - 64, None)


def lease_state():
    """Publish whose setpoints we follow; retained."""
    message = {"type": "lease", "state": "free"}
    if holder is not None:
        message = {"type": "lease", "state": "held", "lease_s": lease_s}
        message["holder"], message["holder_boot"] = holder
    say(BASE + "/lease", message, True)


def go_safe(safe_after_s=None):
    """End the lease and go to 0 MW."""
    global holder
    holder = None
    drive(0.0)
    telemetry(safe_after_s=safe_after_s)
    lease_state()


# -- what we hear ----------------------------------------------------------------------------------------


def on_message(topic, payload):
    """Keep a message: umqtt is in the middle of it, and does not say here whether it was retained."""
    inbox.append((topic.decode(), payload))


def take_inbox(op):
    """Take what came. ``op`` is the head of its packet: bit 0 says that it was retained."""
    while inbox:
        topic, payload = inbox.pop(0)
        try:
            told = json.loads(payload.decode())
            if not is_finite(told) or (topic == ESTOP and payload.count(b'"active"') > 1):
                told = None  # of a key that comes twice MicroPython keeps one: which was meant?
        except (ValueError, RuntimeError, MemoryError):  # not UTF-8, not JSON, too deep, too large
            told = None
        if topic == ESTOP:
            take_stop(told if isinstance(told, dict) else {})
        elif op is None or op & 1 or not isinstance(told, dict):
            print("ignored: retained, or no JSON object")
        else:
            try:
                take_setpoint(told)
            except (ValueError, OverflowError) as exc:
                print("ignored:", exc)


def take_stop(told):
    """Stop at everything that is not a valid release; a release counts once. Confirm in any case."""
    global stopped, stop_id
    ident = (told.get("boot"), told.get("seq"))
    is_named = isinstance(ident[0], str) and isinstance(ident[1], int)
    is_ours = told.get("type", "estop") == "estop" and told.get("env_id", config.ENV) == config.ENV
    if told.get("active") is False and is_ours:
        if not (is_named and ident in releases):
            stopped, stop_id = False, ident if is_named else (None, None)
            releases.append(ident)
            del releases[:-64]
            telemetry()
    else:
        stopped, stop_id = True, ident if is_named else (None, None)
        go_safe()
    message = {"type": "estop_confirm", "active": stopped, "safe": holder is None}
    message["stop_boot"], message["stop_seq"] = stop_id
    say(CONFIRM, message)


def is_repeated(who, seq):
    """Whether this number, or a higher one, of a sender was heard before; notes it."""
    for i in range(len(newest)):
        if newest[i][0] == who:
            if seq <= newest[i][1]:
                return True
            del newest[i]
            break
    newest.append((who, seq))
    del newest[:-16]
    return False


def take_setpoint(told):
    """Do what a setpoint says, unless it is repeated, stale, or of another than the lease's owner."""
    global answered, holder, lease_from, lease_ms, lease_s, heard_at, soc
    p_mw, for_s, seq = number(told, "p_mw"), number(told, "lease_s"), count(told, "seq")
    number(told, "q_mvar", 0.0)
    sender, its_boot, heard_boot = text(told, "sender"), text(told, "boot"), text(told, "heard_boot")
    heard_seq, dt_s = count(told, "heard_seq"), number(told, "dt_s", 0.0)
    renewal, take_over, release = flag(told, "renewal"), flag(told, "take_over"), flag(told, "release")
    if told.get("type") not in (None, "setpoint") or text(told, "env_id") not in (None, config.ENV):
        raise ValueError("not a setpoint for us")
    if not 0.0 < for_s <= 86400.0:
        raise ValueError("lease_s = %s" % for_s)
    who = (sender, its_boot)
    ack = None if seq is None else (its_boot, seq)
    if seq is not None and is_repeated(who, seq):
        return

    # How old can it be? Not older than our telemetry that it echoes.
    begin, refused = now(), None
    if heard_boot is None and heard_seq is None:
        refused = "no proof of its age (heard_boot, heard_seq)" if REQUIRE_PROOF else None
    elif heard_boot != BOOT or heard_seq not in published:
        refused = "stale: it echoes telemetry that we do not know"
    else:
        begin = published[heard_seq]
        refused = "stale: older than its lease" if since(begin) >= for_s * 1000 else None
    held = is_held()
    if held and who != holder and not (take_over and not release):
        refused = "the lease is held by %s (boot %s)" % holder

    if release:
        if held and who != holder:
            telemetry(ack, rejected="not the owner of the lease")
        else:
            answered = ack or answered
            go_safe()
    elif renewal:  # it extends what runs, and is never answered
        if refused is None and held and who == holder:
            heard_at = now()
            if for_s * 1000 - since(begin) > lease_ms - since(lease_from):
                lease_from, lease_ms, lease_s = begin, for_s * 1000, for_s
    elif refused:
        telemetry(ack, rejected=refused)
    elif stopped:
        answered = ack or answered
        telemetry(rejected="emergency stop")
    else:
        answered = ack or answered
        was, holder = holder, who
        lease_from, lease_ms, lease_s, heard_at = begin, for_s * 1000, for_s, now()
        dt_h = max(dt_s, 0.0) / 3600.0  # simulated time; a real battery has its own
        if dt_h > 0.0:
            p_mw = min(max(p_mw, (soc - 1.0) * E_MAX_MWH / dt_h), soc * E_MAX_MWH / dt_h)
        drive(p_mw)
        soc = min(max(soc - power_mw * dt_h / E_MAX_MWH, 0.0), 1.0)
        telemetry()
        if was != holder:
            lease_state()


# -- fields, liberally: 5.0 for 5, 1 for true, a number for a text, null for one that is left out ---------


def is_finite(value):
    """Whether there is neither NaN nor infinity in it: with one it is not JSON, or says nothing."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return all(is_finite(part) for part in value)
    return not isinstance(value, float) or value - value == 0.0


def number(told, field, default=None):
    """Return a number; an integer of hundreds of digits is none."""
    value = default if told.get(field) is None else told[field]
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(float(value)) < 1e9:
        raise ValueError(field)
    return float(value)


def count(told, field):
    """Return a whole number that is not negative, or None."""
    value = told.get(field)
    if value is None:
        return None
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float))
        or value != int(value)
        or not 0 <= value <= 2**63
    ):
        raise ValueError(field)
    return int(value)


def text(told, field):
    """Return a text of 1 to 200 characters, or None."""
    value = told.get(field)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        value = str(int(value)) if value == int(value) else str(value)
    if value is not None and not (isinstance(value, str) and 1 <= len(value) <= 200):
        raise ValueError(field)
    return value


def flag(told, field):
    """Return true or false; false where it is left out."""
    value = told.get(field)
    if value is not None and not (isinstance(value, (bool, int, float)) and value in (0, 1)):
        raise ValueError(field)
    return bool(value)


# -- life ------------------------------------------------------------------------------------------------


def connect():
    """Connect, leave a will, subscribe to the stop first: a retained one comes before any setpoint."""
    made = MQTTClient(
        "heron-%s-%s" % (config.AGENT, BOOT),
        config.HOST,
        port=config.PORT,
        user=getattr(config, "USER", None),
        password=getattr(config, "PASSWORD", None),
        keepalive=15,
    )
    made.set_callback(on_message)
    will = {"type": "status", "state": "offline", "sender": NAME, "env_id": config.ENV}
    made.set_last_will(BASE + "/status", json.dumps(will), True, 1)
    made.connect()  # a clean session: the broker keeps no setpoints for us while we are away
    made.subscribe(ESTOP, 1)
    made.subscribe(BASE + "/setpoint", 1)
    return made


def appear():
    """Be born, again after every connect, and say at once what we do. A birth has no seq."""
    birth = {"type": "status", "state": "online", "kind": "battery", "max_e_mwh": E_MAX_MWH, "soc": soc}
    birth["p_min_mw"], birth["p_max_mw"] = -P_MAX_MW, P_MAX_MW
    birth["sender"], birth["env_id"], birth["boot"] = NAME, config.ENV, BOOT
    client.publish(BASE + "/status", json.dumps(birth), True, 1)
    telemetry()
    lease_state()


client = None
while True:
    try:
        if client is None:
            client = connect()
            take_inbox(1)  # what came while we subscribed: a stop counts, a setpoint may be a retained one
            appear()
        take_inbox(client.check_msg())
        if holder is not None and not is_held():
            go_safe(since(heard_at) / 1000)  # it was not renewed
        if since(last) >= (min(1000, lease_ms / 4) if holder is not None else 1000):
            telemetry()
    except OSError as exc:
        print("no connection:", exc)
        client = holder = None
        inbox.clear()
        drive(0.0)  # at once: connecting again may take longer than the lease
        time.sleep(1)
    time.sleep(0.005)
