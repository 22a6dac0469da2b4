"""The grid over time: built from a scenario, fed by its profiles, solved step by step."""
