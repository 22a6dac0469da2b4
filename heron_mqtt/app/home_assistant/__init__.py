"""Home Assistant: discovery messages for what a scenario has, announced and retracted."""

from heron_mqtt.app.home_assistant.announce import announce, retract
from heron_mqtt.app.home_assistant.discovery import discovery

__all__ = ["announce", "discovery", "retract"]
