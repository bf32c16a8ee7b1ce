"""Fixtures that every level of tests may use: a fresh database and a fresh virtual host of a real server."""

import os
import shutil
import tempfile
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.support.bans import no_hmac
from tests.support.servers import (
    Broker,
    DatabaseServer,
    PrivateBroker,
    PrivateDatabase,
    given_broker,
    given_database,
)

# An example that takes long on a busy machine is no failure.
settings.register_profile("ours", deadline=None)
settings.load_profile("ours")

MEMORY = "/dev/shm"
MEMORY_BYTES = 2 << 30
INSTALL = "is not installed: run scripts/test as root on Debian, or set {} (see the head of scripts/test)"


def pytest_configure() -> None:
    """Let databases, brokers and journals lie in memory, where there is room.

    On a disk, a new database costs up to a second of fsyncs. What a killed process leaves is the same in both; a test
    of what a disk does makes its own. TMPDIR names another place.
    """
    if "TMPDIR" in os.environ or not os.access(MEMORY, os.W_OK) or os.environ.get("CONTROL_PLANE_TEST_CHROOT"):
        return
    if os.statvfs(MEMORY).f_flag & os.ST_NOEXEC or shutil.disk_usage(MEMORY).free < MEMORY_BYTES:
        return
    tempfile.tempdir = os.environ["TMPDIR"] = MEMORY


@pytest.fixture(scope="session", autouse=True)
def hmac_is_banned() -> Iterator[None]:
    with no_hmac():
        yield


@pytest.fixture(scope="session")
def database_server() -> Iterator[DatabaseServer]:
    if given := given_database():
        yield given
        return
    try:
        private = PrivateDatabase()
    except FileNotFoundError:
        pytest.skip("MariaDB " + INSTALL.format("CONTROL_PLANE_TEST_DATABASE_URL"))
    yield private.server
    private.close()


@pytest.fixture
def mysql_url(database_server: DatabaseServer) -> Iterator[str]:
    """The URL of an empty database; its account may also create the read tables' schema beside it."""
    with database_server.database() as url:
        yield url


@pytest.fixture(scope="session")
def broker() -> Iterator[Broker]:
    if given := given_broker():
        yield given
        return
    try:
        private = PrivateBroker()
    except FileNotFoundError:
        pytest.skip("RabbitMQ " + INSTALL.format("CONTROL_PLANE_TEST_AMQP_URL"))
    yield private.broker
    private.close()


@pytest.fixture
def amqp_url(broker: Broker) -> Iterator[str]:
    """The AMQP URL of an empty virtual host."""
    with broker.virtual_host() as url:
        yield url
