"""What is recorded of one version of a schema, besides its text; and the errors of those that are not there.

A version never changes. What changes is how often it was used, and when last. Decides the form of records; has no
clock.
"""

from __future__ import annotations

import msgspec

from warmroute.core.errors import ClientError, NotFoundError


class SchemaRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Stores keep it as JSON."""

    scope: str
    """Whose it is (`caching.content.scope_of`): nobody else can see or use it."""
    name: str
    version: int
    """From 1 on; each registration of the same name has the next one."""
    digest: str
    """Of its document: what is registered twice in a row is the same version."""
    created_s: float
    """Unix time."""
    model: str = ""
    """For which its beginnings are kept warm; empty: for none."""
    size_bytes: int = 0
    """Of its document."""
    prefix_tokens: tuple[int, ...] = ()
    """Length of each beginning that was computed when it was registered, in the order of `prefixes`."""
    sharing: str = ""
    """Who shares its cached blocks, where tenants are kept apart; empty: everybody."""

    @property
    def key(self) -> str:
        """Names this version, over all scopes."""
        return f"{self.scope}/{self.name}/{self.version}"


class TooManyError(ClientError):
    """It would be more than a tenant may keep."""

    status = 429
    code = "prompt_schemas_full"
    type = "insufficient_quota"


def not_found(name: str, version: int) -> NotFoundError:
    """There is no such schema, or it is not the asker's: which of the two is not told."""
    which = f"version {version} of the prompt schema" if version else "the prompt schema"
    return NotFoundError(
        f"{which} {name[:80]!r} is not here: it was never registered, was deleted, or is another tenant's",
        code="prompt_schema_not_found",
        param="prompt_schema",
    )
