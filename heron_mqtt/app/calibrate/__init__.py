"""What a record says of devices and of the network: fitted, with what it cannot say."""
