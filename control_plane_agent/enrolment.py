"""Makes this host known to the control plane: a key of its own, a single-use token, a proof that it has the key."""

import hashlib
import http.client
import ipaddress
import json
import socket
import urllib.error
import urllib.request
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from control_plane_agent import identity as identities
from control_plane_agent.disk import RealDisk
from control_plane_agent.errors import ConfigurationError, EnrolmentError
from control_plane_agent.identity import Identity
from control_plane_agent.settings import is_address
from control_plane_wire import strict_json
from control_plane_wire.errors import WireError
from control_plane_wire.fields import Fields
from control_plane_wire.messages import MAX_KEYS
from control_plane_wire.signing import CONTROL_PLANE, ENROL, SigningKey, decode_public_key, encode_base64, key_id
from control_plane_wire.strict_json import JsonObject
from control_plane_wire.topology import is_name

TIMEOUT_S: Final = 20
MAX_ANSWER_BYTES: Final = 1024 * 1024


class Server:
    """The control plane's HTTP API, as far as an agent needs it. Raises ConfigurationError for what is no address.

    Attributes:
        is_exposed: whether what is said to it, and what it says, crosses a network unencrypted.
    """

    def __init__(self, url: str, *, token: str | None = None) -> None:
        if not is_address(url, schemes={"http", "https"}):
            raise ConfigurationError(f"{url} is no http or https address")
        self.is_exposed = urlsplit(url).scheme == "http" and not _is_loopback(urlsplit(url).hostname or "")
        self._url = url.rstrip("/")
        self._headers = {"Content-Type": "application/json"}
        if token:
            self._headers["Authorization"] = f"Bearer {token}"

    def post(self, path: str, body: JsonObject) -> JsonObject:
        return self._call("POST", path, strict_json.canonical(body))

    def get(self, path: str) -> JsonObject:
        return self._call("GET", path, None)

    def _call(self, method: str, path: str, data: bytes | None) -> JsonObject:
        """Raises EnrolmentError with what the server says."""
        request = urllib.request.Request(  # noqa: S310 - http and https only, checked above
            f"{self._url}/api/v1{path}", data=data, headers=self._headers, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310
                return strict_json.parse(answer.read(MAX_ANSWER_BYTES), max_bytes=MAX_ANSWER_BYTES)
        except urllib.error.HTTPError as error:
            raise EnrolmentError(f"refused: {_detail(error)}") from error
        except (urllib.error.URLError, OSError, UnicodeError) as error:  # the last one for what can be no host's name
            raise EnrolmentError(f"cannot reach {self._url}: {getattr(error, 'reason', error)}") from error
        except http.client.HTTPException as error:
            raise EnrolmentError(f"{self._url} does not answer like a control plane: no HTTP") from error
        except WireError as error:
            raise EnrolmentError(f"{self._url} does not answer like a control plane: {error}") from error


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _detail(error: urllib.error.HTTPError) -> str:
    try:
        problem = json.loads(error.read(65_536))
        return str(problem.get("detail") or problem.get("title") or error.reason)
    except (ValueError, AttributeError, OSError, http.client.HTTPException):
        return str(error.reason)


def enrol(state_dir: Path, server: Server, token: str, hostname: str | None) -> Identity:
    """Enrol this host and write its identity down. The same again, after a lost answer, is safe.

    Raises:
        EnrolmentError: refused, or not reached; the text says what to do.
    """
    name = (hostname or socket.getfqdn()).lower()
    if not is_name(name):
        raise EnrolmentError(f"{name} is no hostname of the protocol; give one with --hostname")
    key = identities.create_key(state_dir)
    who: JsonObject = {"hostname": name, "public_key": encode_base64(key.public_key), "token": token}
    nonce = Fields(server.post("/enrol/begin", who)).text("nonce", most_bytes=1024)
    answer = server.post("/enrol/finish", {**who, "nonce": nonce, "proof": _proof(key, name, token, nonce)})
    identity = _identity(answer, key)
    identities.save(RealDisk(str(state_dir)), identity)
    return identity


def _proof(key: SigningKey, hostname: str, token: str, nonce: str) -> str:
    body = strict_json.canonical(
        {
            "hostname": hostname,
            "nonce": nonce,
            "public_key": encode_base64(key.public_key),
            "token_sha256": hashlib.sha256(token.encode()).hexdigest(),
        }
    )
    return encode_base64(key.sign(ENROL, sender=hostname, recipient=CONTROL_PLANE, body=body))


def _identity(answer: JsonObject, key: SigningKey) -> Identity:
    read = Fields(answer)
    groups = read.object("groups")
    return Identity(
        hostname=read.hostname(),
        key=key,
        keys=trusted_keys(read),
        groups={group: Fields(groups).integer(group) for group in groups},
        enrolled_as_of=read.integer("as_of"),
        amqp_url=read.optional("amqp_url", lambda name: read.text(name, most_bytes=4096)) or "",
        announced=read.optional("next_key_sha256", read.digest),
    )


def trusted_keys(read: Fields, name: str = "keys") -> dict[str, bytes]:
    """The control plane's active keys, by key_id, the oldest first."""
    found = {}
    for key in read.objects(name, most=MAX_KEYS):
        if key.text("state", most_bytes=16) == "active":
            public_key = key.decoded("public_key", decode_public_key)
            found[key_id(public_key)] = public_key
    if not found:
        raise EnrolmentError("the control plane has named no key of its own")
    return found
