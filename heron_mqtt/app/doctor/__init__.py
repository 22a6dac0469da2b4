"""Whether a run may rely on a broker: see ``examine``."""

from heron_mqtt.app.doctor.examine import doctor_env, examine
from heron_mqtt.app.doctor.findings import Examination, Finding
from heron_mqtt.app.doctor.logins import Login, read_logins

__all__ = ["Examination", "Finding", "Login", "doctor_env", "examine", "read_logins"]
