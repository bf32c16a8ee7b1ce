"""Where a request came from, and whose word counts for it."""

import pytest
from fastapi import Request

from control_plane.api.authentication import address_of
from control_plane.errors import ConfigurationError
from control_plane.settings import load


@pytest.mark.parametrize(
    ("said", "address"),
    [("10.1.2.3", "10.1.2.3"), ("::1", "::1"), ("\u009b31mX", None), ("1" + "A" * 50_000, None), ("", None)],
)
def test_what_a_proxy_says_is_an_address_or_nothing(said: str, address: str | None) -> None:
    assert address_of(Request({"type": "http", "client": (said, 1)})) == address


def test_nobody_is_a_proxy_unless_a_setting_says_so() -> None:
    assert load().proxies == []
    assert [str(each) for each in load(trusted_proxies="127.0.0.1, 10.0.0.0/8").proxies] == [
        "127.0.0.1/32",
        "10.0.0.0/8",
    ]


@pytest.mark.parametrize("proxies", ["proxy1", "127.0.0.1 10.0.0.1", "*", "10.0.0.1/8"])
def test_proxies_that_are_no_addresses_are_refused(proxies: str) -> None:
    with pytest.raises(ConfigurationError, match="TRUSTED_PROXIES"):
        load(trusted_proxies=proxies)
