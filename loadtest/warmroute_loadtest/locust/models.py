"""The model asked for is the one that was named, if the router lists it, or the first that it lists."""

from __future__ import annotations

import json
from collections.abc import Mapping

from warmroute_loadtest.locust.answers import refusal
from warmroute_loadtest.locust.thresholds import SettingError
from warmroute_loadtest.locust.wire import Wire, WireError

PATH = "/v1/models"


def choose(wire: Wire, headers: Mapping[str, str], wished: str) -> str:
    """The model's name.

    Args:
        wire: The router.
        headers: With the key, if it wants one.
        wished: A name; empty for the first listed.
    Raises:
        WireError: The router cannot be reached, or does not list models.
        SettingError: It does not list this one.
    """
    status, body = wire.get(PATH, headers)
    if status != 200:
        raise WireError(f"{PATH}: {refusal(status, body)}")
    try:
        names = [str(each["id"]) for each in json.loads(body)["data"]]
    except (KeyError, TypeError, ValueError) as error:
        raise WireError(f"{PATH} lists no models: {error!r}") from error
    if not wished:
        if not names:
            raise WireError(f"{PATH} lists no models: no replica is ready, or none is known")
        return names[0]
    if wished not in names:
        raise SettingError(
            f"MODEL={wished}: the router does not serve it; it serves {', '.join(names) or 'none'}"
        )
    return wished
