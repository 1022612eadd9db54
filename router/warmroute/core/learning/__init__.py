"""Answers teach how fast each replica is, and how long the prompts and answers of each model are.

- `sample`: a timed sample of prefill work, from its known start to a first byte.
- `speed`: one replica's estimate, from its last samples.
- `answers`: one model's bytes per token and tokens per answer.
- `learner`: all of these, and what of them is believed.
- `feedback`: how much was found of what a replica was believed to hold.

This package decides nothing about routing: the fleet hands what is believed to its replicas, and costs are made of it.
"""
