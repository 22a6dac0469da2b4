"""A battery inverter, emulated: python devices/battery.py --agent MG1 --name NAME --broker mqtt://127.0.0.1:1883."""

import sys

from powergrid.emulators.battery import run

if __name__ == "__main__":
    sys.exit(run())
