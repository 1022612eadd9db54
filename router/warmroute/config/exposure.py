"""What of a router is open to whoever reaches it, for its log to say so at the start. Decides nothing."""

from __future__ import annotations

from collections.abc import Sequence

from warmroute.config.schema import Config, split_address

_LOOPBACK = ("127.", "::1", "localhost")


def exposures(config: Config, data: Sequence[str] = ()) -> list[str]:
    """A sentence for each port that others than this machine can reach and that asks for nothing.

    `data`: where the data port listens, if somebody else has opened it, whatever the settings say.
    """
    asked = config.keys.url is not None or bool(config.oidc.issuer)
    found = [
        f"whoever reaches {address} may use every model: no key is asked for"
        " (keys.url, oidc.issuer; docs/tenants.md)"
        for address in dict.fromkeys(data or [config.listen])
        if not asked and not _loopback(address)
    ]
    if not config.admin_auth.operator_tokens and not _loopback(config.admin):
        found.append(
            f"whoever reaches {config.admin} may change what engines serve: no token is asked for"
            " (admin_auth.operator_tokens; docs/tenants.md)"
        )
    return found


def _loopback(address: str) -> bool:
    return split_address(address)[0].startswith(_LOOPBACK)
