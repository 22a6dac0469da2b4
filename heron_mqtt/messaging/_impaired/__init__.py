"""The parts of ImpairedBroker: what happens to a message, when it goes on, and what is remembered of it."""
