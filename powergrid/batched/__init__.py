"""Agents and their protocols over many copies of a scenario at once, for ``BatchedMicrogrids``.

The scalar namesakes (``powergrid.agents``, ``powergrid.agents.economic_dispatch``, ``heron_mqtt.protocols``) are the
reference; tests hold these to them.
"""
