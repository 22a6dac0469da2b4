"""The former name of ``heron_mqtt.app.gc_freeze.frozen_gc``, kept for those who import it."""

from heron_mqtt.app.gc_freeze import frozen_gc as settled_heap

__all__ = ["settled_heap"]
