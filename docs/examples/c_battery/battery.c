/* A battery on the wire in C, over a plain socket: what docs/wire-contract.md, "Devices", asks for.
 *
 *     make && ./battery 127.0.0.1 1883 three_microgrids MG1 ess [--require-proof]
 *
 * Replace `drive` and `measure` with what talks to your inverter. The rest is the contract: the numbers in
 * `take_setpoint` are those of the page. No memory is allocated after the start.
 */
#define _POSIX_C_SOURCE 200809L
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "json.h"
#include "mqtt.h"

#define E_MAX_MWH 0.2
#define P_MAX_MW 0.05
#define KEEPALIVE_S 15
#define ID_ROOM 804    /* an identifier: 200 characters of UTF-8, at most 4 bytes each */
#define SENT 64        /* telemetry whose time is remembered */
#define SENDERS 8      /* senders whose newest seq is remembered */
#define RELEASES 64    /* releases of a stop that were heard */
#define PERIOD_MS 1000 /* between telemetry without a lease */

struct sender {
    bool has_name, has_boot;
    char name[ID_ROOM], boot[ID_ROOM];
};

static struct mqtt mqtt = {.sock = -1};
static const char *env;
static char name[512], boot[32], telemetry_topic[640], setpoint_topic[640], status_topic[640], lease_topic[640];
static char estop_topic[640], confirm_topic[640], will[640], client_id[64];
static bool require_proof;

static double power_mw, soc = 0.5;

static uint32_t telemetry_seq, lease_seq, confirm_seq;
static struct { uint32_t seq; int64_t at_ms; } sent[SENT];

static bool is_held;                 /* a lease is held; it is over at lease_end_ms */
static struct sender owner;
static double lease_s;
static int64_t lease_end_ms, heard_ms; /* heard_ms: the newest setpoint or renewal of the owner */

static struct { bool used; struct sender who; double seq; int64_t heard_ms; } newest[SENDERS];
static bool has_answered;            /* the newest setpoint done: its seq, and its boot if it had one */
static double answered_seq;
static char answered_boot[ID_ROOM];

static bool stopped;
static bool has_stop_id;
static char stop_boot[ID_ROOM];
static double stop_seq;
static struct { char boot[ID_ROOM]; double seq; } releases[RELEASES];
static unsigned releases_heard;

static int64_t next_telemetry_ms;

/* -- the hardware ------------------------------------------------------------------------------------- */

static void drive(double p_mw) { /* positive = into the grid */
    power_mw = fmin(fmax(p_mw, -P_MAX_MW), P_MAX_MW);
}

static double measure(void) { return power_mw; }

/* -- what we say -------------------------------------------------------------------------------------- */

/* Appends to a message; one that has no room for it is not sent. */
static void add(char *message, size_t room, const char *format, ...) {
    size_t n = strlen(message);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message + n, room - n, format, arguments);
    va_end(arguments);
}

static void add_text(char *message, size_t room, const char *field, const char *text) {
    char quoted[MQTT_ROOM];
    if (json_quote(quoted, sizeof quoted, text)) add(message, room, ",\"%s\":%s", field, quoted);
}

static void say(const char *topic, char *message, size_t room, bool retain) {
    add_text(message, room, "sender", name);
    add_text(message, room, "env_id", env);
    add_text(message, room, "boot", boot);
    add(message, room, "}");
    if (!mqtt_publish(&mqtt, topic, message, retain)) mqtt_close(&mqtt);
}

/* Publishes what is measured. `ack_boot` and `ack_seq` are given for a refusal; otherwise the newest one done. */
static void say_telemetry(const char *rejected, bool has_ack, double ack_seq, const char *ack_boot, double safe_after_s) {
    int64_t now = now_ms();
    double every_ms = is_held ? fmin(PERIOD_MS, lease_s * 1000 / 4) : PERIOD_MS;
    next_telemetry_ms = now + (int64_t)every_ms;
    if (mqtt.sock < 0 || !mqtt.subscribed) return;
    char m[3072] = "";
    add(m, sizeof m, "{\"type\":\"telemetry\",\"p_mw\":%.9g,\"soc\":%.9g,\"safe\":%s,\"stopped\":%s", measure(), soc,
        is_held ? "false" : "true", stopped ? "true" : "false");
    if (rejected) add_text(m, sizeof m, "rejected", rejected);
    if (!has_ack && has_answered) has_ack = true, ack_seq = answered_seq, ack_boot = answered_boot;
    if (has_ack) add(m, sizeof m, ",\"ack_seq\":%.0f", ack_seq);
    if (has_ack && *ack_boot) add_text(m, sizeof m, "ack_boot", ack_boot);
    if (safe_after_s > 0) add(m, sizeof m, ",\"safe_after_s\":%.3f", safe_after_s);
    add(m, sizeof m, ",\"seq\":%u", (unsigned)telemetry_seq);
    sent[telemetry_seq % SENT].seq = telemetry_seq;
    sent[telemetry_seq % SENT].at_ms = now;
    telemetry_seq++;
    say(telemetry_topic, m, sizeof m, false);
}

static void say_lease(void) {
    if (mqtt.sock < 0 || !mqtt.subscribed) return;
    char m[3072] = "";
    add(m, sizeof m, "{\"type\":\"lease\",\"state\":\"%s\",\"seq\":%u", is_held ? "held" : "free", (unsigned)lease_seq++);
    if (is_held) add(m, sizeof m, ",\"lease_s\":%.9g", lease_s);
    if (is_held && owner.has_name) add_text(m, sizeof m, "holder", owner.name);
    if (is_held && owner.has_boot) add_text(m, sizeof m, "holder_boot", owner.boot);
    say(lease_topic, m, sizeof m, true);
}

static void say_birth(void) {
    char m[3072] = "";
    add(m, sizeof m, "{\"type\":\"status\",\"state\":\"online\",\"kind\":\"battery\",\"p_min_mw\":%g,\"p_max_mw\":%g", -P_MAX_MW, P_MAX_MW);
    add(m, sizeof m, ",\"max_e_mwh\":%g,\"soc\":%.9g", E_MAX_MWH, soc);
    say(status_topic, m, sizeof m, true); /* a birth has no seq: it is said again after a reconnect */
}

static void go_safe(double safe_after_s) {
    is_held = false;
    drive(0.0);
    say_telemetry(NULL, false, 0, "", safe_after_s);
    say_lease();
}

/* -- emergency stop ----------------------------------------------------------------------------------- */

/* Everything that is not a valid release is a stop. */
static bool is_release(const char *payload, size_t size, bool too_large) {
    struct json_field f;
    if (too_large || !json_find(payload, size, "active", &f) || f.kind != JSON_FALSE) return false;
    if (!json_find(payload, size, "boot", &f) || !json_find(payload, size, "seq", &f)) return false; /* twice */
    if (!json_find(payload, size, "type", &f)) return false;
    if (f.kind != JSON_ABSENT && !(f.kind == JSON_TEXT && !f.text_is_cut && strcmp(f.text, "estop") == 0)) return false;
    if (!json_find(payload, size, "env_id", &f)) return false;
    return f.kind == JSON_ABSENT || (f.kind == JSON_TEXT && !f.text_is_cut && strcmp(f.text, env) == 0);
}

static void take_stop(const char *payload, size_t size, bool too_large) {
    struct json_field of_boot, of_seq;
    bool has_id = !too_large && json_find(payload, size, "boot", &of_boot) && of_boot.kind == JSON_TEXT &&
                  !of_boot.text_is_cut && strlen(of_boot.text) < ID_ROOM && json_find(payload, size, "seq", &of_seq) &&
                  of_seq.kind == JSON_NUMBER && of_seq.whole_as_written && of_seq.number >= 0 && of_seq.number < 1e15;
    if (!is_release(payload, size, too_large)) {
        stopped = true;
    } else {
        for (unsigned i = 0; has_id && i < RELEASES && i < releases_heard; i++)
            if (strcmp(releases[i].boot, of_boot.text) == 0 && releases[i].seq == of_seq.number) goto confirm;
        if (has_id) {
            strcpy(releases[releases_heard % RELEASES].boot, of_boot.text);
            releases[releases_heard++ % RELEASES].seq = of_seq.number;
        }
        stopped = false;
    }
    has_stop_id = has_id;
    if (has_id) strcpy(stop_boot, of_boot.text), stop_seq = of_seq.number;
    if (stopped) go_safe(0);
    else say_telemetry(NULL, false, 0, "", 0);
confirm:;
    char m[3072] = "";
    add(m, sizeof m, "{\"type\":\"estop_confirm\",\"active\":%s,\"safe\":%s,\"seq\":%u", stopped ? "true" : "false",
        is_held ? "false" : "true", (unsigned)confirm_seq++);
    if (has_stop_id) add_text(m, sizeof m, "stop_boot", stop_boot);
    if (has_stop_id) add(m, sizeof m, ",\"stop_seq\":%.0f", stop_seq);
    say(confirm_topic, m, sizeof m, false);
}

/* -- setpoints: fields -------------------------------------------------------------------------------- */

struct setpoint {
    double p_mw, q_mvar, lease_s, dt_s, seq, heard_seq; /* seq, heard_seq: -1 = left out */
    bool renewal, take_over, release, has_heard_boot;
    struct sender who;
    char heard_boot[ID_ROOM];
};

static bool get_number(const char *payload, size_t size, const char *field, bool must, double *to) {
    struct json_field f;
    if (!json_find(payload, size, field, &f)) return false;
    if (f.kind == JSON_ABSENT || f.kind == JSON_NULL) return !must;
    *to = f.number;
    return f.kind == JSON_NUMBER && isfinite(f.number);
}

static bool get_count(const char *payload, size_t size, const char *field, double *to) {
    *to = -1;
    double found = 0;
    struct json_field f;
    if (!json_find(payload, size, field, &f)) return false;
    if (f.kind == JSON_ABSENT || f.kind == JSON_NULL) return true;
    if (!get_number(payload, size, field, true, &found)) return false;
    *to = found;
    return found >= 0 && found <= 9223372036854775808.0 && floor(found) == found; /* 5.0 is 5 */
}

static bool get_flag(const char *payload, size_t size, const char *field, bool *to) {
    struct json_field f;
    if (!json_find(payload, size, field, &f)) return false;
    *to = f.kind == JSON_TRUE || (f.kind == JSON_NUMBER && f.number == 1);
    return f.kind != JSON_TEXT && f.kind != JSON_NESTED && (f.kind != JSON_NUMBER || f.number == 0 || f.number == 1);
}

/* A text of 1 to 200 characters; a number counts as its digits. */
static bool get_identifier(const char *payload, size_t size, const char *field, bool *has, char *to) {
    struct json_field f;
    if (!json_find(payload, size, field, &f)) return false;
    to[0] = 0;
    *has = f.kind != JSON_ABSENT && f.kind != JSON_NULL;
    if (!*has) return true;
    if (f.kind == JSON_NUMBER && !f.whole_as_written && isfinite(f.number) && floor(f.number) == f.number && fabs(f.number) < 1e15)
        snprintf(f.text, sizeof f.text, "%.0f", f.number); /* 7.0 is "7" */
    size_t characters = 0, bytes = strlen(f.text);
    for (const char *c = f.text; *c; c++) characters += ((unsigned char)*c & 0xC0) != 0x80;
    if ((f.kind != JSON_TEXT && f.kind != JSON_NUMBER) || f.text_is_cut || characters < 1 || characters > 200) return false;
    memcpy(to, f.text, bytes + 1);
    return true;
}

/* Reads a setpoint; false: it is not one for us. */
static bool read_setpoint(const char *payload, size_t size, struct setpoint *s) {
    struct json_field f;
    bool has_env;
    char of_env[ID_ROOM];
    memset(s, 0, sizeof *s);
    if (!json_find(payload, size, "type", &f)) return false;
    if (f.kind != JSON_ABSENT && f.kind != JSON_NULL && !(f.kind == JSON_TEXT && strcmp(f.text, "setpoint") == 0)) return false;
    return get_number(payload, size, "p_mw", true, &s->p_mw) && get_number(payload, size, "q_mvar", false, &s->q_mvar) &&
           get_number(payload, size, "lease_s", true, &s->lease_s) && s->lease_s > 0 && s->lease_s <= 86400 &&
           get_number(payload, size, "dt_s", false, &s->dt_s) && get_count(payload, size, "seq", &s->seq) &&
           get_count(payload, size, "heard_seq", &s->heard_seq) && get_flag(payload, size, "renewal", &s->renewal) &&
           get_flag(payload, size, "take_over", &s->take_over) && get_flag(payload, size, "release", &s->release) &&
           get_identifier(payload, size, "sender", &s->who.has_name, s->who.name) &&
           get_identifier(payload, size, "boot", &s->who.has_boot, s->who.boot) &&
           get_identifier(payload, size, "heard_boot", &s->has_heard_boot, s->heard_boot) &&
           get_identifier(payload, size, "env_id", &has_env, of_env) && (!has_env || strcmp(of_env, env) == 0);
}

/* -- setpoints: rules --------------------------------------------------------------------------------- */

static bool same(const struct sender *a, const struct sender *b) {
    return a->has_name == b->has_name && a->has_boot == b->has_boot && strcmp(a->name, b->name) == 0 &&
           strcmp(a->boot, b->boot) == 0;
}

/* Whether this seq, or a higher one, of its sender was heard; notes it. */
static bool is_repeated(const struct setpoint *s) {
    int place = 0;
    if (s->seq < 0) return false;
    for (int i = 0; i < SENDERS; i++) {
        if (newest[i].used && same(&newest[i].who, &s->who)) {
            if (s->seq <= newest[i].seq) return true;
            place = i;
            break;
        }
        if (!newest[i].used || (newest[place].used && newest[i].heard_ms < newest[place].heard_ms)) place = i;
    }
    newest[place].used = true;
    newest[place].who = s->who;
    newest[place].seq = s->seq;
    newest[place].heard_ms = now_ms();
    return false;
}

/* Returns the end of the lease in ms, -1: stale, -2: it lacks the proof that this device requires. */
static int64_t lease_end(const struct setpoint *s, int64_t now) {
    int64_t begin = now, for_ms = (int64_t)(s->lease_s * 1000);
    if (!s->has_heard_boot && s->heard_seq < 0) {
        if (require_proof) return -2;
    } else {
        if (!s->has_heard_boot || strcmp(s->heard_boot, boot) != 0 || s->heard_seq < 0) return -1;
        if (s->heard_seq >= telemetry_seq) return -1;
        uint32_t seq = (uint32_t)s->heard_seq;
        if (sent[seq % SENT].seq != seq) return -1;
        begin = sent[seq % SENT].at_ms;
    }
    return begin + for_ms > now ? begin + for_ms : -1;
}

static void answered(const struct setpoint *s) {
    if (s->seq < 0) return;
    has_answered = true;
    answered_seq = s->seq;
    strcpy(answered_boot, s->who.boot);
}

static void refuse(const struct setpoint *s, const char *why) {
    say_telemetry(why, s->seq >= 0, s->seq, s->who.boot, 0);
}

static void take_setpoint(const char *payload, size_t size, bool retained) {
    static struct setpoint s;
    int64_t now = now_ms();
    if (retained || !read_setpoint(payload, size, &s) || is_repeated(&s)) return;         /* 1, 2, 3 */
    bool runs = is_held && now < lease_end_ms, is_owner = runs && same(&s.who, &owner);
    int64_t end = lease_end(&s, now);
    if (s.renewal) {                                                                      /* 4 */
        if (!is_owner || end < 0) return;
        if (end > lease_end_ms) lease_end_ms = end;
        lease_s = s.lease_s;
        heard_ms = now;
        return;
    }
    if (s.release) {                                                                      /* 5 */
        if (runs && !is_owner) {
            refuse(&s, "not the owner of the lease");
            return;
        }
        answered(&s);
        go_safe(0);
        return;
    }
    if (runs && !is_owner && !s.take_over) {                                              /* 6 */
        char why[128];
        snprintf(why, sizeof why, "the lease is held by another for another %.1f s", (double)(lease_end_ms - now) / 1000);
        refuse(&s, why);
        return;
    }
    if (end < 0) {                                                                        /* 7 */
        refuse(&s, end == -2 ? "no proof of its age (heard_boot, heard_seq)" : "stale: older than its lease, or of another boot");
        return;
    }
    answered(&s);
    if (stopped) {                                                                        /* 8 */
        say_telemetry("emergency stop", false, 0, "", 0);
        return;
    }
    bool is_news = !is_held || !same(&s.who, &owner);                                     /* 9 */
    is_held = true;
    owner = s.who;
    lease_s = s.lease_s;
    lease_end_ms = end;
    heard_ms = now;
    double dt_h = fmax(s.dt_s, 0) / 3600; /* simulated time; a real battery has its own */
    if (dt_h > 0) s.p_mw = fmin(fmax(s.p_mw, (soc - 1) * E_MAX_MWH / dt_h), soc * E_MAX_MWH / dt_h);
    drive(s.p_mw);
    soc = fmin(fmax(soc - measure() * dt_h / E_MAX_MWH, 0), 1);
    say_telemetry(NULL, false, 0, "", 0);
    if (is_news) say_lease();
}

static void on_message(const char *topic, const char *payload, size_t size, bool retained, bool too_large) {
    if (strcmp(topic, estop_topic) == 0) take_stop(payload, size, too_large);
    else if (strcmp(topic, setpoint_topic) == 0 && !too_large) take_setpoint(payload, size, retained);
}

/* -- life --------------------------------------------------------------------------------------------- */

/* A boot that no earlier start has had: from the random generator, or else from the time and the process. */
static void choose_boot(void) {
    unsigned char bytes[4] = {0};
    FILE *random = fopen("/dev/urandom", "rb");
    if (random == NULL || fread(bytes, 1, sizeof bytes, random) != sizeof bytes)
        snprintf(boot, sizeof boot, "%llx-%lx", (unsigned long long)time(NULL), (unsigned long)getpid());
    else
        snprintf(boot, sizeof boot, "%02x%02x%02x%02x", bytes[0], bytes[1], bytes[2], bytes[3]);
    if (random) fclose(random);
}

int main(int count, char **arguments) {
    if (count < 6) {
        fprintf(stderr, "usage: %s HOST PORT ENV AGENT DEVICE [--require-proof]\n", arguments[0]);
        return 2;
    }
    const char *agent = arguments[4], *device = arguments[5];
    env = arguments[3];
    require_proof = count > 6 && strcmp(arguments[6], "--require-proof") == 0;
    if (strlen(env) > 200 || strlen(agent) > 200 || strlen(device) > 200) {
        fprintf(stderr, "%s: ENV, AGENT and DEVICE have at most 200 bytes each\n", arguments[0]);
        return 2;
    }
    if (strpbrk(env, "/+#%") || strpbrk(agent, "/+#%") || strpbrk(device, "/+#%")) {
        fprintf(stderr, "%s: ENV, AGENT and DEVICE must not hold / + # %%, which topics escape\n", arguments[0]);
        return 2;
    }
    choose_boot();
    snprintf(name, sizeof name, "%s/%s", agent, device);
    snprintf(telemetry_topic, sizeof telemetry_topic, "heron/%s/devices/%s/%s/telemetry", env, agent, device);
    snprintf(setpoint_topic, sizeof setpoint_topic, "heron/%s/devices/%s/%s/setpoint", env, agent, device);
    snprintf(status_topic, sizeof status_topic, "heron/%s/devices/%s/%s/status", env, agent, device);
    snprintf(lease_topic, sizeof lease_topic, "heron/%s/devices/%s/%s/lease", env, agent, device);
    snprintf(estop_topic, sizeof estop_topic, "heron/%s/estop", env);
    snprintf(confirm_topic, sizeof confirm_topic, "heron/%s/estop/confirm/%s/%s", env, agent, device);
    snprintf(will, sizeof will, "{\"type\":\"status\",\"state\":\"offline\"}");
    snprintf(client_id, sizeof client_id, "heron%s", boot);
    const struct mqtt_login login = {arguments[1], arguments[2], client_id, status_topic, will, KEEPALIVE_S};
    const char *const topics[] = {estop_topic, setpoint_topic}; /* in this order: a retained stop comes first */
    signal(SIGPIPE, SIG_IGN);
    mqtt.on_message = on_message;

    bool is_born = false;
    int64_t connect_at_ms = 0;
    for (;;) {
        if (mqtt.sock < 0) {
            is_born = false;
            bool is_short = is_held && lease_end_ms - now_ms() < 2 * CONNECT_MS + 100; /* it may take longer */
            if (now_ms() >= connect_at_ms && !is_short) {
                connect_at_ms = now_ms() + 500;
                if (mqtt_connect(&mqtt, &login) && !mqtt_subscribe(&mqtt, topics, 2)) mqtt_close(&mqtt);
            } else {
                struct timespec rest = {0, 10000000};
                nanosleep(&rest, NULL);
            }
        } else if (!mqtt_loop(&mqtt, 10, KEEPALIVE_S)) {
            mqtt_close(&mqtt);
        } else if (mqtt.subscribed && !is_born) {
            is_born = true;
            say_birth();
            say_telemetry(NULL, false, 0, "", 0);
            say_lease();
        }
        if (is_held && now_ms() >= lease_end_ms) go_safe((double)(now_ms() - heard_ms) / 1000);
        if (now_ms() >= next_telemetry_ms) say_telemetry(NULL, false, 0, "", 0);
    }
}
