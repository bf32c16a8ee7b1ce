"""TLS to the database, the broker and its management API, and of the server itself, by a test's own authority."""

import asyncio
import contextlib
import gc
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives import serialization

from control_plane.api.server import HttpService, bound
from control_plane.errors import BrokerApiError, ConfigurationError, StorageUnavailableError
from control_plane.messaging.broker_accounts import ManagedAccounts
from control_plane.settings import Settings, load
from control_plane.storage import migrate
from control_plane.storage.engine import Database, account_of, open_database
from control_plane_wire.errors import TransportUnavailableError
from control_plane_wire.lifecycle import run_until_stopped
from control_plane_wire.topology import CONTROL_PLANE_TOPOLOGY
from control_plane_wire.transport.rabbitmq import RabbitTransport
from tests.support.api import an_api
from tests.support.certificates import Certificate, a_certificate
from tests.support.servers import DatabaseServer, PrivateBroker, PrivateDatabase, stop


@pytest.fixture(scope="module")
def right(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return a_certificate(tmp_path_factory.mktemp("tls"), "localhost")


@pytest.fixture(scope="module")
def wrong(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """By another authority."""
    return a_certificate(tmp_path_factory.mktemp("other"), "localhost")


# --- the database -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def database(right: Certificate) -> Iterator[DatabaseServer]:
    try:
        private = PrivateDatabase(right)
    except FileNotFoundError:
        pytest.skip("no MariaDB or MySQL server is installed")
    yield private.server
    private.close()


@pytest.mark.mysql
async def test_the_database_is_verified_and_the_connection_is_encrypted(
    database: DatabaseServer, right: Certificate
) -> None:
    with database.database() as url:
        secure = f"{url}?ssl_ca={right.authority}"
        async with open_database(secure) as opened:
            await migrate.upgrade(opened)
            for connect in (opened.read, opened.write, opened.snapshot):
                async with connect() as connection:
                    found = await connection.exec_driver_sql("SHOW STATUS LIKE 'Ssl_version'")
                    assert str(found.one()[1]).startswith("TLSv1.")
        assert await account_of(secure) is not None


@pytest.mark.mysql
@pytest.mark.parametrize("query", ["ssl_ca={other}", "ssl_mode=verify_identity"])
async def test_a_database_that_the_authority_does_not_vouch_for_is_not_used(
    database: DatabaseServer, wrong: Certificate, query: str
) -> None:
    with database.database() as url, pytest.raises(StorageUnavailableError, match="certificate verify failed"):
        async with open_database(f"{url}?{query.format(other=wrong.authority)}"):
            pass


@pytest.mark.mysql
async def test_a_database_without_tls_is_not_used_where_tls_is_asked_for(mysql_url: str, right: Certificate) -> None:
    with pytest.raises((ConfigurationError, StorageUnavailableError)) as refused:
        async with open_database(f"{mysql_url}?ssl_ca={right.authority}"):
            pass
    assert "TLS" in str(refused.value)


@pytest.mark.mysql
async def test_a_server_that_offers_tls_no_more_is_away_and_no_reason_to_end(right: Certificate) -> None:
    """A node that takes over, or a restart without the certificate: services go on trying, the API answers 503."""
    try:
        private = PrivateDatabase(right)
    except FileNotFoundError:
        pytest.skip("no MariaDB or MySQL server is installed")
    try:
        if private.is_mysql:
            pytest.skip("MySQL makes a certificate by itself")
        with private.server.database() as url:
            secure = f"{url}?ssl_ca={right.authority}"
            async with open_database(secure) as opened:
                stop(private.process)
                private._tls = None
                private.start()
                with pytest.raises(StorageUnavailableError, match="offers no TLS"):
                    async with asyncio.timeout(20):
                        await until_in_clear(opened)
            with pytest.raises(ConfigurationError, match="offers no TLS"):
                async with open_database(secure):
                    pass
            with pytest.raises(ConfigurationError, match="offers no TLS"):
                await account_of(secure)
    finally:
        private.close()


async def until_in_clear(opened: Database) -> None:
    """The first connections are those that the pool has lost."""
    while True:
        try:
            async with opened.write() as connection:
                await connection.exec_driver_sql("SELECT 1")
        except StorageUnavailableError as error:
            if "TLS" in str(error):
                raise


@pytest.mark.parametrize(
    ("query", "said"), [("ssl_mode=preferred", "one of disabled, verify_identity"), ("ssl_ca=/none", "No such file")]
)
async def test_what_the_url_says_of_tls_is_checked(query: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        async with open_database(f"mysql+aiomysql://a:b@127.0.0.1:1/x?{query}"):
            pass


# --- the broker -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def broker(right: Certificate) -> Iterator[PrivateBroker]:
    try:
        private = PrivateBroker(right)
    except FileNotFoundError:
        pytest.skip("no RabbitMQ is installed")
    yield private
    private.close()


@pytest.mark.rabbitmq
async def test_the_broker_and_its_management_api_are_verified_by_the_machines_trust(
    broker: PrivateBroker, right: Certificate, wrong: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    amqps = f"amqps://guest:guest@127.0.0.1:{broker.tls_port}/"
    api = f"https://guest:guest@127.0.0.1:{broker.tls_api_port}"

    async def nobody() -> list[object]:
        return []

    monkeypatch.setenv("SSL_CERT_FILE", str(right.authority))
    async with RabbitTransport(amqps).connect("a test") as session:
        await session.declare(CONTROL_PLANE_TOPOLOGY)
    assert await ManagedAccounts(api, amqps).keep(nobody) == 0  # type: ignore[arg-type]

    monkeypatch.setenv("SSL_CERT_FILE", str(wrong.authority))
    with pytest.raises(TransportUnavailableError, match=r"(?i)certificate.verify.failed"):
        async with RabbitTransport(amqps).connect("a test"):
            pass
    with pytest.raises(BrokerApiError, match=r"(?i)certificate.verify.failed"):
        await ManagedAccounts(api, amqps).keep(nobody)  # type: ignore[arg-type]


# --- the server itself ------------------------------------------------------------------------------------------------


@asynccontextmanager
async def serving(tmp_path: Path, tls: Certificate) -> AsyncIterator[str]:
    """The address of a server with that certificate."""
    settings = Settings(listen="127.0.0.1:0", tls_certificate=tls.certificate, tls_key=tls.key)
    with bound(settings) as (settings, listener):
        files = {"tls_certificate": tls.certificate, "tls_key": tls.key}
        async with an_api(tmp_path, listen=settings.listen, **files) as api:
            stop = asyncio.Event()
            running = asyncio.create_task(
                run_until_stopped([HttpService(api.services, listener)], stop=stop, drain_s=10)
            )
            try:
                yield api.services.settings.url
            finally:
                stop.set()
                await running


async def test_the_server_answers_https_by_itself(tmp_path: Path, right: Certificate, wrong: Certificate) -> None:
    async with serving(tmp_path, right) as url:
        assert url.startswith("https://")
        trusts = ssl.create_default_context(cafile=str(right.authority))
        async with httpx.AsyncClient(base_url=url, verify=trusts) as client:
            login = {"username": "eve", "password": "correct horse battery"}
            answer = await client.post("/api/v1/auth/login", json=login)
            assert answer.status_code == 200
            assert answer.headers["set-cookie"].startswith("__Host-control_plane_session=")
        doubts = ssl.create_default_context(cafile=str(wrong.authority))
        async with httpx.AsyncClient(base_url=url, verify=doubts) as client:
            with pytest.raises(httpx.ConnectError):
                await client.get("/healthz")


async def ended(reader: asyncio.StreamReader) -> None:
    with contextlib.suppress(ConnectionError):
        assert await reader.read() == b""


async def test_a_handshake_that_does_not_come_is_not_waited_for(
    tmp_path: Path, right: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("control_plane.api.server.HEAD_S", 0.5)
    trusts = ssl.create_default_context(cafile=str(right.authority))
    async with serving(tmp_path, right) as url, httpx.AsyncClient(base_url=url, verify=trusts) as client:
        port = int(url.rpartition(":")[2])
        async with asyncio.timeout(30):
            while not await answers(client):
                await asyncio.sleep(0)
            silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(5)]
            for reader, writer in silent:
                await ended(reader)
                writer.close()


# A connection that is turned away is closed by being forgotten.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
async def test_of_handshakes_under_way_there_are_no_more_than_a_limit(
    tmp_path: Path, right: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("control_plane.api.server.HEAD_S", 3600.0)
    monkeypatch.setattr("control_plane.api.server.MAX_HANDSHAKES", 5)
    trusts = ssl.create_default_context(cafile=str(right.authority))
    async with serving(tmp_path, right) as url, httpx.AsyncClient(base_url=url, verify=trusts) as client, uncollected():
        port = int(url.rpartition(":")[2])
        async with asyncio.timeout(30):
            while not await answers(client):
                await asyncio.sleep(0)
            silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(5)]
            late, writer = await asyncio.open_connection("127.0.0.1", port)
            await ended(late)
            writer.close()
            for _, writer in silent:
                writer.close()
            async with httpx.AsyncClient(base_url=url, verify=trusts) as anew:
                while not await answers(anew):
                    await asyncio.sleep(0)


@asynccontextmanager
async def uncollected() -> AsyncIterator[None]:
    """What is over is not over only when Python's collector of garbage comes by, which a large program sees seldom."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


async def answers(client: httpx.AsyncClient) -> bool:
    try:
        return (await client.get("/healthz")).status_code == 200
    except httpx.TransportError:
        return False


async def test_a_certificate_of_no_use_is_one_clear_line(tmp_path: Path, right: Certificate) -> None:
    broken = Certificate(right.authority, right.certificate, tmp_path / "none.pem")
    with pytest.raises(ConfigurationError, match="CONTROL_PLANE_TLS_CERTIFICATE, CONTROL_PLANE_TLS_KEY: No such file"):
        async with serving(tmp_path, broken):
            pass
    key = serialization.load_pem_private_key(right.key.read_bytes(), None)
    encrypted = Certificate(right.authority, right.certificate, tmp_path / "encrypted.pem")
    encrypted.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"a pass phrase"),
        )
    )
    with pytest.raises(ConfigurationError, match="CONTROL_PLANE_TLS_KEY: the key is encrypted"):
        async with serving(tmp_path, encrypted):
            pass
    with pytest.raises(ConfigurationError, match="CONTROL_PLANE_TLS_CERTIFICATE and CONTROL_PLANE_TLS_KEY go together"):
        load(tls_certificate=right.certificate)
