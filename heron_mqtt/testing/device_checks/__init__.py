"""What every device on the wire does, whatever it is written in: one function for each promise.

Each begins from a free device without a stop, on a device that is online. They are for a bench: the device
moves, within its nameplate. ``heron_mqtt.testing.conformance`` runs them by the lines of docs/safety.md; the
rules and their reasons stand in docs/wire-contract.md, "Devices".
"""
