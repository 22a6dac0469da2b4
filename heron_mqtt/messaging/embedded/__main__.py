"""Entry of the supervised child process; started by `heron_mqtt.messaging.embedded.process.supervisor`."""

import sys

from heron_mqtt.messaging.embedded.process.child import main

if __name__ == "__main__":
    sys.exit(main())
