"""Emulated field devices, one short script each, runnable alone."""
