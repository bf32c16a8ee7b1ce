"""The server's settings: one frozen model, built once from the environment and an `.env` file, and handed down."""

from collections.abc import Iterator
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, SettingsConfigDict

from control_plane.errors import ConfigurationError
from control_plane.wording import in_words

PREFIX = "CONTROL_PLANE_"
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


class Settings(BaseSettings):
    """Every field is the environment variable CONTROL_PLANE_<NAME>; the descriptions are what `settings` prints."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_file=".env", extra="ignore", frozen=True, hide_input_in_errors=True
    )

    database_url: SecretStr | None = Field(
        None, description="mysql+aiomysql://user:password@host/database, or sqlite+aiosqlite:///path for one machine"
    )
    admin_database_url: SecretStr | None = Field(
        None,
        description="the same database by an account that may do all: for init, migrate and the log's upkeep",
    )
    database_pool_size: int = Field(
        8, ge=4, le=100, description="database connections of one process for what is short; loops keep their own"
    )
    amqp_url: SecretStr | None = Field(None, description="amqp://user:password@host:port/virtual-host of RabbitMQ")
    agents_amqp_url: SecretStr | None = Field(
        None, description="the broker's address and account that enrolment hands to agents (default: amqp_url)"
    )
    broker_api_url: SecretStr | None = Field(
        None,
        description="http://user:password@host:port of RabbitMQ's management API, by a user with the tag administrator:"
        " then each agent gets a broker account of its own (default: all agents use that of agents_amqp_url)",
    )
    listen: str = Field(
        "127.0.0.1:8000", description="address and port of the API and the dashboard; port 0: any free one"
    )
    public_url: str | None = Field(
        None, description="the address that people and agents use, https behind a proxy (default: <listen>)"
    )
    trusted_proxies: str = Field(
        "",
        description="addresses and networks of the proxies in front, separated by commas: what they say of who asks "
        "(X-Forwarded-For) counts for the record and the limits of logins (default: nobody's word counts)",
    )
    connections_of_address: int = Field(
        500,
        ge=0,
        description="connections that one address, or IPv6 /64, may have at once, but for those proxies; 0: any number",
    )
    tls_certificate: Path | None = Field(
        None, description="PEM file of the server's certificate and its chain: then it answers https by itself"
    )
    tls_key: Path | None = Field(None, description="PEM file of that certificate's private key, for this account alone")
    oidc_issuer: str | None = Field(
        None, description="https address of an identity provider (OpenID Connect), exactly as it calls itself"
    )
    oidc_client_id: str | None = Field(None, description="what that provider calls this control plane")
    oidc_client_secret: SecretStr | None = Field(
        None, description="the secret that it has given (default: none, a public client)"
    )
    oidc_name: str = Field("Single sign-on", max_length=64, description="what people call that provider")
    oidc_scopes: str = Field("openid", description="what it is asked for, separated by spaces")
    oidc_ca_file: Path | None = Field(
        None, description="PEM file of whom to trust as that provider (default: the machine's own store)"
    )
    state_dir: Path = Field(
        Path("/var/lib/control-plane"),
        description="directory of the keys and the newest checkpoints; back it up, and keep it private",
    )
    signing_key: SecretStr | None = Field(
        None,
        description="the signing key itself, base64 of 32 bytes, in place of <state_dir>/signing.key; while it is"
        " rotated both, separated by a comma",
    )
    key_passphrase: SecretStr | None = Field(None, description="what files of signing keys are encrypted with")
    key_passphrase_file: Path | None = Field(
        None, description="the same, in a file that this account alone may read; it wins"
    )
    checkpoint_syslog: str | None = Field(
        None, description="ADDRESS:PORT (UDP) or a socket's path: a syslog that is sent each signed checkpoint too"
    )
    heartbeat_days: float = Field(
        7.0, gt=0, le=3650, description="days that heartbeats stay in the log, and a whole segment's span more"
    )
    archive_dir: Path | None = Field(
        None, description="directory of the archives that dropped segments leave (default: <state_dir>/archive)"
    )
    require_preview: Literal["off", "guarded", "always"] = Field(
        "off",
        description="whether a task must carry the preview it was decided on: never, from guard level 2 on, always",
    )
    guard_many_hosts: int = Field(10, ge=1, description="a task for more hosts than that is guard level 2: confirmed")
    guard_fleet_fraction: float = Field(
        0.5, gt=0, le=1, description="and level 3, with number and reason, for more than that part of the fleet, or all"
    )
    max_waiting: int = Field(
        100_000, ge=1, description="executions that may wait for an answer of their hosts; beyond, no task is accepted"
    )
    session_rate: float = Field(
        20.0, ge=0, le=10_000, description="requests a second that one session may make, 0 for any number"
    )
    token_rate: float = Field(
        100.0, ge=0, le=10_000, description="and one API token; of either two seconds' worth may come at once"
    )
    pending_hosts: int = Field(
        0,
        ge=0,
        le=1000,
        description="hosts that may wait at once to be accepted by fingerprint; 0: a token is needed",
    )
    pending_hosts_of_address: int | None = Field(
        None,
        ge=1,
        le=1000,
        description="and of one address, as of many hosts behind one router; not set: a quarter of them, at least one",
    )
    metrics_public: bool = Field(False, description="whether /metrics answers without credentials")
    docs_public: bool = Field(False, description="whether /api/openapi.json and /api/docs answer without credentials")
    log_format: Literal["json", "text"] = Field("json", description="one JSON object a line, or plain text")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="the least severe line to log")
    drain_s: float = Field(10.0, gt=0, le=300, description="seconds that a stop may take to finish what is under way")
    failpoint: str | None = Field(
        None, description="for tests: NAME or NAME:N kills the process at the N-th hit of NAME"
    )
    failpoint_log: Path | None = Field(None, description="for tests: a file that gets the name of each failpoint hit")

    @field_validator("*", mode="before")
    @classmethod
    def _text(cls, value: object) -> object:
        try:
            str(value).encode()
        except UnicodeEncodeError as error:  # as the environment hands on bytes that are none
            raise ValueError("is not UTF-8") from error
        return value

    @field_validator("database_url", "admin_database_url")
    @classmethod
    def _known_database(cls, value: SecretStr | None) -> SecretStr | None:
        if value and urlsplit(value.get_secret_value()).scheme not in {"mysql+aiomysql", "sqlite+aiosqlite"}:
            raise ValueError("must begin with mysql+aiomysql:// or sqlite+aiosqlite:///")
        return value

    @field_validator("amqp_url", "agents_amqp_url")
    @classmethod
    def _known_broker(cls, value: SecretStr | None) -> SecretStr | None:
        if value and urlsplit(value.get_secret_value()).scheme not in {"amqp", "amqps"}:
            raise ValueError("must begin with amqp:// or amqps://")
        return value

    @field_validator("broker_api_url")
    @classmethod
    def _known_api(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None:
            return value
        try:
            parts = urlsplit(value.get_secret_value())
            is_whole = parts.scheme in {"http", "https"} and parts.hostname and parts.username and parts.port != 0
        except ValueError:
            is_whole = False
        if not is_whole:
            raise ValueError("must be http://user:password@host:port, or https")
        return value

    @field_validator("oidc_issuer")
    @classmethod
    def _known_issuer(cls, value: str | None) -> str | None:
        if not value:
            return None
        try:
            parts = urlsplit(value)
            is_safe = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOOPBACK)
            is_whole = parts.hostname and parts.port != 0 and not (parts.query or parts.fragment or parts.username)
        except ValueError:
            is_safe = is_whole = False
        if not (is_safe and is_whole):
            raise ValueError("must be https://host, perhaps with a port and a path")
        return value

    @field_validator("oidc_scopes")
    @classmethod
    def _has_openid(cls, value: str) -> str:
        if "openid" not in value.split():
            raise ValueError("must have openid among them")
        return value

    @field_validator("checkpoint_syslog")
    @classmethod
    def _syslog(cls, value: str | None) -> str | None:
        if value and not value.startswith("/"):
            cls._host_and_port(value)
        return value

    @field_validator("trusted_proxies")
    @classmethod
    def _known_proxies(cls, value: str) -> str:
        try:
            for each in filter(None, map(str.strip, value.split(","))):
                ip_network(each)
        except ValueError as error:
            raise ValueError("must be addresses and networks, such as 127.0.0.1,10.0.0.0/8") from error
        return value

    @property
    def proxies(self) -> list[IPv4Network | IPv6Network]:
        return [ip_network(each) for each in filter(None, map(str.strip, self.trusted_proxies.split(",")))]

    @field_validator("listen")
    @classmethod
    def _host_and_port(cls, value: str) -> str:
        host, _, port = value.rpartition(":")
        if not host or not port.isdigit() or int(port) > 65535:
            raise ValueError("must be ADDRESS:PORT, such as 127.0.0.1:8000")
        return value

    @model_validator(mode="after")
    def _has_both(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError(f"{PREFIX}TLS_CERTIFICATE and {PREFIX}TLS_KEY go together")
        if (self.oidc_issuer is None) != (self.oidc_client_id is None):
            raise ValueError(f"{PREFIX}OIDC_ISSUER and {PREFIX}OIDC_CLIENT_ID go together")
        return self

    @property
    def listen_host(self) -> str:
        return self.listen.rpartition(":")[0].strip("[]")

    @property
    def listen_port(self) -> int:
        return int(self.listen.rpartition(":")[2])

    @property
    def archives(self) -> Path:
        return self.archive_dir or self.state_dir / "archive"

    @property
    def url(self) -> str:
        """Where people and agents reach this server."""
        scheme = "http" if self.tls_certificate is None else "https"
        return (self.public_url or f"{scheme}://{self.listen}").rstrip("/")

    @property
    def is_exposed(self) -> bool:
        """Whether passwords and tokens come in clear over a network."""
        return self.listen_host not in LOOPBACK and not self.url.startswith("https://")


def load(**given: object) -> Settings:
    """Build the settings; what is given by name wins over the environment.

    Raises:
        ConfigurationError: every wrong setting at once, a line each.
    """
    try:
        return Settings(**given)  # type: ignore[arg-type]
    except ValidationError as error:
        raise ConfigurationError("\n".join(_line(each) for each in error.errors())) from error


def _line(error: ErrorDetails) -> str:
    """What is wrong with one setting, or with several together."""
    name = f"{PREFIX}{str(error['loc'][0]).upper()}: " if error["loc"] else ""
    return name + in_words(error["type"], error["msg"], error.get("ctx"))


def describe() -> Iterator[str]:
    """One line a setting, for `control-plane settings`: its variable, its default, its meaning."""
    for name, field in Settings.model_fields.items():
        default = "not set" if field.default is None else field.default
        yield f"  {PREFIX}{name.upper()}  ({default})\n      {field.description}"
