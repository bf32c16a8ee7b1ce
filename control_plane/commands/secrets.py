"""Secret environment values of a task: sealed at acceptance, opened for its messages and for those who may read them.

A sealed value is base64(AES-SIV(key, value)) with (purpose, task_id, name) as associated data, so it opens nowhere but
where it was put. AES-SIV takes no nonce: the same request again has the same bytes, and is the same task.
"""

from collections.abc import Iterable, Mapping
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV

from control_plane.errors import InvalidFieldError, RefusedError
from control_plane.events.tasks import TaskAccepted
from control_plane_wire.errors import MalformedMessageError, SignatureError
from control_plane_wire.fields import Fields
from control_plane_wire.signing import decode_base64, encode_base64
from control_plane_wire.strict_json import Json, JsonObject

FIELD: Final = "secrets"  # of a request
_PURPOSE: Final = b"control-plane task secret 1"


class Vault:
    """Seals and opens. Without a key it does neither, and says so.

    Both raise RefusedError `no_secrets_key`.
    """

    def __init__(self, key: bytes | None = None) -> None:
        self._cipher = None if key is None else AESSIV(key)

    def seal(self, task_id: str, values: Mapping[str, str]) -> dict[str, str]:
        """What a task's request holds of these values, by name."""
        cipher = self._needed()
        return {
            name: encode_base64(cipher.encrypt(value.encode(), _bound_to(task_id, name)))
            for name, value in values.items()
        }

    def open(self, task_id: str, sealed: Mapping[str, str]) -> dict[str, str]:
        """The values. Raises RefusedError `secret_unreadable` where one was sealed by another key, or for elsewhere."""
        return {name: self._opened(task_id, name, text) for name, text in sealed.items()}

    def withheld(self, task: TaskAccepted, hostnames: Iterable[str]) -> dict[str, str]:
        """The hosts that are told nothing of a task because its secrets cannot be opened, each with why; else none."""
        try:
            self.open(task.task_id, sealed_in(task.request))
        except RefusedError as error:
            return dict.fromkeys(hostnames, error.detail)
        return {}

    def _opened(self, task_id: str, name: str, sealed: str) -> str:
        cipher = self._needed()
        try:
            return cipher.decrypt(decode_base64(sealed), _bound_to(task_id, name)).decode()
        except (InvalidTag, SignatureError, ValueError) as error:
            detail = f"this control plane's secrets.key does not open the secret {name} of the task {task_id}"
            raise RefusedError("secret_unreadable", detail) from error

    def _needed(self) -> AESSIV:
        if self._cipher is None:
            raise RefusedError("no_secrets_key", "this control plane has no secrets.key; `control-plane init` makes it")
        return self._cipher


NO_VAULT: Final = Vault()


def _bound_to(task_id: str, name: str) -> list[bytes]:
    return [_PURPOSE, task_id.encode(), name.encode()]


def check_secrets(values: Mapping[str, str], env: Mapping[str, str] | None) -> None:
    """Raises InvalidFieldError where a name or a value is not what a variable's may be, or `env` has that name, too."""
    try:
        Fields({FIELD: dict(values)}).environment(FIELD)
    except MalformedMessageError as error:
        field, _, rule = error.reason.partition(" ")
        raise InvalidFieldError(field, rule) from error
    if twice := sorted(values.keys() & (env or {}).keys()):
        raise InvalidFieldError(f"{FIELD}.{twice[0]}", "is in env as well")


def sealed_in(request: Mapping[str, Json]) -> dict[str, str]:
    """The sealed values of a canonical request, by name."""
    sealed = request.get(FIELD)
    return {name: str(text) for name, text in sealed.items()} if isinstance(sealed, dict) else {}


def masked(request: Mapping[str, Json]) -> Mapping[str, Json]:
    """A canonical request for people: of its secrets, the names."""
    return {**request, FIELD: list[Json](sorted(sealed_in(request)))} if FIELD in request else request


def masked_event(body: JsonObject) -> JsonObject:
    """The same of the request in a decoded event; the event itself where there is nothing to mask."""
    request = body.get("request")
    return {**body, "request": dict(masked(request))} if isinstance(request, dict) and FIELD in request else body
