"""This package simulates a vLLM replica.

`block_cache`, `step_time` and `engine` are the engine's model: pure, driven by whoever holds the clock (this
package's servers in real time, an offline fleet simulator in virtual time). The rest dresses it as vLLM's HTTP
server.

It reproduces what routing depends on: which prefix blocks survive, in which order they are evicted, prompts sharing a
step's token budget with decoding, queueing, preemption, usage figures, metrics, error shapes, ways to fail. It
reproduces no language model, no tokenizer (4 bytes are a token), no parallelism, no speculative decoding and no KV
transfer.
"""
