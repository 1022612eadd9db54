"""These modules decide how much of a prompt each replica is believed to hold, and how long records are kept."""
