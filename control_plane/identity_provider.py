"""The identity provider by OpenID Connect: the code flow with PKCE, and ID tokens with asymmetric signatures alone.

All that is asked of it is bounded in time and size, follows no redirect, and goes where the provider's own document
says, which is read from the issuer's address and nowhere else: not from what a token's header names (`jku`, `x5u`).
"""

import asyncio
import base64
import hashlib
import logging
import secrets
import ssl
import warnings
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlencode, urlsplit

import httpx
import orjson
from joserfc import jws, jwt
from joserfc.errors import InvalidKeyIdError, JoseError, UnsupportedAlgorithmError
from joserfc.jwa import JWSAlgModel
from joserfc.jwk import JWKRegistry, Key, KeySet, RSAKey

from control_plane.commands.access import RECENT_S
from control_plane.commands.grammar import shown
from control_plane.commands.identity import Proved
from control_plane.commands.users import is_subject
from control_plane.errors import IdentityProviderError, IdentityRefusedError
from control_plane.observability import Count
from control_plane_wire.clock import Clock

# Whatever the provider's document or a token offers besides: a shared secret or none at all proves nothing here.
ALGORITHMS: Final[Mapping[str, str]] = {"RS256": "sha256", "PS256": "sha256", "ES256": "sha256", "EdDSA": "sha512"}
KEY_TYPES: Final = ("RSA", "EC", "OKP")
MIN_RSA_BITS: Final = 2048
MAX_KEYS: Final = 100
MAX_ANSWER_BYTES: Final = 256 * 1024
MAX_TOKEN: Final = 64 * 1024  # characters
MAX_HEADER_BYTES: Final = 8 * 1024  # some put their certificates there
MAX_CODE: Final = 4096  # characters
WHOLE_S: Final = 6.0  # for all that one request needs of the provider
KNOWN_S: Final = 3600.0  # so long its document and keys are taken as they were
ASK_AGAIN_S: Final = 60.0  # before keys are fetched anew for a key that is not known
TELL_S: Final = 60.0  # between two lines on what failed
FAILED_S: Final = 5.0  # before a provider that did not answer is asked again
LEEWAY_S: Final = 60
AT_ONCE: Final = 8

_logger = logging.getLogger(__name__)


class _Registry(jws.JWSRegistry):
    """Our algorithms and no other, whatever the library would take."""

    max_header_length = MAX_HEADER_BYTES

    def get_alg(self, name: str) -> JWSAlgModel:
        if name not in ALGORITHMS:
            raise UnsupportedAlgorithmError("the algorithm is not allowed")
        return self.algorithms[name]


_REGISTRY: Final = _Registry(strict_check_header=False)  # what a header says beside is not looked at


@dataclass(frozen=True, slots=True)
class _Known:
    """What the provider says of itself. Attributes: `asked_s`, `keys_asked_s`: when, monotonic."""

    document: Mapping[str, Any]
    keys: KeySet
    asked_s: float
    keys_asked_s: float


class OpenIdProvider:
    """See `commands.ports.IdentityProvider`.

    Args:
        issuer: https, or http on this machine.
        client_secret: None: a public client, whose codes PKCE alone protects.
        redirect_uri: ours, as the provider has it registered.
        ca_file: whom to trust instead of the machine's own store.
    """

    def __init__(
        self,
        *,
        issuer: str,
        client_id: str,
        client_secret: str | None,
        scopes: str,
        redirect_uri: str,
        ca_file: Path | None,
        clock: Clock,
        count: Count,
    ) -> None:
        self._issuer = issuer
        self._client_id = client_id
        self._client_secret = client_secret
        self._scopes = scopes
        self._redirect_uri = redirect_uri
        self._verify = ssl.create_default_context(cafile=ca_file) if issuer.startswith("https://") else False
        self._clock = clock
        self._count = count
        self._known: _Known | None = None
        self._failed_s: float | None = None
        self._told_s: float | None = None
        self._untold = 0  # failures since
        self._asking = asyncio.Lock()
        self._room = asyncio.Semaphore(AT_ONCE)

    @property
    def issuer(self) -> str:
        return self._issuer

    async def address(self, *, state: str, nonce: str, code_challenge: str, again: bool) -> str:
        """See `commands.ports.IdentityProvider`."""
        async with self._bounded():
            known = await self._about()
        query = {
            "response_type": "code",
            "client_id": self._client_id,
            "redirect_uri": self._redirect_uri,
            "scope": self._scopes,
            "state": state,
            "nonce": nonce,
            "code_challenge": code_challenge,
            "code_challenge_method": "S256",
        }
        if again:  # what asks for a maximum has to be told the time (OpenID Connect Core, 3.1.2.1)
            query |= {"prompt": "login", "max_age": str(RECENT_S)}
        endpoint = known.document["authorization_endpoint"]
        return f"{endpoint}{'&' if urlsplit(endpoint).query else '?'}{urlencode(query)}"

    async def proved(self, code: str, *, verifier: str, nonce: str) -> Proved:
        """See `commands.ports.IdentityProvider`."""
        if len(code) > MAX_CODE:
            raise IdentityRefusedError("the code is too long")
        async with self._bounded():
            known = await self._about()
            answer = await self._redeem(known.document, code, verifier)
            token = answer.get("id_token")
            if not isinstance(token, str) or len(token) > MAX_TOKEN:
                raise IdentityRefusedError("the provider gave no ID token")
            known = await self._with_key_of(known, token)
        claims, algorithm = self._verified(token, known.keys)
        self._check(claims, nonce)
        _check_access_token(claims, answer.get("access_token"), algorithm)
        at = claims.get("auth_time")
        return Proved(str(claims["sub"]), at if isinstance(at, int) and not isinstance(at, bool) else None)

    @asynccontextmanager
    async def _bounded(self) -> AsyncIterator[None]:
        """What is asked of the provider for one request: so many at once, so long at most; what fails is counted."""
        try:
            async with asyncio.timeout(WHOLE_S), self._room:
                yield
        except TimeoutError as error:
            self._failed(f"no answer within {WHOLE_S:g} s")
            raise IdentityProviderError(f"{self._issuer} gives no answer within {WHOLE_S:g} s") from error
        except IdentityProviderError as error:
            self._failed(str(error))
            raise

    def _failed(self, reason: str) -> None:
        """Count it, and tell of it once a minute at most: anybody can begin a sign-in."""
        self._count("identity_provider_failed", 1)
        self._untold += 1
        now_s = self._clock.monotonic_s()
        if self._told_s is not None and now_s - self._told_s < TELL_S:
            return
        _logger.warning("the identity provider", extra={"reason": reason, "times": self._untold})
        self._told_s, self._untold = now_s, 0

    # --- what the provider says of itself -----------------------------------------------------------------------

    async def _about(self) -> _Known:
        async with self._asking:
            now_s, known = self._clock.monotonic_s(), self._known
            if known is not None and now_s - known.asked_s < KNOWN_S:
                return known
            if self._failed_s is not None and now_s - self._failed_s < FAILED_S:
                raise IdentityProviderError(f"{self._issuer} did not answer as it must a moment ago")
            try:
                document = await self._document()
                self._known = _Known(document, await self._keys(document), now_s, now_s)
            except (IdentityProviderError, asyncio.CancelledError):  # the latter when it takes too long
                self._failed_s = self._clock.monotonic_s()
                raise
            self._failed_s = None
            return self._known

    async def _document(self) -> Mapping[str, Any]:
        document = await self._ask("GET", f"{self._issuer.rstrip('/')}/.well-known/openid-configuration")
        if document.get("issuer") != self._issuer:
            raise IdentityProviderError(f"{self._issuer} calls itself {shown(str(document.get('issuer')))}")
        for name in ("authorization_endpoint", "token_endpoint", "jwks_uri"):
            if not is_endpoint(document.get(name), like=self._issuer):
                raise IdentityProviderError(f"the {name} of {self._issuer} is no https address")
        return document

    async def _keys(self, document: Mapping[str, Any]) -> KeySet:
        """The keys that may sign; those of another kind, and what cannot be read, are passed over."""
        found = (await self._ask("GET", document["jwks_uri"])).get("keys")
        if not isinstance(found, list) or len(found) > MAX_KEYS:
            raise IdentityProviderError(f"{self._issuer} has no list of keys, or more than {MAX_KEYS}")
        return KeySet([key for each in found if (key := _key_of(each)) is not None])

    async def _with_key_of(self, known: _Known, token: str) -> _Known:
        """With its keys fetched anew where the token's is none of them: it may have been made since."""
        if _has_key_of(known.keys, token):
            return known
        async with self._asking:
            now_s, newest = self._clock.monotonic_s(), self._known or known
            if now_s - newest.keys_asked_s < ASK_AGAIN_S:
                return newest
            self._known = _Known(newest.document, newest.keys, newest.asked_s, now_s)  # also where this fails
            keys = await self._keys(newest.document)
            self._known = _Known(newest.document, keys, newest.asked_s, now_s)
            return self._known

    # --- the code, and what it is worth -------------------------------------------------------------------------

    async def _redeem(self, document: Mapping[str, Any], code: str, verifier: str) -> Mapping[str, Any]:
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self._redirect_uri,
            "code_verifier": verifier,
        }
        headers = {}
        methods = document.get("token_endpoint_auth_methods_supported", ["client_secret_basic"])
        if self._client_secret is None:
            form["client_id"] = self._client_id
        elif isinstance(methods, list) and "client_secret_basic" not in methods and "client_secret_post" in methods:
            form |= {"client_id": self._client_id, "client_secret": self._client_secret}
        else:
            pair = f"{quote(self._client_id, safe='')}:{quote(self._client_secret, safe='')}"
            headers["authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
        return await self._ask("POST", document["token_endpoint"], form=form, headers=headers)

    def _verified(self, token: str, keys: KeySet) -> tuple[Mapping[str, Any], str]:
        """The claims of an ID token that one of these keys has signed, and by which algorithm."""
        try:
            decoded = jwt.decode(token, keys, registry=_REGISTRY)
        except (JoseError, ValueError, RecursionError) as error:
            raise IdentityRefusedError(f"the ID token does not hold: {type(error).__name__} {error}") from error
        return decoded.claims, str(decoded.header["alg"])

    def _check(self, claims: Mapping[str, Any], nonce: str) -> None:
        registry = jwt.JWTClaimsRegistry(
            now=self._clock.now_s(),
            leeway=LEEWAY_S,
            iss={"essential": True, "value": self._issuer},
            aud={"essential": True, "value": self._client_id},
            nonce={"essential": True},
            sub={"essential": True},
            exp={"essential": True},
            iat={"essential": True},
        )
        try:
            registry.validate(dict(claims))
        except (JoseError, ValueError) as error:
            raise IdentityRefusedError(f"the ID token is not for this sign-in: {error}") from error
        if claims["nonce"] != nonce:  # the library would also take a list with it
            raise IdentityRefusedError("the ID token is not for this sign-in: nonce")
        audience, party = claims["aud"], claims.get("azp")
        is_one_of_several = isinstance(audience, list) and len(audience) > 1
        if party != self._client_id and (is_one_of_several or party is not None):
            raise IdentityRefusedError("the ID token was made for another client")
        if not is_subject(claims["sub"]):
            raise IdentityRefusedError("the ID token's subject is none")

    # --- asking it ----------------------------------------------------------------------------------------------

    async def _ask(
        self,
        method: str,
        url: str,
        *,
        form: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Mapping[str, Any]:
        """The JSON object that it answers.

        Raises:
            IdentityProviderError: it does not answer, or something else.
            IdentityRefusedError: it does not know the code.
        """
        try:
            # No proxy of the environment, as for the broker's management API, and no cookie that is kept.
            async with (
                httpx.AsyncClient(verify=self._verify, trust_env=False, timeout=WHOLE_S) as client,
                client.stream(
                    method, url, data=form, headers={"accept-encoding": "identity", **(headers or {})}
                ) as response,
            ):
                body = bytearray()
                async for piece in response.aiter_raw():
                    body += piece
                    if len(body) > MAX_ANSWER_BYTES:
                        raise IdentityProviderError(f"{_short(url)} answers more than {MAX_ANSWER_BYTES} bytes")
                answer = orjson.loads(body) if response.status_code in {200, 400, 401} else None
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            raise IdentityProviderError(
                f"{_short(url)}: {type(error).__name__} {shown(str(error))}".rstrip()
            ) from error
        if response.status_code == 200 and isinstance(answer, dict):
            return answer
        said = shown(str(answer.get("error"))) if isinstance(answer, dict) else ""
        if said == "invalid_grant":
            raise IdentityRefusedError("the provider does not take the code")
        raise IdentityProviderError(f"{_short(url)} answers {response.status_code} {said}".rstrip())


def is_endpoint(url: object, *, like: str) -> bool:
    """Whether it is an https address; http only where the issuer is on this machine."""
    try:
        parts = urlsplit(url) if isinstance(url, str) else None
    except ValueError:
        return False
    schemes = {"https", urlsplit(like).scheme}
    return parts is not None and parts.scheme in schemes and bool(parts.hostname) and not parts.fragment


def _key_of(each: object) -> Key | None:
    """A public key that may sign, None where it is none."""
    if not isinstance(each, dict) or each.get("kty") not in KEY_TYPES or each.get("use", "sig") != "sig":
        return None
    if not isinstance(each.get("kid"), str | None):
        return None
    try:
        with warnings.catch_warnings(action="ignore"):  # of short keys, which are not taken anyway
            key = JWKRegistry.import_key(each)
    except (JoseError, ValueError, TypeError, KeyError):
        return None
    return None if isinstance(key, RSAKey) and key.public_key.key_size < MIN_RSA_BITS else key


def _has_key_of(keys: KeySet, token: str) -> bool:
    try:
        keys.get_by_kid(jws.extract_compact(token.encode(), registry=_REGISTRY).headers().get("kid"))
    except InvalidKeyIdError:
        return False
    except (JoseError, ValueError, RecursionError):
        pass  # verifying it says what is wrong
    return True


def _check_access_token(claims: Mapping[str, Any], access_token: object, algorithm: str) -> None:
    """Where the ID token names the access token beside it, it must be that one."""
    if (expected := claims.get("at_hash")) is None:
        return
    half = hashlib.new(ALGORITHMS[algorithm], str(access_token).encode()).digest()
    half = half[: len(half) // 2]
    given = str(expected).encode("utf-8", "replace")
    if not secrets.compare_digest(given, base64.urlsafe_b64encode(half).rstrip(b"=")):
        raise IdentityRefusedError("the ID token is about another access token")


def _short(url: str) -> str:
    """An address for the log, without what might be secret in it."""
    return shown(urlsplit(url)._replace(query="", fragment="").geturl())
