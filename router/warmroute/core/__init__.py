"""Pure decisions: who is eligible, who is chosen, what it costs, what is remembered of a prompt.

Standard library and xxhash only; time and randomness are arguments. `types` is the vocabulary, `fleet` the one mutable
aggregate, `policies` rank. Nothing here does I/O, waits, or logs.
"""
