"""The embedded broker itself: connections, sessions, routing, retained messages."""
