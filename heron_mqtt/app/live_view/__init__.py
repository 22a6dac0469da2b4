"""What happens at a broker, kept up to date from its messages: for a page, a terminal, a metrics endpoint."""

from heron_mqtt.app.live_view.events import EVENTS
from heron_mqtt.app.live_view.microgrids import SILENT_S
from heron_mqtt.app.live_view.tail import MESSAGES
from heron_mqtt.app.live_view.view import LiveView

__all__ = ["EVENTS", "MESSAGES", "SILENT_S", "LiveView"]
