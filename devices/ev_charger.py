"""An EV charger, emulated: python devices/ev_charger.py --agent MG1 --name NAME --broker mqtt://HOST:1883."""

import sys

from powergrid.emulators import run_script

if __name__ == "__main__":
    sys.exit(run_script("ev_charger", sys.argv[1:]))
