"""Whether a device keeps what ``docs/safety.md`` promises of it: by its lines, with results one can sign."""

from heron_mqtt.testing.conformance.bench import ConformanceBench
from heron_mqtt.testing.conformance.junit import conformance_junit
from heron_mqtt.testing.conformance.page import conformance_page, verdict_of
from heron_mqtt.testing.conformance.promises import PROMISES, RULES, DevicePromise
from heron_mqtt.testing.conformance.results import ConformanceResult, PromiseResult
from heron_mqtt.testing.conformance.run import examine_device
from heron_mqtt.testing.conformance.site import ConformanceOptions, bench_of

__all__ = [
    "PROMISES",
    "RULES",
    "ConformanceBench",
    "ConformanceOptions",
    "ConformanceResult",
    "DevicePromise",
    "PromiseResult",
    "bench_of",
    "conformance_junit",
    "conformance_page",
    "examine_device",
    "verdict_of",
]
