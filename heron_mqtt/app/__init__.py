"""Composition: what a run is made of, and what a record is checked with."""
