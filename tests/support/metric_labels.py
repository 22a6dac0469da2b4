"""The metrics of the page, for what asks for them."""

from __future__ import annotations

from heron_mqtt.dashboard.metrics import BrokerMetrics


def labels_by_metric() -> dict[str, set[str]]:
    """Return the labels of every metric, by the name of its samples."""
    device = {"health": "online", "fallbacks": 1, "lease": {"state": "held"}, "authority": {"level": "full"}}
    microgrid = {
        "load_mw": -1.0,
        "vm_min_pu": 1.0,
        "vm_max_pu": 1.0,
        "loading_max_percent": 1.0,
        "p_mw": {"a": 1},
    }
    outbox = {
        "age_s": None,
        "max_bytes": 1,
        "disk_errors": 0,
        "kinds": {"estop": {"messages": 0, "size_bytes": 0, "dropped": 0}},
    }
    environment = {
        "env_id": "lab",
        "run": {"step": 1},
        "stop": None,
        "problems": [],
        "step_age_s": 0.1,
        "price": 1.0,
        "channels": {
            "run/state": {"messages": 1, "lost": 0, "repeated": 0, "held": 0, "held_age_s": 0.0},
        },
        "microgrids": {"MG1": microgrid},
        "devices": {"MG1/ess": device},
        "outboxes": {"gateway-1": outbox},
    }
    metrics = BrokerMetrics(lambda: {"connected": True, "environments": [environment]})
    return {sample.name: set(sample.labels) for family in metrics.collect() for sample in family.samples}
