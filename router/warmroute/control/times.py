"""Times in queries of the admin port: Unix seconds, or how long ago."""

from __future__ import annotations

import re

from warmroute.core.errors import ClientError

DAY_S = 86_400


def moment(text: str | None, name: str, now_s: int, *, otherwise: int) -> int:
    """Unix seconds, or so long ago: `7d`, `12h`, `30m`; `otherwise` where nothing is said.

    Raises:
        ClientError: It is neither.
    """
    if text is None:
        return otherwise
    ago = re.fullmatch(r"(\d{1,6})([dhm])", text)
    if ago is not None:
        return now_s - int(ago[1]) * {"d": DAY_S, "h": 3600, "m": 60}[ago[2]]
    if not re.fullmatch(r"\d{1,12}", text):
        raise ClientError(f"{name} must be Unix seconds, or how long ago: 7d, 12h, 30m", param=name)
    return int(text)
