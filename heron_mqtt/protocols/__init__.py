"""Who says what to whom, without any I/O: ``price``, ``setpoint``, ``p2p`` trading, ``consensus``."""
