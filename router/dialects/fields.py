"""Fields that request bodies of several APIs share, and what they default to."""

from __future__ import annotations

import msgspec

ABSENT = msgspec.Raw()
"""Default of fields kept as sent."""


class StreamOptions(msgspec.Struct, gc=False):
    """`stream_options` of chat and completions."""

    include_usage: bool | None = None


Options = StreamOptions | None | msgspec.UnsetType
ONE = (b"", b"1", b"null")
"""Values of `n`, as sent, that ask for one answer."""
