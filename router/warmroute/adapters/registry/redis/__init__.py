"""These modules keep the registry that routers share in Redis; `registry` puts the parts together."""
