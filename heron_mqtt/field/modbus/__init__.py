"""Devices behind Modbus: the connection, its units, and a vendor's device by a table of registers."""
