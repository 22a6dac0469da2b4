"""What the broker counts, and the topics on which it publishes this."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(slots=True)
class BrokerStats:
    """Counts since the start, and the levels of this moment.

    Attributes:
        connects: Clients that were let in.
        disconnects: Of those, how many have left, for whatever reason.
        refusals: Connections refused, and publishes and subscriptions denied.
        failed_logins: Refusals because of a wrong or missing user name, password or certificate.
        malformed: Connections ended because of a packet that breaks the standard or a limit.
        keepalive_timeouts: Connections ended by silence.
        takeovers: Connections ended because their client identifier connected again.
        slow_readers: Connections ended because their client did not read.
        received: PUBLISH packets taken from clients.
        delivered: PUBLISH packets sent to clients, redeliveries included.
        redelivered: Of those, repeated after a reconnect.
        dropped: Messages a subscriber should have had and a bound did not let through.
        denied: Messages not taken because the sender had no right to the topic, or it began with ``$``.
        unretained: Retained messages not kept, or given up, because a bound was reached (they were
            delivered).
        wills: Wills published.
        evicted: Sessions without a connection that gave way to newer ones.
        pauses: Times that a user was read from no more for a while, because it published too much.
        bytes_received: Bytes from clients.
        bytes_sent: Bytes to clients.
        clients: Clients connected now.
        max_clients: The most there were.
        sessions: Sessions known now, connected or not.
        subscriptions: Subscriptions now.
        retained: Retained messages now.
        retained_bytes: Their memory.
        queued: Messages that wait for a client now.
        queued_bytes: Memory of what waits or is in flight now.
        longest_queue: The longest queue of one client now.
        uptime_s: Since the start.
    """

    connects: int = 0
    disconnects: int = 0
    refusals: int = 0
    failed_logins: int = 0
    malformed: int = 0
    keepalive_timeouts: int = 0
    takeovers: int = 0
    slow_readers: int = 0
    received: int = 0
    delivered: int = 0
    redelivered: int = 0
    dropped: int = 0
    denied: int = 0
    unretained: int = 0
    wills: int = 0
    evicted: int = 0
    pauses: int = 0
    bytes_received: int = 0
    bytes_sent: int = 0
    clients: int = 0
    max_clients: int = 0
    sessions: int = 0
    subscriptions: int = 0
    retained: int = 0
    retained_bytes: int = 0
    queued: int = 0
    queued_bytes: int = 0
    longest_queue: int = 0
    uptime_s: float = 0.0

    def as_dict(self) -> dict[str, float]:
        """Return name to value."""
        return {item.name: getattr(self, item.name) for item in fields(self)}


# Where mosquitto has a topic for the same thing, its name is used, so that existing dashboards work.
SYS_TOPICS = {
    "connects": "clients/connects",
    "disconnects": "clients/disconnects",
    "refusals": "clients/refusals",
    "failed_logins": "clients/failed_logins",
    "malformed": "clients/malformed",
    "keepalive_timeouts": "clients/keepalive_timeouts",
    "takeovers": "clients/takeovers",
    "slow_readers": "clients/slow_readers",
    "received": "publish/messages/received",
    "delivered": "publish/messages/sent",
    "redelivered": "publish/messages/redelivered",
    "dropped": "publish/messages/dropped",
    "denied": "publish/messages/denied",
    "unretained": "publish/messages/unretained",
    "wills": "publish/messages/wills",
    "evicted": "clients/evicted",
    "pauses": "publish/pauses",
    "bytes_received": "bytes/received",
    "bytes_sent": "bytes/sent",
    "clients": "clients/connected",
    "max_clients": "clients/maximum",
    "sessions": "clients/total",
    "subscriptions": "subscriptions/count",
    "retained": "retained messages/count",
    "retained_bytes": "retained messages/bytes",
    "queued": "store/messages/count",
    "queued_bytes": "store/messages/bytes",
    "longest_queue": "store/messages/longest_queue",
    "uptime_s": "uptime",
}
