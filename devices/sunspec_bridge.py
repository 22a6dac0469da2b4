"""A SunSpec inverter on the wire.

    python devices/sunspec_bridge.py --agent MG1 --name ess --broker URL --modbus HOST:PORT --unit 1

docs/sunspec.md describes models, safe states and limits; the device is ``heron_mqtt.field.sunspec.bridge``.
"""

import sys

from powergrid.emulators.sunspec_bridge import run

if __name__ == "__main__":
    sys.exit(run())
