"""What a record must show whatever happened: each invariant with its count and first counterexample.

What needs no power flow is here; ``heron_mqtt.app.verify`` adds the physics and runs all of it.
"""
