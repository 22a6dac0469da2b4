"""A project to start from: a scenario that is valid by construction, a device, an agent, a test."""
