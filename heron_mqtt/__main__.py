"""``python -m heron_mqtt``: the same as the command ``heron-mqtt``."""

from heron_mqtt.cli.main import main

if __name__ == "__main__":
    main()
