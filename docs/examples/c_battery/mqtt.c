#define _POSIX_C_SOURCE 200809L
#include "mqtt.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define SEND_MS 100

int64_t now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

void mqtt_close(struct mqtt *m) {
    if (m->sock >= 0) close(m->sock);
    m->sock = -1;
    m->subscribed = false;
}

/* -- out ---------------------------------------------------------------------------------------------- */

static bool wait_for(int sock, short what, int wait_ms) {
    struct pollfd p = {.fd = sock, .events = what};
    return poll(&p, 1, wait_ms) == 1 && (p.revents & what);
}

static bool send_all(struct mqtt *m, const uint8_t *data, size_t size) {
    while (size > 0) {
        ssize_t n = send(m->sock, data, size, MSG_NOSIGNAL);
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK) && wait_for(m->sock, POLLOUT, SEND_MS)) continue;
        if (n <= 0) return false;
        data += n;
        size -= (size_t)n;
    }
    m->said_ms = now_ms();
    return true;
}

static size_t put_u16(uint8_t *at, size_t value) {
    at[0] = (uint8_t)(value >> 8);
    at[1] = (uint8_t)value;
    return 2;
}

static size_t put_text(uint8_t *at, const char *text) {
    size_t size = strlen(text);
    put_u16(at, size);
    memcpy(at + 2, text, size);
    return size + 2;
}

/* Sends one packet; `body` has room for 5 bytes before it, for the fixed header. */
static bool send_packet(struct mqtt *m, uint8_t head, uint8_t *body, size_t size) {
    uint8_t fixed[5] = {head};
    size_t n = 1, left = size;
    do {
        fixed[n++] = (uint8_t)((left & 127) | (left > 127 ? 128 : 0));
        left >>= 7;
    } while (left > 0);
    memcpy(body - n, fixed, n);
    return send_all(m, body - n, n + size);
}

bool mqtt_publish(struct mqtt *m, const char *topic, const char *payload, bool retain) {
    uint8_t packet[5 + MQTT_ROOM], *body = packet + 5;
    if (m->sock < 0 || strlen(topic) + strlen(payload) + 4 > MQTT_ROOM) return false; /* nothing is queued */
    size_t n = put_text(body, topic);
    n += put_u16(body + n, m->next_id);
    m->next_id = m->next_id == 65535 ? 1 : (uint16_t)(m->next_id + 1);
    memcpy(body + n, payload, strlen(payload));
    return send_packet(m, (uint8_t)(0x32 | (retain ? 1 : 0)), body, n + strlen(payload));
}

bool mqtt_subscribe(struct mqtt *m, const char *const *topics, size_t count) {
    uint8_t packet[5 + MQTT_ROOM], *body = packet + 5;
    size_t n = put_u16(body, m->next_id);
    m->next_id = m->next_id == 65535 ? 1 : (uint16_t)(m->next_id + 1);
    for (size_t i = 0; i < count; i++) {
        if (n + strlen(topics[i]) + 3 > MQTT_ROOM) return false;
        n += put_text(body + n, topics[i]);
        body[n++] = 1; /* QoS 1 */
    }
    return send_packet(m, 0x82, body, n);
}

bool mqtt_connect(struct mqtt *m, const struct mqtt_login *login) {
    if (m->address_size == 0) {
        struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found = NULL;
        if (getaddrinfo(login->host, login->port, &hints, &found) != 0) return false;
        memcpy(&m->address, found->ai_addr, found->ai_addrlen);
        m->address_size = found->ai_addrlen;
        freeaddrinfo(found);
    }
    m->sock = socket(m->address.ss_family, SOCK_STREAM, 0);
    m->have = 0;
    m->skip = 0;
    m->ping_ms = 0;
    m->subscribed = false;
    if (m->next_id == 0) m->next_id = 1;
    bool ok = m->sock >= 0 && fcntl(m->sock, F_SETFL, O_NONBLOCK) == 0;
    ok = ok && (connect(m->sock, (struct sockaddr *)&m->address, m->address_size) == 0 || errno == EINPROGRESS);
    int error = 0, yes = 1;
    socklen_t size = sizeof error;
    ok = ok && wait_for(m->sock, POLLOUT, CONNECT_MS);
    ok = ok && getsockopt(m->sock, SOL_SOCKET, SO_ERROR, &error, &size) == 0 && error == 0;
    ok = ok && setsockopt(m->sock, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes) == 0;
    if (ok) {
        uint8_t packet[5 + MQTT_ROOM], *body = packet + 5;
        size_t n = put_text(body, "MQTT");
        body[n++] = 4;                     /* MQTT 3.1.1 */
        body[n++] = 0x02 | 0x04 | 0x08 | 0x20; /* clean session; a will, at QoS 1, retained */
        n += put_u16(body + n, login->keepalive_s);
        n += put_text(body + n, login->client_id);
        n += put_text(body + n, login->will_topic);
        n += put_text(body + n, login->will);
        uint8_t ack[4];
        ok = send_packet(m, 0x10, body, n) && wait_for(m->sock, POLLIN, CONNECT_MS);
        ok = ok && recv(m->sock, ack, 4, 0) == 4 && ack[0] == 0x20 && ack[3] == 0;
    }
    m->heard_ms = now_ms();
    if (!ok) mqtt_close(m);
    return ok;
}

/* -- in ----------------------------------------------------------------------------------------------- */

/* Handles one packet: its head, and as much of its body as there is room for. */
static bool handle(struct mqtt *m, uint8_t head, uint8_t *body, size_t size, bool cut) {
    m->heard_ms = now_ms();
    switch (head & 0xF0) {
    case 0x30: { /* PUBLISH */
        size_t topic_size = size < 2 ? size : (size_t)(body[0] << 8 | body[1]), at = topic_size + 2;
        bool qos1 = head & 0x06;
        if (at + (qos1 ? 2 : 0) > size) return false;
        char topic[MQTT_ROOM];
        memcpy(topic, body + 2, topic_size);
        topic[topic_size] = 0;
        uint8_t packet[5 + 2];
        if (qos1) memcpy(packet + 5, body + at, 2), at += 2;
        m->on_message(topic, (char *)body + at, size - at, head & 1, cut);
        return !qos1 || m->sock < 0 || send_packet(m, 0x40, packet + 5, 2); /* PUBACK */
    }
    case 0x90: /* SUBACK: one return code for each topic, 0x80 = refused */
        for (size_t i = 2; i < size; i++)
            if (body[i] == 0x80) return false;
        m->subscribed = true;
        return true;
    case 0xD0: /* PINGRESP */
        m->ping_ms = 0;
        return true;
    default: /* PUBACK of ours: telemetry is said again soon, and everything else after a reconnect */
        return true;
    }
}

/* Takes whole packets out of what has been read; false: this is not MQTT. */
static bool take_packets(struct mqtt *m) {
    for (;;) {
        uint64_t size = 0;
        size_t n = 1;
        for (;; n++) {
            if (m->have <= n) return true;
            size |= (uint64_t)(m->in[n] & 127) << (7 * (n - 1));
            if (m->in[n] < 128) break;
            if (n == 4) return false;
        }
        n++;
        bool cut = n + size > MQTT_ROOM;
        size_t wanted = cut ? MQTT_ROOM : n + (size_t)size;
        if (m->have < wanted) return true;
        m->skip = cut ? n + size - MQTT_ROOM : 0;
        if (!handle(m, m->in[0], m->in + n, wanted - n, cut)) return false;
        memmove(m->in, m->in + wanted, m->have - wanted);
        m->have -= wanted;
        if (m->skip) return true; /* the rest of it is thrown away as it comes */
    }
}

bool mqtt_loop(struct mqtt *m, int wait_ms, uint16_t keepalive_s) {
    uint8_t waste[1024];
    if (wait_for(m->sock, POLLIN | POLLHUP, wait_ms)) {
        uint8_t *at = m->skip ? waste : m->in + m->have;
        size_t room = m->skip ? (m->skip < sizeof waste ? (size_t)m->skip : sizeof waste) : MQTT_ROOM - m->have;
        ssize_t n = recv(m->sock, at, room, 0);
        if (n == 0 || (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK)) return false;
        if (n > 0 && m->skip) m->skip -= (uint64_t)n;
        else if (n > 0) m->have += (size_t)n;
        if (!m->skip && !take_packets(m)) return false;
    }
    int64_t now = now_ms();
    if (m->ping_ms && now - m->ping_ms > keepalive_s * 1000) return false;
    if (!m->ping_ms && now - m->said_ms > keepalive_s * 500) {
        uint8_t packet[5];
        m->ping_ms = now;
        return send_packet(m, 0xC0, packet + 5, 0);
    }
    return true;
}
