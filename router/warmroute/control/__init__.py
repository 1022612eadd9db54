"""The admin port: `app` answers, `readiness` says whether traffic should come, `server` listens."""
