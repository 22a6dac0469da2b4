"""Whether a run may rely on a broker: see ``examine``."""

from heron_mqtt.app.doctor.examine import doctor_env, examine
from heron_mqtt.app.doctor.findings import BrokerFinding, Examination
from heron_mqtt.app.doctor.logins import Login, read_logins

__all__ = ["BrokerFinding", "Examination", "Login", "doctor_env", "examine", "read_logins"]
