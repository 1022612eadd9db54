"""Prompt caching as a promise: records and rules of contents that are kept on purpose. Pure: no I/O, no clock, no dice.

Decides what is recorded of a cached content, when a copy of it is in danger, and what keeping copies warm may cost. It
stores nothing (`ports.ContentStore`) and sends nothing (`service.keep_warm`). `schemas` are prompts made of modules.
"""
