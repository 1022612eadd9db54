"""The agent stands beside an engine and tells the routers, through Redis, that it is there, how it is, when it leaves.

It speaks to three parties: the engine by HTTP (`engine`), the routers by Redis (`announcer`), the platform by its own
port (`server`). `agent` holds what is known and decides the state; `launcher` runs an engine as its child besides. It
shares no code with the router: what they must agree on is written down in docs/replica-agent.md, and tested against
each other.
"""
