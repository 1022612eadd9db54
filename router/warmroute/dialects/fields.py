"""Fields that request bodies of several APIs share, and what they default to."""

from __future__ import annotations

import msgspec

ABSENT = msgspec.Raw()
"""Default of fields kept as sent."""


class StreamOptions(msgspec.Struct, gc=False):
    """`stream_options` of chat and completions."""

    include_usage: bool | None = None


class SessionFields(msgspec.Struct, gc=False):
    """Where a body may say which session it belongs to; `sessions` knows what they mean."""

    prompt_cache_key: str | int | None = None
    session_id: str | int | None = None
    metadata: msgspec.Raw = ABSENT
    client_metadata: msgspec.Raw = ABSENT
    vllm_xargs: msgspec.Raw = ABSENT


Options = StreamOptions | None | msgspec.UnsetType
NOT_GIVEN = (b"", b"null")
"""Values of an optional field, as sent, that are none."""
FALSE = (*NOT_GIVEN, b"false", b"0", b'"false"', b'"0"')
"""Values of a flag that is off unless given."""
ONE = (b"", b"1", b"null")
"""Values of `n`, as sent, that ask for one answer."""
