"""A simulated vLLM replica.

`block_cache`, `step_time` and `engine` are the engine's model: pure, driven by whoever holds the clock (this package's
servers in real time, an offline fleet simulator in virtual time). The rest dresses it as vLLM's HTTP server.

Reproduced because routing depends on it: which prefix blocks survive, in which order they are evicted, prompts sharing
a step's token budget with decoding, queueing, preemption, usage figures, metrics, error shapes, ways to fail.
Not reproduced: a language model, a tokenizer (4 bytes are a token), parallelism, speculative decoding, KV transfer.
"""
