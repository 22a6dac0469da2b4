"""What the fixtures of the pytest plugin are made of; imported when a fixture is used."""
