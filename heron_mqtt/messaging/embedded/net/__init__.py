"""Sockets of the embedded broker: listeners, TCP and WebSocket transports, TLS."""
