"""Telemetry of devices: it is most of the traffic, so lookups are done once for each channel."""

from __future__ import annotations

from heron_mqtt.app.live_view.counts import ChannelTraffic
from heron_mqtt.app.live_view.microgrids import DeviceLive
from heron_mqtt.app.operator_client.environments import TELEMETRY, DeviceSeen, EnvironmentSeen
from heron_mqtt.app.operator_client.observer import Heard
from heron_mqtt.errors import MessageError


class LiveTelemetry:
    """Takes the telemetry of one device.

    Args:
        channel: Of it.
        label: AGENT/DEVICE.
        traffic: Counts it.
        environment: Remembers what cannot be read.
        seen: The device, as ``heron-mqtt status`` sees it.
        live: What a page shows beside that.
    """

    def __init__(
        self,
        channel: str,
        label: str,
        traffic: ChannelTraffic,
        environment: EnvironmentSeen,
        seen: DeviceSeen,
        live: DeviceLive,
    ) -> None:
        self.label, self.channel = label, channel
        self._traffic, self._channel = traffic, traffic.known(channel)
        self._environment, self._seen, self._live = environment, seen, live

    def take_plain(self, payload: bytes, at_s: float) -> bool:
        """Take what came live, and holds no surprise; False = nothing was taken: ``take`` looks closer."""
        told = TELEMETRY.of_payload(payload)
        if told is None or "held_s" in told or "rejected" in told or self._live.rejected is not None:
            return False
        self._traffic.note(self._channel, told, at_s)
        if self._seen.take_telemetry(told, at_s):
            self._live.note_telemetry(told, at_s)
        return True

    def take(self, heard: Heard) -> str | None:
        """Take a message; return why the device rejects what it was told, where that is new.

        What the broker or an outbox had kept says nothing of now, nor does what came before, or was replayed.
        """
        self._traffic.note_heard(self._channel, heard)
        fields = heard.fields
        if heard.retained or (fields is not None and fields.get("held_s") is not None):
            return None
        if fields is None:
            if heard.malformed is not None:
                self._environment.note_unreadable(heard.channel, heard.malformed)
            return None
        try:
            told = TELEMETRY.of_fields(fields)
        except MessageError as exc:
            self._environment.note_unreadable(heard.channel, str(exc))
            return None
        if not self._seen.take_telemetry(told, heard.at_s):
            return None
        return self._live.note_telemetry(told, heard.at_s)

    def heard(self, payload: bytes, at_s: float) -> Heard:
        """Return what ``take_plain`` has taken as a message."""
        return Heard(self._environment.env_id, self.channel, None, None, False, at_s, payload)
