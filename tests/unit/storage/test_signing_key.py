"""The signing key at rest: in files that nobody else may read, encrypted if wanted, or in the environment."""

import base64
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from control_plane import cli, settings
from control_plane.errors import ConfigurationError
from control_plane.storage import signing_key
from control_plane.storage.signing_key import KeyStore, store_of
from control_plane_wire.signing import SigningKey

PASSPHRASE = "correct horse battery"
KEY = SigningKey.from_bytes(b"\x01" * 32)
SEED = base64.b64encode(KEY.to_bytes()).decode()


@pytest.fixture(autouse=True)
def _cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signing_key, "KIB", 64)
    monkeypatch.setattr(signing_key, "ITERATIONS", 1)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


def wrong(call: Callable[[], object]) -> str:
    """What it says in one line, and shows no secret."""
    with pytest.raises(ConfigurationError) as refused:
        call()
    said = str(refused.value)
    assert "\n" not in said
    assert SEED not in said
    assert PASSPHRASE not in said
    return said


def test_a_key_is_made_once_and_read_again(tmp_path: Path) -> None:
    made = KeyStore(tmp_path / "state").create()

    assert KeyStore(tmp_path / "state").create().key_id == made.key_id
    assert [key.key_id for key in KeyStore(tmp_path / "state").load()] == [made.key_id]
    assert (mode(tmp_path / "state"), mode(tmp_path / "state" / "signing.key")) == (0o700, 0o600)


def test_later_keys_are_files_of_their_own_and_the_first_may_be_gone(tmp_path: Path) -> None:
    store = KeyStore(tmp_path)
    first, second = store.create(), SigningKey.generate()
    path = store.put(second)

    assert (mode(path), mode(path.parent)) == (0o600, 0o700)
    assert [key.key_id for key in store.load()] == [first.key_id, second.key_id]
    for key in (first, second):
        found = store.find(key.key_id)
        assert found is not None
        assert found.key_id == key.key_id
    assert store.find("0" * 16) is None
    assert store.find("../signing") is None
    assert store.delete(first.key_id) == [store.first]
    assert store.delete(first.key_id) == []
    assert store.create().key_id == second.key_id  # and makes no other


@pytest.mark.parametrize("encrypted", [False, True])
@pytest.mark.parametrize("bits", [0o644, 0o640, 0o660, 0o604, 0o700 | 0o001])
def test_a_file_that_others_may_read_is_refused(tmp_path: Path, bits: int, encrypted: bool) -> None:
    store = KeyStore(tmp_path, PASSPHRASE if encrypted else None)
    for path in (store.first, store.path(KEY.key_id)):
        store._write(path, KEY)
        path.chmod(bits)
        assert "chmod 600" in wrong(store.load)
        assert "chmod 600" in wrong(store.encrypt if encrypted else store.decrypt)
        path.chmod(0o600)


def test_encrypted_it_is_read_with_its_passphrase_alone(tmp_path: Path) -> None:
    store = KeyStore(tmp_path, PASSPHRASE)
    key = store.create()
    data = store.first.read_bytes()

    assert KeyStore(tmp_path, PASSPHRASE).load()[0].key_id == key.key_id
    assert base64.b64encode(key.to_bytes()) not in data
    assert key.to_bytes() not in data
    assert "is encrypted: set" in wrong(KeyStore(tmp_path).load)
    for other in ("correct horse batterz", PASSPHRASE + " ", PASSPHRASE.upper()):
        assert "the passphrase is another one" in wrong(KeyStore(tmp_path, other).load)


def test_an_encrypted_file_that_is_damaged_anywhere_is_refused(tmp_path: Path) -> None:
    store = KeyStore(tmp_path, PASSPHRASE)
    store.create()
    whole = store.first.read_bytes().rstrip()

    for at in range(len(b"argon2id "), len(whole)):
        for change in (whole[at] ^ 1, ord("A") if whole[at] != ord("A") else ord("B")):
            store.first.write_bytes(whole[:at] + bytes([change]) + whole[at + 1 :])
            assert "the file is damaged" in wrong(store.load), at
    for length in range(len(b"argon2id "), len(whole), 7):
        store.first.write_bytes(whole[:length])
        assert "the file is damaged" in wrong(store.load), length


@pytest.mark.parametrize(
    "header", ["argon2id 2000000 1 4 AAAA", "argon2id 64 1000 4 AAAA", "argon2id 64 1 99 AAAA", "argon2id -1 1 1 AAAA"]
)
def test_a_file_does_not_say_how_much_memory_and_time_it_takes_without_bounds(tmp_path: Path, header: str) -> None:
    store = KeyStore(tmp_path, PASSPHRASE)
    store.first.touch(mode=0o600)
    store.first.write_text(f"{header}\nAAAA\n")

    assert "the file is damaged" in wrong(store.load)


@pytest.mark.parametrize("text", ["", "AAAA", "not base64!", "A" * 5000])
def test_what_is_no_key_is_refused(tmp_path: Path, text: str) -> None:
    store = KeyStore(tmp_path)
    store.first.touch(mode=0o600)
    store.first.write_text(text)

    assert "no signing key" in wrong(store.load)


def test_it_is_encrypted_and_decrypted_in_place_and_twice_is_once(tmp_path: Path) -> None:
    plain, sealed = KeyStore(tmp_path), KeyStore(tmp_path, PASSPHRASE)
    first = plain.create()
    plain.put(KEY)
    before = {path: path.read_bytes() for path in plain.files()}

    assert "is not set" in wrong(plain.encrypt)
    assert sealed.encrypt() == list(before)
    assert sealed.encrypt() == []
    assert [key.key_id for key in sealed.load()] == [first.key_id, KEY.key_id]
    assert {mode(path) for path in before} == {0o600}
    assert "another one" in wrong(KeyStore(tmp_path, "some other passphrase").decrypt)
    assert sealed.decrypt() == list(before)
    assert sealed.decrypt() == []
    assert {path: path.read_bytes() for path in plain.files()} == before


@pytest.mark.parametrize("step", ["write", "fsync", "rename"])
def test_a_crash_while_it_is_written_leaves_the_one_that_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    store = KeyStore(tmp_path)
    key = store.create()

    def dies(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(*((Path, "rename") if step == "rename" else (os, step)), dies)  # type: ignore[arg-type]
        assert "No space left" in wrong(KeyStore(tmp_path, PASSPHRASE).encrypt)

    assert [each.key_id for each in store.load()] == [key.key_id]
    assert KeyStore(tmp_path, PASSPHRASE).encrypt() == [store.first]
    assert {path.name for path in tmp_path.iterdir()} == {"signing.key"}


def test_it_may_be_given_by_the_environment_and_then_no_file_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONTROL_PLANE_STATE_DIR", str(tmp_path))
    other = SigningKey.generate()
    monkeypatch.setenv("CONTROL_PLANE_SIGNING_KEY", f"{SEED}, {base64.b64encode(other.to_bytes()).decode()}")

    given = settings.load()
    store = store_of(given)

    assert store.create().key_id == KEY.key_id
    assert [key.key_id for key in store.load()] == [KEY.key_id, other.key_id]
    found = store.find(other.key_id)
    assert found is not None
    assert found.key_id == other.key_id
    assert list(tmp_path.iterdir()) == []
    assert SEED not in f"{given!r} {given.model_dump()} {store!r}"


@pytest.mark.parametrize("text", [SEED[:-4], f"{SEED}A", f"{SEED},", "secret words", f"{SEED};{SEED}"])
def test_what_the_environment_gives_and_is_no_key_is_refused_and_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("CONTROL_PLANE_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("CONTROL_PLANE_SIGNING_KEY", text)

    said = wrong(lambda: store_of(settings.load()))

    assert said == "CONTROL_PLANE_SIGNING_KEY is no signing key: it is base64 of 32 bytes"


def test_the_passphrase_may_be_in_a_file_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONTROL_PLANE_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("CONTROL_PLANE_KEY_PASSPHRASE_FILE", str(tmp_path / "words"))
    assert "cannot be read" in wrong(lambda: store_of(settings.load()))
    (tmp_path / "words").touch(mode=0o600)
    (tmp_path / "words").write_text(f"{PASSPHRASE}\n")
    KeyStore(tmp_path, PASSPHRASE).create()

    assert store_of(settings.load()).load()
    (tmp_path / "words").chmod(0o644)
    assert "chmod 600" in wrong(lambda: store_of(settings.load()))
    monkeypatch.delenv("CONTROL_PLANE_KEY_PASSPHRASE_FILE")
    monkeypatch.setenv("CONTROL_PLANE_KEY_PASSPHRASE", PASSPHRASE)
    assert store_of(settings.load()).load()
    monkeypatch.setenv("CONTROL_PLANE_KEY_PASSPHRASE", "short")
    assert "fewer than 12" in wrong(lambda: store_of(settings.load()))


@pytest.mark.parametrize("action", ["list", "announce", "rotate", "encrypt", "decrypt"])
def test_the_command_line_says_in_a_line_what_is_wrong_with_it_and_ends_with_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], action: str
) -> None:
    monkeypatch.setenv("CONTROL_PLANE_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("CONTROL_PLANE_DATABASE_URL", f"sqlite+aiosqlite:///{tmp_path}/none.db")
    monkeypatch.setenv("CONTROL_PLANE_KEY_PASSPHRASE", PASSPHRASE)
    KeyStore(tmp_path, "some other passphrase").create()
    if action == "encrypt":
        KeyStore(tmp_path, "some other passphrase").decrypt()
        (tmp_path / "signing.key").chmod(0o640)

    assert cli.main(["keys", action]) == 2

    said = capsys.readouterr()
    assert said.out == ""
    assert len(said.err.splitlines()) == 1
    assert PASSPHRASE not in said.err
    assert ("chmod 600" if action == "encrypt" else "the passphrase is another one") in said.err


def test_the_command_line_encrypts_and_decrypts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CONTROL_PLANE_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("CONTROL_PLANE_KEY_PASSPHRASE", PASSPHRASE)
    KeyStore(tmp_path).create()

    statuses = [cli.main(["keys", action]) for action in ("encrypt", "encrypt", "decrypt")]

    path = tmp_path / "signing.key"
    assert statuses == [0, 0, 0]
    assert capsys.readouterr().out.splitlines() == [
        f"{path} is encrypted",
        "nothing to do",
        f"{path} is no longer encrypted",
    ]
