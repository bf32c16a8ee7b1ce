"""What an authenticator gives, read strictly before anything else reads it: CBOR (RFC 8949) without its traps.

General CBOR lets a few hundred bytes refer to one another so that a reader works for as long as the universe stands.
None of that belongs into these messages (CTAP 2 has its canonical form for them), so it is refused here: tags, lengths
that are not said, floats, keys that are neither numbers nor texts, the same key twice, more than four levels.
"""

from typing import Final, TypeAlias

MAX_BYTES: Final = 16 * 1024
MAX_DEPTH: Final = 4

USER_DATA: Final = 37  # bytes: whose page, the flags, the count; all that an assertion has
AT_FLAGS: Final = 32
ATTESTED, EXTENDED = 0x40, 0x80
MODEL_BYTES: Final = 16

Cbor: TypeAlias = "int | bytes | str | list[Cbor] | dict[int | str, Cbor]"


def check_registration(attestation: bytes) -> None:
    """Raises ValueError unless this is an attestation object with one public key in it, and no extension."""
    whole = parse(attestation)
    data = whole.get("authData") if isinstance(whole, dict) else None
    if not isinstance(data, bytes) or len(data) < USER_DATA + MODEL_BYTES + 2:
        raise ValueError("no authenticator data, or not enough")
    if data[AT_FLAGS] & (ATTESTED | EXTENDED) != ATTESTED:
        raise ValueError("the authenticator data has an extension, or no public key")
    id_at = USER_DATA + MODEL_BYTES + 2
    key_at = id_at + int.from_bytes(data[id_at - 2 : id_at], "big")
    is_a_map = isinstance(parse(data[key_at:]), dict)
    if not is_a_map:
        raise ValueError("the public key is none")


def check_assertion(data: bytes) -> None:
    """Raises ValueError unless this is authenticator data without a public key and without extensions."""
    if len(data) != USER_DATA or data[AT_FLAGS] & (ATTESTED | EXTENDED):
        raise ValueError("the authenticator data has more in it than was asked for, or less")


def parse(data: bytes) -> Cbor:
    """The one value that this is. Raises ValueError."""
    if len(data) > MAX_BYTES:
        raise ValueError(f"more than {MAX_BYTES} bytes")
    reader = _Reader(data)
    value = reader.value(MAX_DEPTH)
    if reader.at != len(data):
        raise ValueError("something is left over")
    return value


class _Reader:
    """Reads each byte once: whatever a head promises, it has to be there."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.at = 0

    def value(self, depth: int) -> Cbor:
        if depth == 0:
            raise ValueError(f"more than {MAX_DEPTH} levels")
        kind, number = self._head()
        match kind:
            case 0:
                return number
            case 1:
                return -1 - number
            case 2:
                return self._take(number)
            case 3:
                return self._take(number).decode()
            case 4:
                return [self.value(depth - 1) for _ in range(self._count(number))]
            case 5:
                return self._map(self._count(number), depth - 1)
        raise ValueError("a tag, a float or a simple value")

    def _map(self, count: int, depth: int) -> Cbor:
        found: dict[int | str, Cbor] = {}
        for _ in range(count):
            key = self.value(1)  # a list or a map would be a level too deep
            if not isinstance(key, int | str) or key in found:
                raise ValueError("a key that is neither a number nor a text, or is there twice")
            found[key] = self.value(depth)
        return found

    def _head(self) -> tuple[int, int]:
        """The major type, and the number that goes with it."""
        first = self._take(1)[0]
        kind, short = first >> 5, first & 0x1F
        if short < 24:
            return kind, short
        if short > 27:
            raise ValueError("a length that is not said")
        return kind, int.from_bytes(self._take(1 << (short - 24)), "big")

    def _count(self, number: int) -> int:
        if number > len(self._data) - self.at:  # each takes a byte at least
            raise ValueError("it ends too early")
        return number

    def _take(self, number: int) -> bytes:
        if number > len(self._data) - self.at:
            raise ValueError("it ends too early")
        taken = self._data[self.at : self.at + number]
        self.at += number
        return taken
