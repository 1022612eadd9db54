"""These modules choose a replica: `policies` compare by `cost`, and break ties by the order of the `ring`."""
