"""Adapters make the ports real. They do not know each other; only `app` knows which one is plugged in."""
