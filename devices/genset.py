"""A dispatchable generator set, emulated: python devices/genset.py --agent MG1 --name NAME --broker mqtt://127.0.0.1:1883."""

import sys

from powergrid.emulators.genset import run

if __name__ == "__main__":
    sys.exit(run())
