"""A record as the live page shows a broker: the same snapshots, step by step."""

from heron_mqtt.app.record_view.view import RecordView

__all__ = ["RecordView"]
