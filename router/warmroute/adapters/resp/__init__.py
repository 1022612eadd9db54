"""These modules are a client of Redis: `url` names servers, `topology` finds them, and `pipe` speaks RESP to one."""
