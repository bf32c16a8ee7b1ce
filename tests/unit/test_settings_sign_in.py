"""Which settings of an identity provider are taken."""

import pytest

from control_plane.errors import ConfigurationError
from control_plane.settings import load


@pytest.mark.parametrize(
    "issuer",
    [
        "https://sso.example.com",
        "https://sso.example.com/",
        "https://sso.example.com:8443/realms/x",
        "http://127.0.0.1:8080",
        "http://localhost:8080",
    ],
)
def test_an_issuer_is_an_https_address_or_on_this_machine(issuer: str) -> None:
    assert load(oidc_issuer=issuer, oidc_client_id="x").oidc_issuer == issuer


@pytest.mark.parametrize(
    "issuer",
    [
        "http://sso.example.com",
        "http://127.0.0.1.evil.example",
        "ftp://sso.example.com",
        "sso.example.com",
        "https://",
        "https://user:x@sso.example.com",
        "https://sso.example.com?x=1",
        "https://sso.example.com#x",
        "https://sso.example.com:99999",
        "https://[::1",
    ],
)
def test_what_is_no_issuer_is_refused_at_the_start(issuer: str) -> None:
    with pytest.raises(ConfigurationError, match="CONTROL_PLANE_OIDC_ISSUER: must be https"):
        load(oidc_issuer=issuer, oidc_client_id="x")


@pytest.mark.parametrize("given", [{"oidc_issuer": "https://sso.example.com"}, {"oidc_client_id": "x"}])
def test_issuer_and_client_go_together(given: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError, match="go together"):
        load(**given)


def test_what_is_asked_for_has_openid_in_it() -> None:
    with pytest.raises(ConfigurationError, match="openid"):
        load(oidc_scopes="profile email")


def test_the_client_s_secret_is_not_shown() -> None:
    settings = load(oidc_issuer="https://sso.example.com", oidc_client_id="x", oidc_client_secret="a canary")

    assert "a canary" not in repr(settings)
