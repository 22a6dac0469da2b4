"""What tests of devices are made of: a harness that watches one device, and the checks of the contract."""
