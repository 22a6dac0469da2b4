"""The live page: what happens at a broker, in a browser. It reads and never publishes."""
