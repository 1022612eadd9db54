"""These modules decide which replicas may be sent requests, whose fault an error is, and what is tried again."""
