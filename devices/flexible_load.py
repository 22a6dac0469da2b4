"""A flexible load, emulated: python devices/flexible_load.py --agent MG1 --name NAME --broker mqtt://HOST."""

import sys

from powergrid.emulators import run_script

if __name__ == "__main__":
    sys.exit(run_script("flexible_load", sys.argv[1:]))
