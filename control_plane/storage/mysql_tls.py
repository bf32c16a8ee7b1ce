"""TLS to MySQL and MariaDB: asked for by the URL, verified, and never given up silently."""

import ssl
from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import URL, Engine
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.event import listen
from sqlalchemy.pool import ConnectionPoolEntry

from control_plane.errors import ConfigurationError, StorageUnavailableError

MODES: Final = ("disabled", "verify_identity")


class InClearError(StorageUnavailableError):
    """The server offers no TLS; of a cluster, another node may."""


def taken_out(url: URL) -> tuple[URL, ssl.SSLContext | None]:
    """The URL without what it says of TLS, and the context that this means; None: no TLS.

    `ssl_mode=verify_identity` trusts the machine's certificates (or those of SSL_CERT_FILE), `ssl_ca=PATH` those in a
    file; the server's name is verified either way. There is no mode between that and none: who could sit between us and
    the server could also show a certificate of its own.

    Raises:
        ConfigurationError: another mode, or a file that cannot be read.
    """
    asked = {name: str(value).lower() if name == "ssl_mode" else str(value) for name, value in url.query.items()}
    mode, ca_file = asked.pop("ssl_mode", None), asked.pop("ssl_ca", None)
    rest = url.set(query={name: value for name, value in url.query.items() if name not in {"ssl_mode", "ssl_ca"}})
    if mode not in {None, *MODES}:
        raise ConfigurationError(f"ssl_mode of the database URL is one of {', '.join(MODES)}")
    if mode == "disabled" or (mode is None and ca_file is None):
        return rest, None
    try:
        return rest, ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise ConfigurationError(f"ssl_ca of the database URL: {ca_file}: {error.strerror or error}") from error


def with_tls(options: Mapping[str, Any], context: ssl.SSLContext | None) -> dict[str, Any]:
    """Options of an engine, so that its connections are encrypted by that context."""
    if context is None:
        return dict(options)
    return {**options, "connect_args": {**options.get("connect_args", {}), "ssl": context}}


def insist(engine: Engine) -> None:
    """Use no connection of this engine that is not encrypted.

    The driver goes on in clear where the server says that it knows no TLS, and so could anybody in between. To connect
    then raises InClearError.
    """

    def connected(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
        writer = connection.driver_connection._writer  # noqa: SLF001 - the driver tells it nowhere else
        if writer.get_extra_info("ssl_object") is None:
            connection.close()
            raise InClearError("the database offers no TLS, which its URL asks for: it gets no statement of ours")

    listen(engine, "connect", connected, insert=True)


def cause_of(error: BaseException) -> str:
    """What TLS has to say of an error, in words to append; the driver only says that it cannot connect."""
    found: BaseException | None = error
    while found is not None and not isinstance(found, ssl.SSLError):
        found = found.__cause__ or found.__context__
    return f": {found}" if found is not None else ""
