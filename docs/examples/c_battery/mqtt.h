/* MQTT 3.1.1 over one socket, as much of it as a device needs: QoS 1 in both directions, clean session. */
#ifndef MQTT_H
#define MQTT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#define CONNECT_MS 1000 /* longest wait for the connection, and again for the CONNACK */
#define MQTT_ROOM 4096 /* a packet beyond this is read off the socket and handed on without its payload */

struct mqtt {
    int sock;             /* -1: no connection */
    uint16_t next_id;     /* packet identifier of the next message at QoS 1 */
    uint8_t in[MQTT_ROOM];
    size_t have;          /* bytes of the present packet in `in` */
    uint64_t skip;        /* bytes still to be thrown away, of a packet that was too large */
    int64_t heard_ms, said_ms, ping_ms; /* last packet in, last packet out, unanswered ping or 0 */
    bool subscribed;      /* the SUBACK has come */
    struct sockaddr_storage address; /* looked up once: later a slow name server would block the device */
    socklen_t address_size;
    void (*on_message)(const char *topic, const char *payload, size_t size, bool retained, bool too_large);
};

struct mqtt_login {
    const char *host, *port, *client_id, *will_topic, *will;
    uint16_t keepalive_s;
};

int64_t now_ms(void); /* monotonic, since the start of the machine */
bool mqtt_connect(struct mqtt *m, const struct mqtt_login *login);
bool mqtt_subscribe(struct mqtt *m, const char *const *topics, size_t count);
bool mqtt_publish(struct mqtt *m, const char *topic, const char *payload, bool retain);
/* Waits up to wait_ms for something to read and handles it; false: the connection is lost. */
bool mqtt_loop(struct mqtt *m, int wait_ms, uint16_t keepalive_s);
void mqtt_close(struct mqtt *m);

#endif
