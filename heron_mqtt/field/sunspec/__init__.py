"""SunSpec over Modbus TCP: the register maps, finding them, reading and controlling an inverter."""
