"""A small, real identity provider by OpenID Connect: it listens, and its keys are real; on demand it also lies."""

import asyncio
import base64
import hashlib
import json
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response
from joserfc import jws
from joserfc.jwa import JWSAlgModel
from joserfc.jwk import ECKey, OKPKey, RSAKey

from tests.support.certificates import Certificate
from tests.support.servers import wait_until

CLIENT_ID = "control-plane"
CLIENT_SECRET = "the secret of a client & more"
SUBJECT = "248289761001"
ALGORITHMS = ("RS256", "PS256", "ES256", "EdDSA")

Claims = dict[str, Any]


class AnyAlgorithm(jws.JWSRegistry):
    """Signs by whatever it is told, without a warning."""

    max_header_length = 4096

    def get_alg(self, name: str) -> JWSAlgModel:
        return self.algorithms[name]

    def check_header(self, header: dict[str, Any]) -> None:
        pass


def unsigned(header: dict[str, Any], claims: Claims) -> str:
    """The first two parts of a token."""
    return ".".join(_base64url(json.dumps(part).encode()) for part in (header, claims))


def keyed_hash(secret: bytes, text: str) -> str:
    """A token's third part as a shared secret makes it (RFC 2104), written out: nothing here may use the library's."""
    block = (hashlib.sha256(secret).digest() if len(secret) > 64 else secret).ljust(64, b"\0")
    inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in block) + text.encode()).digest()
    return _base64url(hashlib.sha256(bytes(byte ^ 0x5C for byte in block) + inner).digest())


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


@dataclass
class Provider:
    """What it is told to do differently takes effect at once.

    Attributes:
        subject: whom it signs in; without asking, unless it is told to.
        signed_in_at: when it asked last, in Unix seconds; `tells_when`: also who does not want to know.
        change: of the claims, before they are signed.
        forge: of a whole ID token, from the header and the claims; None: signed as it should be.
        header: more in the token's header.
        publish: of the document and the keys, before they are sent, by the last part of their path.
        asked: each path that was asked for.
    """

    url: str = ""
    subject: str = SUBJECT
    signed_in_at: int = 0
    tells_when: bool = False
    algorithm: str = "RS256"
    client_secret: str | None = CLIENT_SECRET
    change: Callable[[Claims], Claims] = lambda claims: claims
    forge: Callable[[dict[str, Any], Claims], str] | None = None
    header: dict[str, Any] = field(default_factory=dict)
    publish: dict[str, Callable[[dict[str, Any]], Any]] = field(default_factory=dict)
    answer: Callable[[str], Response | None] = lambda path: None
    asked: list[str] = field(default_factory=list)
    codes: dict[str, dict[str, str]] = field(default_factory=dict)
    keys: dict[str, Any] = field(default_factory=dict)
    kids: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.keys:
            self.rotate()

    def rotate(self) -> None:
        """New keys, and the old ones no more."""
        made: dict[str, Any] = {
            "RS256": RSAKey.generate_key(2048),
            "ES256": ECKey.generate_key("P-256"),
            "EdDSA": OKPKey.generate_key("Ed25519"),
        }
        made["PS256"] = RSAKey.generate_key(2048)
        self.keys = made
        self.kids = {name: secrets.token_hex(8) for name in made}

    def key_set(self) -> dict[str, Any]:
        keys = []
        for name, key in self.keys.items():
            keys.append({**key.as_dict(private=False), "kid": self.kids[name], "use": "sig", "alg": name})
        return {"keys": keys}

    def document(self) -> dict[str, Any]:
        return {
            "issuer": self.url,
            "authorization_endpoint": f"{self.url}/authorize",
            "token_endpoint": f"{self.url}/token",
            "jwks_uri": f"{self.url}/jwks",
            "response_types_supported": ["code"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": [*ALGORITHMS, "HS256", "none"],
            "token_endpoint_auth_methods_supported": ["client_secret_basic"],
        }

    def token(self, claims: Claims | list[Any], **header: Any) -> str:
        """An ID token, signed as it should be."""
        head = {"alg": self.algorithm, "typ": "JWT", "kid": self.kids[self.algorithm], **self.header, **header}
        if self.forge is not None:
            return self.forge(head, claims)
        return self.signed(head, json.dumps(claims))

    def signed(self, head: dict[str, Any], payload: str) -> str:
        registry = AnyAlgorithm(strict_check_header=False)
        return jws.serialize_compact(head, payload, self.keys[self.algorithm], registry=registry)

    def app(self) -> FastAPI:
        app = FastAPI()

        @app.middleware("http")
        async def instead(request: Request, call_next: Any) -> Response:
            self.asked.append(request.url.path)
            said = self.answer(request.url.path)
            return said if said is not None else await call_next(request)

        @app.get("/.well-known/openid-configuration")
        async def discovery() -> Any:
            return self.publish.get("document", lambda it: it)(self.document())

        @app.get("/jwks")
        async def jwks() -> Any:
            return self.publish.get("keys", lambda it: it)(self.key_set())

        @app.get("/authorize")
        async def authorize(request: Request) -> Response:
            asked = dict(request.query_params)
            assert (asked["response_type"], asked["client_id"]) == ("code", CLIENT_ID)
            assert asked["code_challenge_method"] == "S256"
            code = secrets.token_urlsafe(16)
            self.codes[code] = asked
            return RedirectResponse(f"{asked['redirect_uri']}?code={code}&state={asked['state']}&session_state=x", 302)

        @app.post("/token")
        async def token(request: Request) -> Response:
            form = dict(parse_qsl((await request.body()).decode()))
            if self.client_secret is None:
                known = form.get("client_id") == CLIENT_ID
            else:
                pair = f"{CLIENT_ID}:{self.client_secret.replace(' ', '%20').replace('&', '%26')}"
                known = request.headers.get("authorization") == f"Basic {base64.b64encode(pair.encode()).decode()}"
            if not known:
                return JSONResponse({"error": "invalid_client"}, 401)
            asked = self.codes.pop(form["code"], None)
            challenge = _base64url(hashlib.sha256(form["code_verifier"].encode()).digest())
            if asked is None or asked["redirect_uri"] != form["redirect_uri"] or asked["code_challenge"] != challenge:
                return JSONResponse({"error": "invalid_grant"}, 400)
            access_token = secrets.token_urlsafe(16)
            hashed = hashlib.new("sha512" if self.algorithm == "EdDSA" else "sha256", access_token.encode()).digest()
            now_s = int(time.time())
            claims = {
                "iss": self.url,
                "sub": self.subject,
                "aud": CLIENT_ID,
                "azp": CLIENT_ID,
                "exp": now_s + 300,
                "iat": now_s,
                "nonce": asked["nonce"],
                "at_hash": _base64url(hashed[: len(hashed) // 2]),
            }
            if asked.get("prompt") == "login" or now_s - self.signed_in_at > int(asked.get("max_age", now_s)):
                self.signed_in_at = now_s
            if self.tells_when or "max_age" in asked:
                claims["auth_time"] = self.signed_in_at
            signed = self.token(self.change(claims))
            return JSONResponse({"access_token": access_token, "token_type": "Bearer", "id_token": signed})

        return app


@contextmanager
def a_provider(certificate: Certificate | None = None) -> Iterator[Provider]:
    """A provider that answers, on a free port; by TLS where a certificate is given, and then to anybody."""
    provider = Provider(client_secret=CLIENT_SECRET if certificate is None else None)
    files = {} if certificate is None else {"ssl_certfile": certificate.certificate, "ssl_keyfile": certificate.key}
    with socket.create_server(("127.0.0.1", 0)) as listener:
        provider.url = f"http{'s' if files else ''}://127.0.0.1:{listener.getsockname()[1]}"
        config = uvicorn.Config(provider.app(), lifespan="off", log_config=None, access_log=False, **files)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])), daemon=True)
        thread.start()
        wait_until(lambda: server.started, timeout_s=10, what="the provider listens")
        try:
            yield provider
        finally:
            server.should_exit = True
            thread.join(10)
