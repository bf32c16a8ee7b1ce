"""A sign-in at the identity provider: what the browser keeps of it meanwhile, and what follows from that."""

import base64
import hashlib
import secrets
from dataclasses import dataclass
from typing import Final

from control_plane.commands.access import RECENT_S
from control_plane.commands.grammar import shown
from control_plane.commands.passwords import digest
from control_plane.errors import IdentityRefusedError

TRANSACTION_S: Final = 600
AGAIN: Final = ".again"
AHEAD_S: Final = 60  # so much a provider's clock may be


@dataclass(frozen=True, slots=True)
class Proved:
    """Attributes: `subject`: whom the provider knows; `signed_in_at`: when, in Unix seconds; None: it does not say."""

    subject: str
    signed_in_at: int | None = None


def signed_in_at(transaction: "Transaction", proved: Proved, now_s: int) -> int:
    """How old the new session is at its beginning: as old as the provider's own, but for what makes no difference.

    A provider that knows somebody from this morning asks nothing and sends the browser back; so that is no sign-in of
    a moment ago, and neither is one that it does not tell the time of.

    Raises:
        IdentityRefusedError: it was to ask again, and has not, or does not say so; or says what cannot be.
    """
    too_old = now_s - RECENT_S - 1
    at = proved.signed_in_at
    if at is not None and at > now_s + AHEAD_S:
        raise IdentityRefusedError("the provider says that it signed in later than now")
    if transaction.is_again and (at is None or at <= too_old):
        raise IdentityRefusedError("the provider was to ask who it is again, and does not say that it has (auth_time)")
    return too_old if at is None else min(max(at, too_old), now_s)


@dataclass(frozen=True, slots=True)
class Transaction:
    """A sign-in under way. Nobody but the browser remembers it, and all that is sent elsewhere is hashes of it.

    Attributes:
        text: when it ends, in Unix seconds, and 256 random bits; then `.again` where somebody is to sign in anew there.
    """

    text: str

    @classmethod
    def begun(cls, now_s: int, *, again: bool = False) -> "Transaction":
        return cls(f"{now_s + TRANSACTION_S}.{secrets.token_urlsafe(32)}{AGAIN if again else ''}")

    @property
    def is_again(self) -> bool:
        """Whether the provider was told to ask once more who it is."""
        return self.text.endswith(AGAIN)

    @property
    def state(self) -> str:
        """Comes back with the browser, so that nobody else's sign-in can be slipped into it."""
        return digest(f"state {self.text}")

    @property
    def nonce(self) -> str:
        """Is signed by the provider, so that nobody else's ID token can."""
        return digest(f"nonce {self.text}")

    @property
    def verifier(self) -> str:
        """Goes to the provider directly, so that a stolen code is of no use (PKCE)."""
        return digest(f"verifier {self.text}")

    @property
    def code_challenge(self) -> str:
        return base64.urlsafe_b64encode(hashlib.sha256(self.verifier.encode()).digest()).decode().rstrip("=")

    def has_ended(self, now_s: int) -> bool:
        until, _, _ = self.text.partition(".")
        return not (
            until.isascii() and until.isdigit() and len(until) < 16 and now_s <= int(until) <= now_s + TRANSACTION_S
        )


def check_returned(
    transaction: Transaction | None,
    *,
    state: str,
    code: str | None,
    error: str | None,
    issuer: str | None,
    ours: str,
    now_s: int,
) -> tuple[Transaction, str]:
    """The transaction that a browser comes back to, and the code that it brings.

    Args:
        issuer: who sends it back, where that is told (RFC 9207); `ours`: who should.

    Raises:
        IdentityRefusedError: it does not come back from what was begun in it.
    """
    if transaction is None:
        raise IdentityRefusedError("no sign-in was begun in this browser, or it has taken too long")
    if not secrets.compare_digest(transaction.state.encode(), state.encode("utf-8", "replace")):
        raise IdentityRefusedError("it comes back from another sign-in than was begun in this browser")
    if transaction.has_ended(now_s):
        raise IdentityRefusedError("the sign-in has taken too long")
    if issuer is not None and issuer != ours:
        raise IdentityRefusedError("it comes back from another provider")
    if error is not None or not code:
        raise IdentityRefusedError(f"the provider says: {shown(error or 'no code')}")
    return transaction, code
