"""The record: what happened in a run, in one SQLite file that others can check.

``recorder`` writes, ``reader`` reads, ``chain`` proves that nothing was changed later. docs/record.md
describes the file.
"""
