"""Microgrids on a pandapower network: device physics, power flow, agents and the environment."""
