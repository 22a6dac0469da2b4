"""Who may connect, and what each client may publish and read."""
