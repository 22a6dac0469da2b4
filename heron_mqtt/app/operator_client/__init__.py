"""What a person sees and does from outside a run: status, emergency stop, authority, manual control.

Everything goes over the broker; nothing of the run is imported. Which environment is meant is found out
from what the broker has kept, and asked for where more than one is alive.
"""

from heron_mqtt.app.operator_client.authority import ask_authority, why_not_handed_back
from heron_mqtt.app.operator_client.environments import find_environment
from heron_mqtt.app.operator_client.fault import inject_fault
from heron_mqtt.app.operator_client.requests import Person
from heron_mqtt.app.operator_client.status import look
from heron_mqtt.app.operator_client.stop import StopReport, set_stop
from heron_mqtt.app.operator_client.take import take_device

__all__ = [
    "Person",
    "StopReport",
    "ask_authority",
    "find_environment",
    "inject_fault",
    "look",
    "set_stop",
    "take_device",
    "why_not_handed_back",
]
