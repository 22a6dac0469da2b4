"""A device by a table of its Modbus registers on the wire.

    python devices/modbus_bridge.py --agent MG1 --name ess --broker URL --mapping FILE --modbus HOST:PORT

docs/device-mappings.md describes the table; the device is ``heron_mqtt.field.vendor.modbus_bridge``.
"""

import sys

from powergrid.emulators.modbus_bridge import run

if __name__ == "__main__":
    sys.exit(run())
