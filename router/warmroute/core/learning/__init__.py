"""What answers teach about replicas and models: how fast each replica is, how long prompts and answers of a model are.

- `stretch`: what is timed: from a known start of prefill work to a first byte.
- `speed`: one replica's estimate from its last stretches.
- `answers`: one model's bytes per token and tokens per answer.
- `learner`: all of them, and what of it is believed.
- `feedback`: how much of what a replica was believed to hold was found.

Decides nothing about routing: the fleet hands what is believed to its replicas, the cost is made of that.
"""
