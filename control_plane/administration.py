"""What an administrator does on the server's own command line, where whoever can read the signing key may do it."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Final, Literal

from control_plane.bootstrap import accounts_of, pending_hosts_of
from control_plane.commands.access import CONSOLE, Token, User
from control_plane.commands.handlers.enrolment import EnrolmentHandler
from control_plane.commands.handlers.rules import RuleHandler
from control_plane.commands.handlers.stop import StopHandler
from control_plane.commands.handlers.templates import TemplateHandler
from control_plane.commands.hosts import Host
from control_plane.commands.pending_hosts import PendingHost
from control_plane.commands.rules import Rule
from control_plane.commands.signatures import Signatures
from control_plane.core import LOGS, Core, open_core
from control_plane.errors import ConfigurationError, NotFoundError, RefusedError
from control_plane.events.access import KeyAdded, LogLossAccepted
from control_plane.events.checkpoints import CheckpointFile, Signed, lost
from control_plane.events.envelope import EVENT, HEARTBEAT_EVENT, LogName, StoredEvent
from control_plane.events.log import EventLog
from control_plane.events.pages import Page, next_seq, read_gapless
from control_plane.events.segments import Progress
from control_plane.events.verification import Report, Verification
from control_plane.key_office import KeyOffice
from control_plane.messaging.broker_accounts import commands_for, virtual_host_of
from control_plane.projections.compare import TableComparison
from control_plane.projections.every import PROJECTIONS, projection_named
from control_plane.projections.queries.projections import ProjectionState
from control_plane.projections.rebuild import rebuild, retry_parked, roll_back
from control_plane.projections.upkeep import Done, maintain
from control_plane.settings import Settings
from control_plane.storage import migrate as migrations
from control_plane.storage import secrets_key, signing_key
from control_plane.storage.engine import Database, account_of, open_database
from control_plane_wire.clock import SystemClock
from control_plane_wire.errors import WireError
from control_plane_wire.signing import encode_base64

SIGNATURES: Final = 2000  # verified together


async def migrate(settings: Settings) -> list[str]:
    """Bring the log's schema up to date, by the administrator's account where one is set.

    That one then also gives the application's account its rights, where it may; what it may not is told, in lines.
    """
    async with _administered(settings) as database:
        await migrations.upgrade(database)
        return await _grant(settings, database)


async def _grant(settings: Settings, database: Database) -> list[str]:
    if settings.admin_database_url is None or settings.database_url is None:
        return []
    account = await account_of(settings.database_url.get_secret_value())
    administrator = await account_of(settings.admin_database_url.get_secret_value())
    if account is None or administrator is None or account.name == administrator.name:
        return []
    statements = database.dialect.grants(account)
    try:
        async with database.write() as connection:
            for statement in statements:
                await connection.exec_driver_sql(statement, execution_options={"no_parameters": True})
    except ConfigurationError:
        told = f"this administrator may not grant {account.name} what it needs; somebody who may should run:"
        return [told, *(f"{statement};" for statement in statements)]
    excess = [f"{statement};" for statement in database.dialect.excess(account)]
    return [f"{account.name} may do more than it needs, and so change the log; run:", *excess] if excess else []


async def maintain_logs(settings: Settings, progress: Progress) -> Done | None:
    """See `projections.upkeep`; by the administrator's account where one is set."""
    async with _administered(settings) as database:
        if not await migrations.is_current(database):
            raise ConfigurationError("the database's schema is not this program's; run `control-plane migrate`")
        days, directory = settings.heartbeat_days, settings.archives
        clock = SystemClock()
        return await maintain(database, heartbeat_days=days, archive_dir=directory, clock=clock, progress=progress)


@asynccontextmanager
async def _administered(settings: Settings) -> AsyncIterator[Database]:
    url = settings.admin_database_url or settings.database_url
    if url is None:
        raise ConfigurationError("CONTROL_PLANE_DATABASE_URL is not set")
    async with open_database(url.get_secret_value(), pool_size=2) as database:
        yield database


async def initialise(settings: Settings, username: str, password: str) -> str:
    """Schema, keys and the first administrator; what was done, in lines. May be repeated."""
    told = await migrate(settings)
    signing_key.store_of(settings).create()
    secrets_key.create(settings.state_dir)
    async with opened(settings) as office:
        first = office.core.keyring.chain[0]  # and no later one, whose place in the log this would take
        event = KeyAdded(key_id=first.key_id, public_key=encode_base64(first.public_key))
        await office.core.handling.record(event, actor=CONSOLE.username)
        if username in office.core.authority.access.users:
            return "\n".join([*told, f"ready; the user {username} was there already"])
        await office.create_user(username, "administrator", password)
    return "\n".join([*told, f"ready; {username} is an administrator"])


@asynccontextmanager
async def reading(settings: Settings) -> AsyncIterator[tuple[Database, EventLog]]:
    """The log for who only reads it, and needs no signing key.

    Raises:
        ConfigurationError, StorageUnavailableError: as `open_database`, or the schema is not up to date.
    """
    if settings.database_url is None:
        raise ConfigurationError("CONTROL_PLANE_DATABASE_URL is not set")
    async with open_database(settings.database_url.get_secret_value(), pool_size=2) as database:
        if not await migrations.is_current(database):
            raise ConfigurationError("the database's schema is not this program's; run `control-plane migrate`")
        async with EventLog.open(database) as log:
            yield database, log


@asynccontextmanager
async def opened(settings: Settings, *, opens_closed: bool = False) -> AsyncIterator["Office"]:
    async with open_core(settings, opens_closed=opens_closed) as core:
        yield Office(core)


class Office:
    """The commands of the command line; all of them raise RefusedError where a rule says no."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self.keys = KeyOffice(core)
        self._rules = RuleHandler(core.handling)
        self.stop = StopHandler(core.handling)
        self.templates = TemplateHandler(core.handling)
        self._pending = pending_hosts_of(core, EnrolmentHandler(core.handling, accounts_of(core.settings)))

    async def users(self) -> list[User]:
        return await self.core.access.users(CONSOLE)

    async def create_user(self, username: str, role: str, password: str) -> None:
        await self.core.access.create_user(CONSOLE, username, role=role, password=password)

    async def set_enabled(self, username: str, *, enabled: bool) -> None:
        await self.core.access.set_enabled(CONSOLE, username, enabled)

    async def set_password(self, username: str, password: str) -> None:
        await self.core.access.set_password(CONSOLE, username, password)

    async def set_role(self, username: str, role: str) -> None:
        await self.core.access.set_role(CONSOLE, username, role)

    async def remove_passkeys(self, username: str) -> None:
        await self.core.access.remove_passkeys(CONSOLE, username)

    async def tokens(self) -> list[Token]:
        """Those that count still."""
        now_s = self.core.clock.now_s()
        return [token for token in await self.core.tokens.tokens(CONSOLE) if token.expires_at > now_s]

    async def create_token(
        self,
        username: str,
        name: str,
        days: int,
        *,
        permissions: Sequence[str] | None = None,
        addresses: Sequence[str] | None = None,
    ) -> str:
        """The token's text, which is shown this once."""
        made = await self.core.tokens.create(
            CONSOLE, username=username, name=name, days=days, permissions=permissions, addresses=addresses
        )
        return made.text

    async def revoke_token(self, token_id: str) -> None:
        await self.core.tokens.revoke(CONSOLE, token_id)

    async def rules(self) -> list[Rule]:
        return await self._rules.rules(CONSOLE)

    async def create_rule(self, rule: Rule) -> tuple[str, list[str]]:
        """Its id, and what it names that is not there."""
        rule_id, _ = await self._rules.create(CONSOLE, rule)
        return rule_id, self._rules.warnings(CONSOLE, rule)

    async def delete_rule(self, rule_id: str) -> None:
        await self._rules.delete(CONSOLE, rule_id)

    async def pending_hosts(self) -> list[tuple[PendingHost, bool]]:
        """Each with whether its name is another machine's."""
        return [(row, self._pending.is_taken(row)) for row in await self._pending.waiting(CONSOLE)]

    async def accept_host(self, fingerprint: str, hostname: str, groups: Sequence[str]) -> None:
        await self._pending.accept(CONSOLE, fingerprint, hostname=hostname, groups=groups)

    async def refuse_host(self, fingerprint: str) -> None:
        await self._pending.refuse(CONSOLE, fingerprint)

    async def admit(self, hostname: str) -> str | None:
        """The broker's address with the host's own account, or with the one that all share; None without a broker.

        Raises:
            NotFoundError: no such host, or it is revoked or retired.
            BrokerApiError: the broker's management API refuses, or does not answer.
        """
        return await accounts_of(self.core.settings).admit(self._active(hostname))

    def broker_commands(self, hostnames: Sequence[str]) -> Iterator[str]:
        """What makes the accounts of these hosts, or of all, where it is typed at the broker. Raises NotFoundError."""
        settings = self.core.settings
        url = settings.agents_amqp_url or settings.amqp_url
        virtual_host = virtual_host_of(url.get_secret_value() if url else "")
        fleet = self.core.authority.fleet.hosts
        for hostname in hostnames or sorted(name for name, host in fleet.items() if host.is_active):
            yield f"# {hostname}"
            yield from commands_for(self._active(hostname), virtual_host)

    def _active(self, hostname: str) -> Host:
        host = self.core.authority.fleet.host(hostname)
        if not host.is_active:
            raise NotFoundError("host_revoked", f"{hostname} is {host.status}: nothing is for it at the broker")
        return host

    async def projections(self) -> Sequence[ProjectionState]:
        return await self.core.projection_queries.states()

    async def rebuild(
        self,
        name: str | None,
        *,
        then: Literal["drop", "switch", "keep"],
        resume: bool,
        progress: Callable[[str, int, int, float], None],
    ) -> AsyncIterator[tuple[str, list[TableComparison]]]:
        """Fold one projection or all of them from zero, and compare with the live tables; see `rebuild`."""
        for projection in PROJECTIONS if name is None else (projection_named(name),):
            started = time.monotonic()

            def told(done: int, total: int, name: str = projection.name, since: float = started) -> None:
                progress(name, done, total, time.monotonic() - since)

            yield (
                projection.name,
                await rebuild(projection, self.core.database, self.core.log, then=then, resume=resume, progress=told),
            )

    async def roll_back(self, name: str) -> None:
        await roll_back(projection_named(name), self.core.database, self.core.log)

    async def retry(self, name: str) -> tuple[int, int]:
        """Fold the events that a projection has set aside; how many could be, and how many still cannot."""
        return await retry_parked(projection_named(name), self.core.database, self.core.log)

    async def verify(
        self,
        log: LogName,
        *,
        first: int,
        last: int | None,
        signatures: bool,
        progress: Callable[[str, int, int, float], None],
    ) -> Report:
        """Hash a log's events anew and compare them with what was signed; then check whose signatures they carry."""
        started = time.monotonic()
        kept, detail = await self._kept(log)
        verification = Verification(self.core.database, self.core.log, self.core.checkpoints, log, kept)
        report = await verification.run(
            first=first,
            last=last,
            progress=lambda done, total: progress("hashes", done, total, time.monotonic() - started),
        )
        if detail is not None:
            report.add("signature", 0, 0, detail)
        if signatures:
            await self._verify_signatures(report, progress)
        return report

    async def accept_loss(self, reason: str) -> list[LogLossAccepted]:
        """Record that each log which has lost its end stands as it is, and open it again; what was recorded.

        May be repeated. What was signed beyond the end is set aside, so that the next checkpoint goes on from there.

        Raises:
            RefusedError: `nothing_lost`.
        """
        accepted = [event for name in LOGS if (event := await self._accept_loss(name, reason)) is not None]
        if not accepted:
            raise RefusedError("nothing_lost", "the logs are open: nothing of them is known to be lost")
        return accepted

    async def _accept_loss(self, name: LogName, reason: str) -> LogLossAccepted | None:
        log, file = self.core.log, CheckpointFile(self.core.settings.state_dir, name)
        kept = await lost(log, self.core.checkpoints, file, name)
        if await log.closed(name) is None:
            return None
        head = await log.head(name)
        event = LogLossAccepted(
            log=name,
            size=head.seq,
            root=head.tree.root().hex(),
            lost_size=None if kept is None else kept.size,
            lost_root=None if kept is None else kept.root.hex(),
            reason=reason,
        )
        await self.core.handling.record(event, actor=CONSOLE.username)
        if kept is not None:
            file.set_aside(kept.size)
        await log.reopen(name)
        return event

    async def newest_checkpoint(self, log: LogName) -> Signed | None:
        """The one outside the database, or a later one of another replica."""
        kept, _ = await self._kept(log)
        stored = await self.core.checkpoints.newest(log)
        return max((signed for signed in (kept, stored) if signed), key=lambda signed: signed.size, default=None)

    async def _kept(self, log: LogName) -> tuple[Signed | None, str | None]:
        """The checkpoint outside the database, or why it is of no use."""
        file = CheckpointFile(self.core.settings.state_dir, log)
        try:
            note = file.read()
            return (None if note is None else self.core.checkpoints.opened(log, note)), None
        except (OSError, WireError) as error:
            return None, f"{file.path} is of no use: {error}"

    async def _verify_signatures(self, report: Report, progress: Callable[[str, int, int, float], None]) -> None:
        """With a thread for each core, and the next events on their way meanwhile."""
        started, cores = time.monotonic(), os.cpu_count() or 1
        checked = Signatures(self.core.keyring)
        before = None if report.log == HEARTBEAT_EVENT else report.first - 1
        async for page in self._pages(EVENT, 0, before):
            await asyncio.to_thread(checked.learn, page)
        async for page in self._pages(report.log, report.first - 1, report.last):
            if report.log == EVENT:
                await asyncio.to_thread(checked.learn, page)
            parts = [page[at::cores] for at in range(cores)]
            for wrong in await asyncio.gather(*(asyncio.to_thread(checked.wrong, part) for part in parts)):
                for seq, reason in wrong:
                    report.add("signature", seq, seq, reason)
            done, total = page[-1].seq - report.first + 1, report.last - report.first + 1
            progress("signatures", done, total, time.monotonic() - started)
        report.findings.sort()

    async def _pages(self, log: LogName, after: int, end: int | None) -> AsyncIterator[Sequence[StoredEvent]]:
        """The events after one seq and up to another, or all that there are, past every gap; one page is read ahead."""
        upto = (await self.core.log.head(log)).seq if end is None else end

        async def read(after: int) -> Sequence[StoredEvent]:
            dialect = self.core.database.dialect
            async with self.core.database.read() as connection:
                while after < upto:
                    if page := await read_gapless(connection, dialect, log, Page(after, upto, SIGNATURES)):
                        return page
                    after = await next_seq(connection, log, after + 1) - 1
            return ()

        async with asyncio.TaskGroup() as tasks:
            coming = tasks.create_task(read(after))
            while page := await coming:
                coming = tasks.create_task(read(page[-1].seq))
                yield page
