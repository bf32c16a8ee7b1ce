import asyncio
from collections.abc import Collection

import pytest

from control_plane.commands.enrolment import NONCE_S
from control_plane.commands.handlers.enrolment import Enrolled, EnrolmentHandler
from control_plane.commands.hosts import Host
from control_plane.commands.passwords import digest
from control_plane.commands.throttle import ENROLMENTS_OF_ADDRESS
from control_plane.errors import NotAllowedError, NotSignedInError, RefusedError, TooManyError
from control_plane_wire import strict_json
from control_plane_wire.signing import CONTROL_PLANE, ENROL, SigningKey, encode_base64
from tests.support.fleet import ADMIN, OPERATOR, Desk, host_key
from tests.unit.commands.test_rules import a_rule


async def a_token(desk: Desk, hostname: str | None = None, groups: tuple[str, ...] = ("web",)) -> str:
    return (await desk.enrolment.create_token(ADMIN, hostname=hostname, groups=groups, expires_in=3600)).text


def a_proof(token: str, hostname: str, key: SigningKey, nonce: str) -> bytes:
    """What the agent signs."""
    body = strict_json.canonical(
        {
            "hostname": hostname,
            "nonce": nonce,
            "public_key": encode_base64(key.public_key),
            "token_sha256": digest(token),
        }
    )
    return key.sign(ENROL, sender=hostname, recipient=CONTROL_PLANE, body=body)


async def enrol(desk: Desk, token: str, hostname: str = "web1", key: SigningKey | None = None) -> Enrolled:
    key = key or host_key(hostname)
    nonce = await desk.enrolment.begin(token=token, hostname=hostname, public_key=key.public_key)
    proof = a_proof(token, hostname, key, nonce)
    return await desk.enrolment.finish(
        token=token, hostname=hostname, public_key=key.public_key, nonce=nonce, proof=proof
    )


async def test_a_host_with_a_token_and_proof_of_its_key_is_registered_with_the_tokens_groups() -> None:
    desk = Desk()

    enrolled = await enrol(desk, await a_token(desk))

    host = desk.authority.fleet.host("web1")
    assert (host.public_key, host.is_enrolled) == (host_key("web1").public_key, True)
    assert (enrolled.as_of, dict(enrolled.groups)) == (host.registered_seq, {"web": host.registered_seq})
    assert [key.state for key in enrolled.keys] == ["active"]
    assert desk.kinds() == ["enrolment_token.created", "enrolment_token.used", "host.registered"]


async def test_the_same_again_after_a_lost_answer_gets_the_same_answer_from_any_replica() -> None:
    desk = Desk()
    token = await a_token(desk)
    first = await enrol(desk, token)

    assert await enrol(desk.beside(), token) == first
    assert desk.kinds().count("host.registered") == 1


async def test_a_crash_between_the_token_and_the_registration_is_healed_by_the_repeat() -> None:
    desk = Desk()
    token = await a_token(desk)
    whole = await enrol(desk, token)
    registered = desk.log.rows.pop()
    desk.log.keys = {key: value for key, value in desk.log.keys.items() if value[1] != registered.seq}

    again = await enrol(desk.beside(), token)

    assert again == whole


@pytest.mark.parametrize("has_names", [True, False], ids=["50 names and keys", "50 keys for one name"])
async def test_of_many_uses_of_a_token_at_once_one_counts(has_names: bool) -> None:
    desk = Desk()
    token = await a_token(desk)

    outcomes = await asyncio.gather(
        *(
            enrol(desk.beside(), token, f"web{n}" if has_names else "web1", SigningKey.from_bytes(bytes([n] * 32)))
            for n in range(50)
        ),
        return_exceptions=True,
    )

    assert len([outcome for outcome in outcomes if isinstance(outcome, Enrolled)]) == 1
    assert all(isinstance(outcome, Enrolled | NotSignedInError | RefusedError) for outcome in outcomes)
    assert desk.kinds().count("enrolment_token.used") == 1
    assert desk.kinds().count("host.registered") == 1


async def test_a_token_for_one_host_is_for_no_other() -> None:
    desk = Desk()

    with pytest.raises(NotSignedInError, match="web1"):
        await enrol(desk, await a_token(desk, hostname="web1"), "web2")


async def test_a_token_ends_at_its_time_and_when_it_is_revoked() -> None:
    desk = Desk()
    revoked, ended = await a_token(desk), await a_token(desk)
    [first, _] = await desk.enrolment.open_tokens(ADMIN)
    await desk.enrolment.revoke_token(ADMIN, first.token_id)
    with pytest.raises(NotSignedInError):
        await enrol(desk, revoked)

    desk.clock.advance(3600)

    with pytest.raises(NotSignedInError):
        await enrol(desk, ended)
    assert await desk.enrolment.open_tokens(ADMIN) == []


@pytest.mark.parametrize("loss", ["disabled", "another role"])
async def test_a_token_ends_with_the_right_of_whoever_made_it(loss: str) -> None:
    desk = Desk()
    ada, _ = await desk.user("ada", "administrator"), await desk.user("bob", "administrator")
    token = (await desk.enrolment.create_token(ada, hostname=None, groups=(), expires_in=3600)).text
    await desk.access.set_password(ADMIN, "ada", "another long one")
    await desk.enrolment.begin(token=token, hostname="web1", public_key=host_key("web1").public_key)

    if loss == "disabled":
        await desk.access.set_enabled(ADMIN, "ada", False)
        await desk.access.set_enabled(ADMIN, "ada", True)
    else:
        await desk.access.set_role(ADMIN, "ada", "operator")

    with pytest.raises(NotSignedInError):
        await desk.enrolment.begin(token=token, hostname="web1", public_key=host_key("web1").public_key)
    assert await desk.enrolment.open_tokens(ADMIN) == []


@pytest.mark.parametrize("role", ["administrator", "host-admin"])
@pytest.mark.parametrize("groups", [("db",), ()], ids=["into", "out of"])
async def test_whoever_made_a_token_might_move_the_host_so_when_it_is_used(role: str, groups: tuple[str, ...]) -> None:
    """A rule may be younger than the token; so may what its maker is."""
    desk = Desk()
    hanna, _ = await desk.user("hanna", "administrator"), await desk.user("bob", "administrator")
    if not groups:
        await desk.register("web1", "db")
        await desk.hosts.retire(ADMIN, "web1", None)
    token = (await desk.enrolment.create_token(hanna, hostname=None, groups=groups, expires_in=3600)).text
    await desk.rules.create(ADMIN, a_rule(subject="role:viewer", groups={"db"}))
    if role != hanna.role:
        await desk.access.set_role(ADMIN, "hanna", role)

        with pytest.raises(NotSignedInError, match="enrolment_refused"):
            await enrol(desk, token)

        assert desk.kinds()[-1] == "access.denied"
        assert "enrolment_token.used" not in desk.kinds()
        await desk.access.set_role(ADMIN, "hanna", "administrator")
    first = await enrol(desk, token)

    await desk.access.set_role(ADMIN, "hanna", "host-admin")
    assert await enrol(desk, token) == first


async def test_an_api_token_is_no_enrolment_token_and_neither_is_noise() -> None:
    desk = Desk()
    token = await a_token(desk)

    for text in (
        "",
        "cp" + token[3:],
        token[:-1],
        token.replace("cpe_", "cpe_0", 1),
        "cpe_" + "0" * 16 + "_" + "0" * 72,
    ):
        with pytest.raises(NotSignedInError):
            await enrol(desk, text)


@pytest.mark.parametrize("wrong", ["another key", "another host", "another token", "another nonce"])
async def test_a_proof_holds_for_this_key_host_token_and_nonce_alone(wrong: str) -> None:
    desk = Desk()
    token, key = await a_token(desk), host_key("web1")
    nonce = await desk.enrolment.begin(token=token, hostname="web1", public_key=key.public_key)
    proof = a_proof(
        token if wrong != "another token" else await a_token(desk),
        "web1" if wrong != "another host" else "web2",
        key if wrong != "another key" else host_key("mallory"),
        nonce if wrong != "another nonce" else nonce + "x",
    )

    with pytest.raises(RefusedError) as refused:
        await desk.enrolment.finish(token=token, hostname="web1", public_key=key.public_key, nonce=nonce, proof=proof)

    assert refused.value.code == "proof_refused"
    assert desk.kinds()[-2:] == ["enrolment_token.created", "access.denied"]


@pytest.mark.parametrize("wrong", ["old", "forged", "no nonce", "later"])
async def test_a_nonce_is_ours_and_fresh(wrong: str) -> None:
    desk = Desk()
    token, key = await a_token(desk), host_key("web1")
    nonce = await desk.enrolment.begin(token=token, hostname="web1", public_key=key.public_key)
    if wrong == "old":
        desk.clock.advance(NONCE_S + 1)
    end, rest = nonce.split(".", 1)
    nonce = {
        "old": nonce,
        "forged": nonce[:-10] + "AAAAAAAA==",
        "no nonce": "x",
        "later": f"{int(end) + 1}.{rest}",
    }[wrong]

    with pytest.raises(RefusedError) as refused:
        await desk.enrolment.finish(
            token=token,
            hostname="web1",
            public_key=key.public_key,
            nonce=nonce,
            proof=a_proof(token, "web1", key, nonce),
        )

    assert refused.value.code == "nonce_expired"


async def test_a_name_that_is_taken_is_refused_and_does_not_use_up_the_token() -> None:
    desk = Desk()
    await desk.register("web1")
    token = await a_token(desk)

    with pytest.raises(RefusedError) as refused:
        await enrol(desk, token, key=host_key("mallory"))
    assert refused.value.code == "host_exists"

    assert (await enrol(desk, token, "web2")).hostname == "web2"


async def test_the_name_of_a_revoked_host_needs_its_retirement_and_a_token_of_its_own() -> None:
    desk = Desk()
    used = await a_token(desk)
    before = await enrol(desk, used)
    await desk.hosts.revoke(ADMIN, "web1", "stolen")
    fresh = await a_token(desk)

    for key in (host_key("web1"), host_key("other")):
        with pytest.raises(RefusedError, match="retire it first"):
            await enrol(desk, fresh, key=key)
    await desk.hosts.retire(ADMIN, "web1", None)
    for key in (host_key("web1"), host_key("other")):
        with pytest.raises(NotSignedInError):
            await enrol(desk, used, key=key)
    again = await enrol(desk, fresh, key=host_key("other"))

    assert again.as_of > before.as_of
    assert desk.authority.fleet.public_keys("web1") == (host_key("other").public_key,)
    assert desk.authority.fleet.is_replaced("web1", before.as_of)  # so nothing from before is its own
    assert desk.kinds().count("host.registered") == 2


@pytest.mark.parametrize(
    ("hostname", "groups", "expires_in"),
    [("*", (), 60), (None, ("#",), 60), (None, (), 0), (None, (), 3601)],
)
async def test_a_token_that_breaks_a_rule_is_not_made(
    hostname: str | None, groups: tuple[str, ...], expires_in: int
) -> None:
    with pytest.raises(RefusedError):
        await Desk().enrolment.create_token(ADMIN, hostname=hostname, groups=groups, expires_in=expires_in)


async def test_a_token_is_for_at_most_64_groups_and_for_names_alone() -> None:
    desk = Desk()

    with pytest.raises(RefusedError, match="at most 64 groups"):
        await a_token(desk, groups=tuple(f"g{n}" for n in range(65)))
    for name in ("web1/..", "web 1", "-web", "x" * 201, "web1\n", "cmd.#", ""):
        with pytest.raises(RefusedError, match="hostname"):
            await a_token(desk, hostname=name)
        with pytest.raises(RefusedError, match="groups"):
            await a_token(desk, groups=(name,))
    assert desk.kinds() == []


async def test_the_log_never_has_a_token_itself() -> None:
    desk = Desk()
    token = await a_token(desk)
    await enrol(desk, token)

    assert not any(token[21:85].encode() in row.body for row in desk.log.rows)


async def test_an_operator_enrols_nobody() -> None:
    desk = Desk()

    for ask in (
        desk.enrolment.create_token(OPERATOR, hostname=None, groups=(), expires_in=60),
        desk.enrolment.open_tokens(OPERATOR),
        desk.enrolment.revoke_token(OPERATOR, "x"),
    ):
        with pytest.raises(NotAllowedError):
            await ask
    assert desk.kinds() == ["access.denied"] * 3


@pytest.mark.parametrize("sent_away", ["retire", "revoke"])
async def test_a_used_token_does_not_bring_a_host_back_that_was_sent_away(sent_away: str) -> None:
    desk = Desk()
    token = await a_token(desk)
    await enrol(desk, token)
    await getattr(desk.hosts, sent_away)(ADMIN, "web1", "stolen")

    with pytest.raises(NotSignedInError):
        await enrol(desk, token)

    assert (await enrol(desk, await a_token(desk), "web2")).hostname == "web2"


class OvertakenAccounts:
    """While an account is made, an administrator revokes its host, at another replica."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self.dismissed: list[Host] = []

    async def admit(self, host: Host) -> str:
        await self._desk.hosts.revoke(ADMIN, host.hostname, "stolen")
        return "amqp://h-1@broker"

    async def dismiss(self, hosts: Collection[Host]) -> int:
        self.dismissed += hosts
        return len(hosts)


async def test_a_host_that_is_revoked_while_it_enrols_has_no_account_at_the_end() -> None:
    desk = Desk()
    token, accounts = await a_token(desk), OvertakenAccounts(desk.beside())
    desk.enrolment = EnrolmentHandler(desk.handling, accounts)

    with pytest.raises(RefusedError, match="web1 was revoked while it enrolled"):
        await enrol(desk, token)
    assert [host.hostname for host in accounts.dismissed] == ["web1"]


async def test_wrong_tokens_are_looked_at_so_often_of_an_address_and_good_ones_as_often_as_is_needed() -> None:
    desk = Desk()
    await desk.handling.authority.refresh()
    key, looked_at = host_key("web1").public_key, 0
    for _ in range(ENROLMENTS_OF_ADDRESS + 30):
        try:
            await desk.enrolment.begin(token="cpe_0_0", hostname="web1", public_key=key, address="192.0.2.1")
        except TooManyError:
            continue
        except NotSignedInError:
            looked_at += 1

    assert looked_at == ENROLMENTS_OF_ADDRESS
    good = await a_token(desk)
    assert await desk.enrolment.begin(token=good, hostname="web1", public_key=key, address="192.0.2.1")
