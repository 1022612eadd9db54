"""Keys, limits and accounts of tenants, each in this process or a file, and in Redis."""
