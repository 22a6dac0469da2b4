"""The documented name of what ``heron_mqtt.app.gc_freeze`` holds."""

from heron_mqtt.app.gc_freeze import frozen_gc as settled_heap

__all__ = ["settled_heap"]
