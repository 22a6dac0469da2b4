"""A metered load, emulated: python devices/load_meter.py --agent MG1 --name NAME --broker mqtt://127.0.0.1:1883."""

import sys

from powergrid.emulators import run_script

if __name__ == "__main__":
    sys.exit(run_script("load_meter", sys.argv[1:]))
