"""The hardware side: gateway, field devices, vendors' devices by configuration, SunSpec over Modbus."""
