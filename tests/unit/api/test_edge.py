"""The names that this server answers to."""

import pytest

from control_plane.api.edge import AllowedHosts
from control_plane.settings import Settings


@pytest.mark.parametrize(
    ("listen", "public_url", "host", "is_allowed"),
    [
        ("127.0.0.1:8000", None, "127.0.0.1:8000", True),
        ("127.0.0.1:8000", None, "localhost:8000", True),
        ("127.0.0.1:8000", None, "[::1]:8000", True),
        ("127.0.0.1:8000", None, "evil.example:8000", False),
        ("127.0.0.1:8000", None, "192.0.2.1", False),
        ("127.0.0.1:8000", "https://control.example", "control.example", True),
        ("0.0.0.0:8000", "https://control.example", "control.example", True),
        ("0.0.0.0:8000", None, "192.0.2.1:8000", True),
        ("0.0.0.0:8000", None, "[2001:db8::1]:8000", True),
        ("0.0.0.0:8000", None, "evil.example", False),
        ("[::]:8000", None, "localhost", True),
        ("web9:8000", None, "web9:8000", True),
    ],
)
def test_a_name_that_could_have_been_rebound_to_us_is_not_ours(
    listen: str, public_url: str | None, host: str, is_allowed: bool
) -> None:
    assert (host in AllowedHosts(Settings(listen=listen, public_url=public_url))) == is_allowed
