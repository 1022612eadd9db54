"""This package decides which requests wait at the router for a replica to come free, and who goes first (`queue`)."""
