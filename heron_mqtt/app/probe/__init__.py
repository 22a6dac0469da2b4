"""From an unknown box to a mapping: what speaks, what it may mean, what a mapping makes of it."""
