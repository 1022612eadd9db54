"""The load test asks for the model that was named, if the router lists it; where none was named, for the first one
listed."""

from __future__ import annotations

import json
from collections.abc import Mapping

from warmroute_loadtest.locust.answers import refusal
from warmroute_loadtest.locust.thresholds import SettingError
from warmroute_loadtest.locust.wire import Wire, WireError

PATH = "/v1/models"


def choose(wire: Wire, headers: Mapping[str, str], wished: str) -> str:
    """Return the name of the model to ask for.

    Args:
        wire: The connection to the router.
        headers: Headers with the key, if the router wants one.
        wished: The model's name; empty for the first one listed.
    Raises:
        WireError: The router cannot be reached, or does not list models.
        SettingError: The router does not list this model.
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
