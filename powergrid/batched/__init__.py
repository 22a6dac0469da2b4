"""Devices, agents and their protocols over many copies of a scenario at once, for ``BatchedMicrogrids``.

The scalar namesakes (``powergrid.devices``, ``powergrid.agents``, ``heron_mqtt.protocols``) are the
reference; tests hold these to them.
"""
