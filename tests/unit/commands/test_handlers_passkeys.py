"""Passkeys as the second factor, with a device in software that also lies."""

import json
from typing import Any

import cbor2
import pytest

from control_plane.commands.access import CONSOLE, Principal
from control_plane.commands.handlers.access import LoggedIn
from control_plane.commands.passkeys import (
    CHALLENGE_S,
    MAX_PASSKEYS,
    PasskeyRequiredError,
    RelyingParty,
    new_challenge,
    relying_party_of,
)
from control_plane.errors import NotAllowedError, NotFoundError, NotSignedInError, RefusedError, TooManyError
from control_plane.events import registry
from control_plane.events.access import LoginFailed, SessionOpened
from control_plane.events.passkeys import PasskeyAdded
from control_plane_wire.signing import SigningKey
from tests.support.authenticator import ATTESTED, EXTENDED, PRESENT, VERIFIED, Device, a_bomb, base64url
from tests.support.events import AT, SHA
from tests.support.fleet import CONTROL_PLANE_KEY, PASSWORD, Desk

ORIGIN = "https://control.example"


async def a_desk() -> tuple[Desk, Device]:
    """With ada and ben, and ada's passkey."""
    desk = Desk()
    for username in ("ada", "ben"):
        await desk.access.create_user(CONSOLE, username, role="operator", password=PASSWORD)
    device = Device(ORIGIN)
    await add(desk, device)
    return desk, device


async def at_browser(desk: Desk, username: str = "ada") -> Principal:
    await desk.authority.refresh()
    user = desk.authority.access.user(username)
    return (await desk.access.open_session(user, "::1")).principal


async def add(desk: Desk, device: Device, username: str = "ada", *, name: str = "key", **lies: Any) -> str:
    principal = await at_browser(desk, username)
    challenge, options = await desk.passkeys.begin(principal)
    credential = json.dumps(device.create(json.loads(options), **lies))
    return (await desk.passkeys.add(principal, challenge, credential, name=name))[0]


async def first_half(desk: Desk, username: str = "ada", *, address: str = "::1") -> tuple[str, dict[str, Any]]:
    """What the right password is answered with."""
    with pytest.raises(PasskeyRequiredError) as asked:
        await desk.access.login(username, PASSWORD, address=address)
    options: dict[str, Any] = json.loads(asked.value.options)
    return asked.value.challenge, options


async def show(desk: Desk, challenge: str, credential: dict[str, Any], *, address: str = "::1") -> LoggedIn:
    return await desk.passkeys.sign_in(challenge, json.dumps(credential), address=address)


def last_failure(desk: Desk) -> LoginFailed:
    row = next(row for row in reversed(desk.log.rows) if row.kind == "login.failed")
    event = registry.decode(row)
    assert isinstance(event, LoginFailed)
    return event


# --- signing in


@pytest.mark.parametrize("device", [Device(ORIGIN), Device(ORIGIN, None), Device(ORIGIN, is_ed25519=True)])
async def test_password_and_passkey_together_open_a_session(device: Device) -> None:
    desk, _ = await a_desk()
    await add(desk, device, "ben")

    challenge, options = await first_half(desk, "ben")
    opened = await show(desk, challenge, device.get(options))

    assert desk.access.by_session(opened.secret).username == "ben"
    assert options["userVerification"] == "required"
    assert [each["id"] for each in options["allowCredentials"]] == [base64url(device.credential_id)]
    event = registry.decode(desk.log.rows[-1])
    assert isinstance(event, SessionOpened)
    assert (event.method, event.sign_count) == ("passkey", device.sign_count or 0)


async def test_the_password_alone_opens_nothing_and_is_recorded() -> None:
    desk, _ = await a_desk()

    await first_half(desk)

    assert desk.kinds()[-1] == "access.denied"
    assert b"passkey_required" in desk.log.rows[-1].body


async def test_whether_somebody_has_a_passkey_is_told_to_who_knows_the_password_alone() -> None:
    desk, _ = await a_desk()

    said = set()
    for username in ("ada", "ben", "nobody"):
        with pytest.raises(NotSignedInError) as refused:
            await desk.access.login(username, "wrong password", address="::1")
        said.add((type(refused.value), refused.value.code, refused.value.detail))

    assert said == {(NotSignedInError, "login_failed", "user or password are wrong")}


LIES: dict[str, dict[str, Any]] = {
    "the page of another site": {"origin": "https://control.example.evil.example"},
    "the same site without TLS": {"origin": "http://control.example"},
    "bound to another domain": {"rp_id": "evil.example"},
    "nobody was there": {"flags": VERIFIED},
    "nobody was verified": {"flags": PRESENT},
    "made for adding one": {"type": "webauthn.create"},
    "another challenge": {"challenge": base64url(b"another")},
    "no challenge": {"challenge": ""},
    "a signature of nothing": {"signature": b""},
    "another signature": {"signature": b"\x30\x06\x02\x01\x01\x02\x01\x01"},
    "a credential that nobody has": {"credential_id": b"x" * 32},
    "a credential without an id": {"credential_id": b""},
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES.keys())
async def test_an_answer_that_is_not_right_opens_nothing_and_is_recorded_with_its_reason(lie: dict[str, Any]) -> None:
    desk, device = await a_desk()
    challenge, options = await first_half(desk)

    with pytest.raises(NotSignedInError) as refused:
        await show(desk, challenge, device.get(options, **lie))

    assert (refused.value.code, refused.value.detail) == ("login_failed", "the passkey is not right; sign in again")
    failure = last_failure(desk)
    assert (failure.username, failure.method, failure.address) == ("ada", "passkey", "::1")
    assert failure.reason


@pytest.mark.parametrize("flag", [ATTESTED, EXTENDED])
async def test_an_answer_with_more_than_was_asked_for_is_not_decoded(flag: int) -> None:
    desk, device = await a_desk()
    challenge, options = await first_half(desk)

    with pytest.raises(NotSignedInError):
        await show(desk, challenge, device.get(options, flags=PRESENT | VERIFIED | flag, more=a_bomb(8)))

    assert "more in it than was asked for" in str(last_failure(desk).reason)


async def test_another_user_s_passkey_is_none() -> None:
    desk, _ = await a_desk()
    bens = Device(ORIGIN)
    await add(desk, bens, "ben")
    challenge, options = await first_half(desk, "ada")

    with pytest.raises(NotSignedInError):
        await show(desk, challenge, bens.get(options))

    assert last_failure(desk).reason == "it is none of the user's"


async def test_another_key_under_the_same_credential_is_none() -> None:
    desk, device = await a_desk()
    copy = Device(ORIGIN, 7, device.credential_id)
    challenge, options = await first_half(desk)

    with pytest.raises(NotSignedInError):
        await show(desk, challenge, copy.get(options))


async def test_a_challenge_of_before_the_keys_change_is_answered_after_it() -> None:
    desk, device = await a_desk()
    challenge, options = await first_half(desk)
    await desk.rotate_to(SigningKey.generate())

    assert (await show(desk, challenge, device.get(options))).principal


async def test_an_answer_counts_once_at_all_replicas_together() -> None:
    desk, device = await a_desk()
    challenge, options = await first_half(desk)
    credential = device.get(options)
    await show(desk, challenge, credential)
    beside = desk.beside()
    device.sign_count = None

    for at in (desk, beside):
        with pytest.raises(NotSignedInError):
            await show(at, challenge, credential)
    assert desk.kinds().count("session.opened") == 2  # one of them to add the passkey


async def test_a_replay_of_a_device_that_does_not_count_is_refused_by_the_log() -> None:
    desk, _ = await a_desk()
    device = Device(ORIGIN, None)
    await add(desk, device, "ben")
    challenge, options = await first_half(desk, "ben")
    credential = device.get(options)
    await show(desk, challenge, credential)

    for at in (desk, desk.beside()):
        with pytest.raises(NotSignedInError) as refused:
            await show(at, challenge, credential, address="203.0.113.1")
        assert refused.value.detail == "this was used already; begin again"

    assert last_failure(desk).reason == "it has opened a session already"


async def test_another_answer_to_the_same_challenge_opens_no_second_session() -> None:
    desk, device = await a_desk()
    challenge, options = await first_half(desk)
    await show(desk, challenge, device.get(options))

    with pytest.raises(NotSignedInError):
        await show(desk, challenge, device.get(options))


async def test_a_count_that_goes_back_is_refused_and_recorded() -> None:
    desk, device = await a_desk()
    challenge, options = await first_half(desk)
    await show(desk, challenge, device.get(options))
    device.sign_count = 1  # a copy from before

    challenge, options = await first_half(desk)
    with pytest.raises(NotSignedInError):
        await show(desk, challenge, device.get(options))

    assert "it counted to 2 after 2" in str(last_failure(desk).reason)


async def test_a_count_that_is_given_up_is_refused() -> None:
    desk, device = await a_desk()
    device.sign_count = None
    challenge, options = await first_half(desk)

    with pytest.raises(NotSignedInError):
        await show(desk, challenge, device.get(options))


# --- challenges


async def test_a_challenge_ends() -> None:
    desk, device = await a_desk()
    challenge, options = await first_half(desk)
    desk.clock.advance(CHALLENGE_S + 1)

    with pytest.raises(NotSignedInError) as refused:
        await show(desk, challenge, device.get(options))

    assert refused.value.code == "challenge_expired"


async def test_a_challenge_is_ours_for_that_user_and_for_that() -> None:
    desk, device = await a_desk()
    challenge, options = await first_half(desk)
    head, _, signature = challenge.rpartition(".")
    user = desk.authority.access.user("ada")
    adding = new_challenge(CONTROL_PLANE_KEY, "add", user, desk.clock.now_s())
    later = f"{int(head.partition('.')[0]) + 60}.{head.partition('.')[2]}.{signature}"
    other = f"{head.removesuffix('ada')}ben.{signature}"

    for forged in (adding, later, other, head, "", ".", "..", "a.b.c.d", f"{head}.{'A' * 88}", "9" * 500, "é.ü"):
        with pytest.raises(NotSignedInError) as refused:
            await show(desk, forged, device.get({**options, "challenge": base64url(forged.encode())}))
        assert refused.value.code == "challenge_expired", forged


@pytest.mark.parametrize("change", ["password", "disabled", "role"])
async def test_a_change_of_the_user_ends_the_challenge(change: str) -> None:
    desk, device = await a_desk()
    challenge, options = await first_half(desk)
    if change == "password":
        await desk.access.set_password(CONSOLE, "ada", "another good password")
    elif change == "role":
        await desk.access.set_role(CONSOLE, "ada", "viewer")
    else:
        await desk.access.set_enabled(CONSOLE, "ada", False)

    with pytest.raises(NotSignedInError):
        await show(desk, challenge, device.get(options))


async def test_another_replica_finishes_what_this_one_began() -> None:
    desk, device = await a_desk()
    challenge, options = await first_half(desk)

    opened = await show(desk.beside(), challenge, device.get(options))

    assert opened.principal.username == "ada"


# --- how often


async def test_both_halves_count_as_tries_until_it_succeeds() -> None:
    desk, device = await a_desk()

    for number in range(2):  # each a password and a passkey
        challenge, options = await first_half(desk, address=f"203.0.113.{number}")
        with pytest.raises(NotSignedInError):
            await show(desk, challenge, device.get(options, flags=PRESENT), address=f"203.0.113.{number}")
    challenge, options = await first_half(desk, address="203.0.113.9")
    with pytest.raises(TooManyError):
        await show(desk, challenge, device.get(options), address="203.0.113.9")


async def test_who_signs_in_rightly_may_do_so_often() -> None:
    desk, device = await a_desk()

    for _ in range(12):
        challenge, options = await first_half(desk)
        await show(desk, challenge, device.get(options))


async def test_the_right_password_without_the_passkey_cannot_be_tried_without_end() -> None:
    desk, _ = await a_desk()
    for _ in range(5):
        await first_half(desk)

    with pytest.raises(TooManyError):
        await desk.access.login("ada", PASSWORD, address="::1")


# --- one's own passkeys


async def test_a_passkey_is_added_listed_and_removed_by_its_owner() -> None:
    desk, _ = await a_desk()
    principal = await at_browser(desk)
    [mine] = desk.passkeys.own(principal)
    assert (mine.name, mine.added_at) == ("key", AT)

    await desk.passkeys.remove(principal, mine.passkey_id)

    assert desk.passkeys.own(principal) == []
    assert (await desk.access.login("ada", PASSWORD, address="::1")).principal.username == "ada"
    with pytest.raises(NotFoundError):
        await desk.passkeys.remove(principal, mine.passkey_id)


REGISTRATION_LIES: dict[str, dict[str, Any]] = {
    "the page of another site": {"origin": "https://evil.example"},
    "another domain": {"rp_id": "evil.example"},
    "nobody was there": {"flags": VERIFIED},
    "nobody was verified": {"flags": PRESENT},
    "made for signing in": {"type": "webauthn.get"},
    "another challenge": {"challenge": base64url(b"another")},
    "a key of a kind that is not asked for": {"cose": cbor2.dumps({1: 2, 3: -35, -1: 2, -2: b"x" * 48, -3: b"y" * 48})},
    "a shared secret for a key": {"cose": cbor2.dumps({1: 4, 3: 5, -1: b"secret"})},
    "a point that is on no curve": {"cose": cbor2.dumps({1: 2, 3: -7, -1: 1, -2: b"x" * 32, -3: b"y" * 32})},
    "a key of the wrong types": {"cose": cbor2.dumps({1: 2, 3: -7, -1: 1, -2: 5, -3: None})},
    "no key": {"cose": cbor2.dumps([])},
    "an attestation that nobody asked for": {"fmt": "android-safetynet", "statement": {"ver": "1", "response": b"x"}},
    "a certificate": {"fmt": "packed", "statement": {"alg": -7, "sig": b"x", "x5c": [b"x"]}},
    "a self-made attestation that does not hold": {"fmt": "packed", "statement": {"alg": -7, "sig": b"x"}},
    "no attestation object": {"attestation": b"\xff"},
    "deep nesting": {"attestation": b"\x81" * 6000},
    "an attestation of the wrong type": {"attestation": cbor2.dumps({"fmt": 1, "attStmt": 2, "authData": 3})},
}


@pytest.mark.parametrize("lie", REGISTRATION_LIES.values(), ids=REGISTRATION_LIES.keys())
async def test_a_passkey_that_does_not_hold_is_not_added(lie: dict[str, Any]) -> None:
    desk, _ = await a_desk()

    with pytest.raises(RefusedError) as refused:
        await add(desk, Device(ORIGIN), "ben", **lie)

    assert refused.value.code == "passkey_refused"
    assert desk.authority.passkeys.of("ben") == []


BOMBS: dict[str, dict[str, Any]] = {
    "for an attestation object": {"attestation": a_bomb(8)},
    "for a public key": {"cose": a_bomb(8)},
    "behind a public key": {"cose": cbor2.dumps({1: 1}) + a_bomb(8)},
    "for an extension": {"flags": PRESENT | VERIFIED | EXTENDED},
}


@pytest.mark.parametrize("lie", BOMBS.values(), ids=BOMBS.keys())
async def test_what_the_general_reader_would_take_too_long_for_never_comes_to_it(lie: dict[str, Any]) -> None:
    desk, _ = await a_desk()

    with pytest.raises(RefusedError) as refused:
        await add(desk, Device(ORIGIN), "ben", **lie)

    assert (refused.value.code, refused.value.detail.split(":")[0]) == ("passkey_refused", "ValueError")


async def test_a_challenge_to_add_is_for_who_asked_for_it() -> None:
    desk, _ = await a_desk()
    ada, ben = await at_browser(desk, "ada"), await at_browser(desk, "ben")
    challenge, options = await desk.passkeys.begin(ada)
    credential = json.dumps(Device(ORIGIN).create(json.loads(options)))

    for wrong in (challenge, "nonsense"):
        with pytest.raises(RefusedError) as refused:
            await desk.passkeys.add(ben, wrong, credential, name="key")
        assert refused.value.code == "challenge_expired"


async def test_the_same_passkey_is_added_once_and_never_again() -> None:
    desk, device = await a_desk()
    principal = await at_browser(desk)
    challenge, options = await desk.passkeys.begin(principal)
    assert [each["id"] for each in json.loads(options)["excludeCredentials"]] == [base64url(device.credential_id)]
    credential = json.dumps(device.create(json.loads(options)))

    for _ in range(2):
        with pytest.raises(RefusedError) as refused:
            await desk.passkeys.add(principal, challenge, credential, name="again")
        assert refused.value.code == "passkey_exists"
        for passkey in desk.passkeys.own(principal):
            await desk.passkeys.remove(principal, passkey.passkey_id)


async def test_a_user_has_so_many_and_no_more() -> None:
    desk, _ = await a_desk()
    for _ in range(MAX_PASSKEYS - 1):
        await add(desk, Device(ORIGIN))

    with pytest.raises(RefusedError) as refused:
        await add(desk, Device(ORIGIN))

    assert refused.value.code == "too_many_passkeys"


async def test_of_two_last_ones_at_the_same_moment_one_is_told_that_it_is_too_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    desk, _ = await a_desk()
    for _ in range(MAX_PASSKEYS - 1):
        await add(desk, Device(ORIGIN))
    monkeypatch.setattr("control_plane.commands.handlers.passkeys._check_room", lambda known: None)

    with pytest.raises(RefusedError) as refused:
        await add(desk, Device(ORIGIN))

    assert refused.value.code == "too_many_passkeys"
    assert len(desk.authority.passkeys.of("ada")) == MAX_PASSKEYS


async def test_a_token_says_nothing_about_how_its_owner_signs_in() -> None:
    desk, _ = await a_desk()
    token = await desk.tokens.create(CONSOLE, username="ada", name="ci", days=1)
    principal = desk.access.by_token(token.text)
    [mine] = desk.authority.passkeys.of("ada")

    for attempt in (
        desk.passkeys.begin(principal),
        desk.passkeys.add(principal, "x", "{}", name="x"),
        desk.passkeys.remove(principal, mine.passkey_id),
    ):
        with pytest.raises(NotAllowedError) as refused:
            await attempt
        assert refused.value.code == "session_required"
    assert desk.kinds()[-3:] == ["access.denied"] * 3


@pytest.mark.parametrize("name", ["", "x" * 257, "two\nlines", "\u202egnp"])
async def test_a_name_is_one_line(name: str) -> None:
    desk, _ = await a_desk()

    with pytest.raises(RefusedError) as refused:
        await add(desk, Device(ORIGIN), name=name)

    assert refused.value.code == "invalid_request"


# --- recovery, and what is not there


async def test_who_has_lost_all_passkeys_is_helped_by_an_administrator() -> None:
    desk, _ = await a_desk()
    await add(desk, Device(ORIGIN))
    ben = await at_browser(desk, "ben")

    with pytest.raises(NotAllowedError):
        await desk.access.remove_passkeys(ben, "ada")
    await desk.access.remove_passkeys(CONSOLE, "ada")

    assert desk.kinds()[-2:] == ["passkey.removed"] * 2
    assert (await desk.access.login("ada", PASSWORD, address="::1")).principal.username == "ada"
    with pytest.raises(NotFoundError):
        await desk.access.remove_passkeys(CONSOLE, "nobody")


async def test_where_browsers_know_no_passkeys_they_are_not_passed_over() -> None:
    desk, _ = await a_desk()
    beside = Desk(clock=desk.clock, log=desk.log, credentials=desk.credentials, relying_party=None)

    with pytest.raises(NotSignedInError) as refused:
        await beside.access.login("ada", PASSWORD, address="::1")
    assert refused.value.code == "passkeys_off"
    ben = await at_browser(beside, "ben")
    with pytest.raises(RefusedError) as off:
        await beside.passkeys.begin(ben)
    assert off.value.code == "passkeys_off"


async def test_a_forged_passkey_counts_for_nothing() -> None:
    desk, _ = await a_desk()
    forged = PasskeyAdded(
        passkey_id=SHA, username="ben", name="x", credential_id="AA", public_key="AA==", sign_count=0, added_at=AT
    )
    await desk.log.append([forged.to_new_event()])
    await desk.authority.refresh()

    assert desk.authority.passkeys.of("ben") == []
    assert desk.authority.refused == 1


async def test_a_copy_of_an_old_row_brings_no_passkey_back() -> None:
    desk, _ = await a_desk()
    genuine = next(row for row in desk.log.rows if row.kind == "passkey.added")
    await desk.access.remove_passkeys(CONSOLE, "ada")

    desk.log.rows.append(genuine._replace(seq=len(desk.log.rows) + 1))
    for at in (desk, desk.beside()):
        await at.authority.refresh()
        assert at.authority.passkeys.of("ada") == []
        assert at.authority.refused == 1


async def test_a_device_that_vouches_for_itself_is_taken() -> None:
    desk, _ = await a_desk()

    assert await add(desk, Device(ORIGIN), "ben", fmt="packed", vouches=True)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://control.example", RelyingParty("control.example", "https://control.example")),
        ("https://Control.example:443/", RelyingParty("control.example", "https://control.example")),
        ("https://control.example:8443", RelyingParty("control.example", "https://control.example:8443")),
        ("http://localhost:8000", RelyingParty("localhost", "http://localhost:8000")),
        ("http://control.example", None),
        ("http://127.0.0.1:8000", None),
        ("https://10.0.0.1", None),
        ("https://[::1]:8000", None),
    ],
)
def test_passkeys_are_bound_to_a_name_that_browsers_trust(url: str, expected: RelyingParty | None) -> None:
    assert relying_party_of(url) == expected
