"""MicroPython's umqtt.simple, as far as docs/examples/esp32_battery uses it; runs under CPython too.

Written from its documentation, with its habits: ``connect``, ``subscribe`` and ``publish`` at QoS 1 wait for
the broker's answer and call back meanwhile; ``check_msg`` does not wait; topics and payloads are bytes.
"""

import select
import socket


class MQTTException(Exception):
    """The broker refused; its code."""


class MQTTClient:
    """One connection, MQTT 3.1.1."""

    def __init__(self, client_id, server, port=1883, user=None, password=None, keepalive=0):
        self.client_id, self.address, self.keepalive = client_id, (server, port), keepalive
        self.user, self.password = user, password
        self.callback = self.will = None
        self.pid = 0

    def set_callback(self, callback):
        self.callback = callback

    def set_last_will(self, topic, message, retain=False, qos=0):
        self.will = (topic, message, retain, qos)

    def connect(self, clean_session=True):
        self.sock = socket.socket()
        self.sock.connect(socket.getaddrinfo(self.address[0], self.address[1])[0][-1])
        self.poll = select.poll()
        self.poll.register(self.sock, select.POLLIN)
        flags, payload = 2 if clean_session else 0, _text(self.client_id)
        if self.will:
            topic, message, retain, qos = self.will
            flags |= 0x04 | qos << 3 | (0x20 if retain else 0)
            payload += _text(topic) + _text(message)
        if self.user is not None:
            flags |= 0xC0
            payload += _text(self.user) + _text(self.password)
        self._send(0x10, _text("MQTT") + bytes([4, flags]) + self.keepalive.to_bytes(2, "big") + payload)
        _, body = self._read()
        if body[1]:
            raise MQTTException(body[1])

    def publish(self, topic, message, retain=False, qos=0):
        head = _text(topic)
        if qos:
            self.pid += 1
            head += self.pid.to_bytes(2, "big")
        self._send(0x30 | qos << 1 | (1 if retain else 0), head + _bytes(message))
        if qos:
            self._wait_for(0x40, self.pid)

    def subscribe(self, topic, qos=0):
        self.pid += 1
        self._send(0x82, self.pid.to_bytes(2, "big") + _text(topic) + bytes([qos]))
        self._wait_for(0x90, self.pid)

    def check_msg(self):
        if self.poll.poll(0):
            self._handle(*self._read())

    def _wait_for(self, kind, pid):
        while True:
            got, body = self._read()
            if got == kind and body[:2] == pid.to_bytes(2, "big"):
                return
            self._handle(got, body)

    def _handle(self, kind, body):
        if kind & 0xF0 != 0x30:
            return
        end = 2 + int.from_bytes(body[:2], "big")
        topic, payload = body[2:end], body[end:]
        if kind & 6:
            pid, payload = payload[:2], payload[2:]
        self.callback(topic, payload)
        if kind & 6:
            self._send(0x40, pid)

    def _send(self, kind, body):
        head, left = bytes([kind]), len(body)
        while left > 127:
            head, left = head + bytes([left & 127 | 128]), left >> 7
        packet = head + bytes([left]) + body
        while packet:
            packet = packet[self.sock.send(packet) :]

    def _read(self):
        kind, length, shift = self._exactly(1)[0], 0, 0
        while True:
            digit = self._exactly(1)[0]
            length |= (digit & 127) << shift
            if digit < 128:
                return kind, self._exactly(length)
            shift += 7

    def _exactly(self, n):
        data = b""
        while len(data) < n:
            more = self.sock.recv(n - len(data))
            if not more:
                raise OSError(-1)
            data += more
        return data


def _bytes(text):
    return text if isinstance(text, bytes) else text.encode()


def _text(text):
    return len(_bytes(text)).to_bytes(2, "big") + _bytes(text)
