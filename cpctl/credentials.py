"""Where the server is and who asks: what `cpctl login` has kept, the environment, or a `control-plane dev` here."""

import ipaddress
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from cpctl.errors import NOT_ALLOWED, CpctlError
from cpctl.text import line

DEV: Final = Path(".control-plane", "dev.json")


@dataclass(frozen=True, slots=True)
class Credentials:
    """Attributes: `ca_file`: certificates to trust in place of the machine's. `token_id`: of one that login made."""

    url: str
    token: str = field(repr=False)
    ca_file: str | None = None
    token_id: str | None = None


def kept_at(environment: Mapping[str, str]) -> Path:
    """The file of `cpctl login`."""
    home = environment.get("XDG_CONFIG_HOME") or Path(environment.get("HOME") or Path.home(), ".config")
    return Path(home, "cpctl", "credentials.json")


def find(environment: Mapping[str, str], *, ca_file: str | None = None) -> Credentials:
    """CPCTL_URL with CPCTL_TOKEN, or else the file of `cpctl login`, or else the dev.json of this directory.

    Raises:
        CpctlError: there is none, or it is none.
    """
    url, token = environment.get("CPCTL_URL"), environment.get("CPCTL_TOKEN")
    if bool(url) != bool(token):
        raise CpctlError("CPCTL_URL and CPCTL_TOKEN go together: one of them is not set")
    if url and token:
        return Credentials(checked_url(url), token, ca_file or environment.get("CPCTL_CA_FILE"))
    state_dir = environment.get("CONTROL_PLANE_STATE_DIR")
    for path in (kept_at(environment), Path(state_dir, "dev.json") if state_dir else DEV):
        if (found := read(path)) is not None:
            return Credentials(found.url, found.token, ca_file or found.ca_file, found.token_id)
    raise CpctlError("not signed in: cpctl login URL, or CPCTL_URL and CPCTL_TOKEN", NOT_ALLOWED)


def read(path: Path) -> Credentials | None:
    """None where there is no such file. Raises CpctlError: it is none of ours."""
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise CpctlError(f"{path}: {error}") from error
    if not isinstance(found, dict) or not all(isinstance(found.get(name), str) for name in ("url", "token")):
        raise CpctlError(f"{path}: has no url and token; cpctl login writes it anew")
    rest = [found.get(name) for name in ("ca_file", "token_id")]
    if not all(value is None or isinstance(value, str) for value in rest):
        raise CpctlError(f"{path}: ca_file and token_id are text; cpctl login writes it anew")
    return Credentials(checked_url(found["url"]), found["token"], *rest)


def keep(path: Path, credentials: Credentials) -> None:
    """Write the file anew, for its owner alone. Raises CpctlError: it cannot be written."""
    try:
        _write(path, credentials)
    except OSError as error:
        raise CpctlError(f"{path}: {error.strerror or error}") from error


def _write(path: Path, credentials: Credentials) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    new.unlink(missing_ok=True)
    file = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(file, "w") as out:
        json.dump(asdict(credentials), out, indent=2)
    new.replace(path)


def checked_url(text: str) -> str:
    """The address of a server, without a path. Raises CpctlError: it is none, or sends tokens in the clear."""
    try:
        parts = urlsplit(text if "://" in text else f"https://{text}")
        is_one = parts.scheme in ("https", "http") and parts.hostname and parts.port != 0
    except ValueError:
        is_one = False
    if not is_one or parts.username is not None or parts.query or parts.fragment:
        raise CpctlError(f"{line(text)}: not the address of a server, as https://control.example.com")
    if parts.path.strip("/"):
        raise CpctlError(f"{text}: the address of a server has no path")
    if parts.scheme == "http" and not _is_loopback(parts.hostname or ""):
        raise CpctlError(f"{text}: a token goes over https only, but for this machine's own addresses")
    # As a browser writes it: the server compares the Origin to the letter.
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    is_default = parts.port in (None, {"https": 443, "http": 80}[parts.scheme])
    return f"{parts.scheme}://{host}" + ("" if is_default else f":{parts.port}")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
