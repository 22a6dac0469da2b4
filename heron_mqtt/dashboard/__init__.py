"""The live page: what goes on at a broker, in a browser. It reads and never publishes."""
