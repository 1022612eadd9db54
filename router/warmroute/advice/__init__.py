"""Advice on prompts that miss: how two prompts are compared, why one departs from another, and what that costs.

Pure: no I/O, no clock, no dice of its own. `dataplane.advising` shows it requests and tells it how they ended.
"""
