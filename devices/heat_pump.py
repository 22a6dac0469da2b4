"""A heat pump, emulated: python devices/heat_pump.py --agent MG1 --name NAME --broker mqtt://HOST:1883."""

import sys

from powergrid.emulators import run_script

if __name__ == "__main__":
    sys.exit(run_script("heat_pump", sys.argv[1:]))
