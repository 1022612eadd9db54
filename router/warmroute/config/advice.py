"""Settings of advice on prompts that miss, and of rewrites that mend some of it: sections of the schema. Data only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from warmroute.config.bounds import Bytes, Count, Range


@dataclass(frozen=True, slots=True, kw_only=True)
class AdviceConfig:
    """Why prompts miss the cache, found by comparing some of them with each other (docs/advice.md). A number stands for
    `{sample: …}`. Of prompts nothing is kept but hashes."""

    shorthand: ClassVar[str] = "sample"

    sample: Annotated[float, Range(0.0, 1.0)] = 0.0
    """Share of the prompts that are looked at. 0: none, and nothing is kept. 0.05 is enough where there is a request a
    second."""
    budget_ratio: Annotated[float, Range(0.0001, 1.0)] = 0.01
    """Share of the router's time that this may take: 0.01 is 10 ms a second. Prompts for which no time is left are
    passed over. One look takes some 0.1 ms for each KB, of the first 32 KB."""
    memory_bytes: Bytes = 32 << 20
    """Memory that recent prompts may take, as hashes: about three times the length of each."""
    minimum_tokens: Count = 256
    """A departure that costs fewer tokens is none."""
    show_shared_words: bool = False
    """Whether examples show the words beside the place that two prompts have in common. Words that differ are shown as
    kinds («date», «word») in any case. Whoever may read the admin port then sees a few words of prompts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RewriteConfig:
    """What the router changes in prompts of some tenants, so that equal prompts are equal bytes (docs/advice.md)."""

    tenants: tuple[str, ...]
    """Names of tenants, as keys have them; `*`: everybody, whether or not there are keys. Of several entries the first
    that names a tenant counts."""
    sort_tools: bool = False
    """Whether `tools` are sorted by name."""
    sort_keys: bool = False
    """Whether the keys of the objects in `tools` are sorted, and blanks between them left out. The JSON value stays the
    same; an engine that makes arguments in the order of a schema's `properties` makes them in this one."""
    passages_begin: str = ""
    """What stands before each retrieved passage, for example `<passage>`. Passages that stand together, with blanks
    between them at most, are sorted by their text. Empty: passages stay as they are."""
    passages_end: str = ""
    """What stands behind each, for example `</passage>`."""
