"""TLS contexts are made of the settings: what the router shows its clients, and whom it trusts among replicas."""

from __future__ import annotations

import ssl

from warmroute.config.errors import ConfigError
from warmroute.config.schema import Config


def listening_tls(config: Config) -> ssl.SSLContext | None:
    """For the data port; None for plain HTTP.

    Raises:
        ConfigError: The certificate and its key cannot be loaded.
    """
    if config.tls.cert_file is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        # Without a word for it OpenSSL asks the terminal for a passphrase, and holds up whoever reloads.
        context.load_cert_chain(config.tls.cert_file, config.tls.key_file, password="")
    except OSError as error:
        files = f"{config.tls.cert_file!r} and {config.tls.key_file!r} (tls.key_file)"
        what = f"cannot be loaded: {files} are no certificate chain and its unencrypted key, as PEM: {error}"
        raise ConfigError("", "tls.cert_file", what) from error
    context.set_alpn_protocols(["http/1.1"])
    return context


def upstream_tls(config: Config) -> ssl.SSLContext:
    """For `https://` replicas.

    Raises:
        ConfigError: The certificates to trust cannot be loaded.
    """
    try:
        context = ssl.create_default_context(cafile=config.tls.upstream_ca_file)
    except OSError as error:
        what = f"cannot be loaded: {config.tls.upstream_ca_file!r} holds no certificates, as PEM: {error}"
        raise ConfigError("", "tls.upstream_ca_file", what) from error
    if not config.tls.upstream_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def show_from_now_on(context: ssl.SSLContext, opened_with: ssl.SSLContext) -> None:
    """Give each new connection of a socket this context instead of the one that the socket was opened with."""

    def use(connection: ssl.SSLObject, _name: str | None, _opened_with: ssl.SSLContext) -> None:
        connection.context = context

    opened_with.sni_callback = use
