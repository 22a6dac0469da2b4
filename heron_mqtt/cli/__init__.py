"""The commands of ``heron-mqtt``, one file a group. Importing this package imports none of them."""
