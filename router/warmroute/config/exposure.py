"""What of a router is open to whoever reaches it, for its log to say so at the start. Decides nothing."""

from __future__ import annotations

from warmroute.config.schema import Config, split_address

_LOOPBACK = ("127.", "::1", "localhost")


def exposures(config: Config) -> list[str]:
    """A sentence for each port that others than this machine can reach and that asks for nothing."""
    found = []
    if config.keys.url is None and not config.oidc.issuer and not _loopback(config.listen):
        found.append(
            f"whoever reaches {config.listen} may use every model: no key is asked for"
            " (keys.url, oidc.issuer; docs/tenants.md)"
        )
    if not config.admin_auth.operator_tokens and not _loopback(config.admin):
        found.append(
            f"whoever reaches {config.admin} may change what engines serve: no token is asked for"
            " (admin_auth.operator_tokens; docs/tenants.md)"
        )
    return found


def _loopback(address: str) -> bool:
    return split_address(address)[0].startswith(_LOOPBACK)
