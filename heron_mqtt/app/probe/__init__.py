"""From an unknown device to a mapping: what it sends, what this may mean, what a mapping makes of it."""
