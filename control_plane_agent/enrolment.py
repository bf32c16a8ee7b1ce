"""Makes this host known to the control plane: a key of its own, a proof that it has it, and a single-use token.

Without a token it waits until somebody has compared the key's fingerprint.
"""

import hashlib
import http.client
import ipaddress
import json
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from control_plane_agent import identity as identities
from control_plane_agent.disk import RealDisk
from control_plane_agent.errors import ConfigurationError, EnrolmentError, NotNowError, TooFastError
from control_plane_agent.identity import Identity
from control_plane_agent.settings import is_address
from control_plane_wire import proofs, strict_json
from control_plane_wire.backoff import Backoff
from control_plane_wire.errors import WireError
from control_plane_wire.fields import Fields
from control_plane_wire.messages import MAX_KEYS
from control_plane_wire.signing import CONTROL_PLANE, ENROL, SigningKey, decode_public_key, encode_base64, key_id
from control_plane_wire.strict_json import JsonObject
from control_plane_wire.topology import is_name

TIMEOUT_S: Final = 20
MAX_ANSWER_BYTES: Final = 1024 * 1024
NOT_NOW: Final = frozenset({429, 502, 503, 504})
POLL_S: Final = 5.0  # and later, when nobody sits there and waits:
SELDOM_S: Final = 15.0
SELDOM_AFTER_S: Final = 120.0
TELL_S: Final = 60.0
CROWDED_S: Final = 5.0  # the bound of the first wait beyond what the server says, which doubles
MOST_CROWDED_S: Final = 60.0


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
        """Raises EnrolmentError with what the server says, NotNowError where it may say otherwise later."""
        request = urllib.request.Request(  # noqa: S310 - http and https only, checked above
            f"{self._url}/api/v1{path}", data=data, headers=self._headers, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310
                return strict_json.parse(answer.read(MAX_ANSWER_BYTES), max_bytes=MAX_ANSWER_BYTES)
        except urllib.error.HTTPError as error:
            wait = error.headers.get("Retry-After", "")
            if error.code == HTTPStatus.TOO_MANY_REQUESTS and wait.isdecimal():
                raise TooFastError(f"refused: {_detail(error)}", float(wait[:4])) from error
            is_for_now = error.code in NOT_NOW
            raise (NotNowError if is_for_now else EnrolmentError)(f"refused: {_detail(error)}") from error
        except (urllib.error.URLError, OSError, UnicodeError) as error:  # the last one for what can be no host's name
            raise NotNowError(f"cannot reach {self._url}: {getattr(error, 'reason', error)}") from error
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
    name = _name(hostname)
    key = identities.create_key(state_dir)
    who: JsonObject = {"hostname": name, "public_key": encode_base64(key.public_key), "token": token}
    nonce = Fields(server.post("/enrol/begin", who)).text("nonce", most_bytes=1024)
    answer = server.post("/enrol/finish", {**who, "nonce": nonce, "proof": _proof(key, name, token, nonce)})
    return _saved(state_dir, _identity(answer, key))


def request(
    state_dir: Path,
    server: Server,
    hostname: str | None,
    *,
    wait_s: float,
    tell: Callable[[str], None],
    sleep: Callable[[float], None] = time.sleep,
) -> Identity:
    """Ask to be let in without a token, and wait until somebody has accepted this host by its fingerprint.

    Args:
        tell: takes a line of progress, for people.

    Raises:
        EnrolmentError: refused, or not reached, or nobody has decided in time; the same again goes on waiting.
    """
    name = _name(hostname)
    key = identities.create_key(state_dir)
    tell(f"{name} asks to be let in. Its fingerprint, to be compared by whoever accepts it:")
    tell(f"    {proofs.in_groups(proofs.fingerprint(key.public_key))}")
    waited_s = told_s = 0.0
    has_asked = False
    backoff = Backoff(CROWDED_S, MOST_CROWDED_S)
    while True:
        crowded_s = 0.0
        try:
            answer = _ask(server, name, key)
        except TooFastError as error:  # of this host, or of all that are behind one address
            crowded_s = error.wait_s + backoff.next_s()
            tell(f"{error}; it is asked again in {crowded_s:.0f} s")
        except NotNowError as error:
            if not has_asked:
                raise
            tell(str(error))
        else:
            has_asked = True
            backoff.reset()
            if "fingerprint" not in answer:
                return _saved(state_dir, _identity(answer, key))
        if waited_s >= wait_s:
            raise EnrolmentError(f"nobody has accepted {name} within {wait_s:g} s; the same again goes on waiting")
        if waited_s == 0 or waited_s - told_s >= TELL_S:
            told_s = waited_s
            tell(f"waiting to be accepted, for {(wait_s - waited_s) / 60:.0f} more minutes")
        pause_s = min(max(POLL_S if waited_s < SELDOM_AFTER_S else SELDOM_S, crowded_s), wait_s - waited_s)
        sleep(pause_s)
        waited_s += pause_s


def _ask(server: Server, name: str, key: SigningKey) -> JsonObject:
    who: JsonObject = {"hostname": name, "public_key": encode_base64(key.public_key)}
    nonce = Fields(server.post("/enrol/begin", who)).text("nonce", most_bytes=1024)
    body = proofs.of_request(name, key.public_key, nonce)
    proof = encode_base64(key.sign(ENROL, sender=name, recipient=CONTROL_PLANE, body=body))
    return server.post("/enrol/request", {**who, "nonce": nonce, "proof": proof})


def _name(hostname: str | None) -> str:
    name = (hostname or socket.getfqdn()).lower()
    if not is_name(name):
        raise EnrolmentError(f"{name} is no hostname of the protocol; give one with --hostname")
    return name


def _saved(state_dir: Path, identity: Identity) -> Identity:
    disk = RealDisk(str(state_dir))
    try:
        identities.save(disk, identity)
    finally:
        disk.close()
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
