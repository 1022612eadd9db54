"""Prompt schemas: prompts that are put together from modules which many of them share. Pure: no I/O, no clock, no dice.

`model` says what a schema is made of, `check` what makes one a valid one, `selection` what a prompt takes of it,
`compiler` in which order that stands in the prompt, and `prefixes` what of it can be computed before anybody asks.
Which text a schema is written in is a format, and the dialects'.
"""
