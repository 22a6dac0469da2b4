"""A curtailable PV inverter, emulated: python devices/pv_inverter.py --agent MG1 --name NAME --broker mqtt://127.0.0.1:1883."""

import sys

from powergrid.emulators.pv_inverter import run

if __name__ == "__main__":
    sys.exit(run())
