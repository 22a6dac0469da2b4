"""How a vendor's topics and payloads are described, checked and translated; see ``field.mapping``."""
