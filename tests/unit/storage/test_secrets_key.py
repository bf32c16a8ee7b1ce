import base64
from pathlib import Path

import pytest

from control_plane.errors import ConfigurationError
from control_plane.storage import secrets_key


def test_the_key_is_made_once_for_the_owner_alone_and_read_again(tmp_path: Path) -> None:
    assert secrets_key.load(tmp_path) is None

    secrets_key.create(tmp_path)
    first = secrets_key.load(tmp_path)
    secrets_key.create(tmp_path)

    assert first is not None
    assert secrets_key.load(tmp_path) == first
    assert len(first) == secrets_key.KEY_BYTES
    assert (tmp_path / "secrets.key").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["secrets.key"]


@pytest.mark.parametrize("text", [b"", b"x", b"\xff", base64.b64encode(bytes(63)), base64.b64encode(bytes(65))])
def test_what_is_no_key_is_told_and_never_replaced(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "secrets.key"
    path.write_bytes(text)
    path.chmod(0o600)

    for act in (secrets_key.load, secrets_key.create):
        with pytest.raises(ConfigurationError, match="no key for secrets"):
            act(tmp_path)
    assert path.read_bytes() == text


def test_a_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    secrets_key.create(tmp_path)
    (tmp_path / "secrets.key").chmod(0o640)

    with pytest.raises(ConfigurationError, match="chmod 600"):
        secrets_key.load(tmp_path)


def test_what_a_crash_has_left_makes_no_key_that_others_may_read(tmp_path: Path) -> None:
    left = tmp_path / "made" / "secrets.new"
    left.parent.mkdir()
    left.write_bytes(b"half")
    left.chmod(0o644)

    secrets_key.create(left.parent)

    assert secrets_key.load(left.parent) is not None


def test_the_directory_is_made_where_there_is_none(tmp_path: Path) -> None:
    secrets_key.create(tmp_path / "state")

    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700
    assert secrets_key.load(tmp_path / "state") is not None
