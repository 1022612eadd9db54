"""The `warmroute` command: `main` dispatches, one file per command, `options` holds the flags they share."""
