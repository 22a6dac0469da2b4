"""Composition: plan a run, build what it stands on, run it, serve a remote agent, check a scenario.

The only package below the command line that knows both the gateway and the grid.
"""
