"""Inputs made of others, the same ones for the same seed: for where no fuzzer with coverage is installed."""

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

MAX_BYTES: Final = 64 * 1024  # of one input
CORPUS: Final = Path(__file__).with_name("corpus")
TOKENS: Final = (
    *(b"\0", b"\xff", b"\xc3\x28", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xef\xbb\xbf", b"\xe2\x80\xae", b"\x1b[2J"),
    *(b"{", b"}", b"[", b"]", b'"', b"\\", b":", b",", b"null", b"true", b"NaN", b"-Infinity", b"1e999", b"-0"),
    *(b"9007199254740993", b"18446744073709551616", b"1e-7", b"0.1", b"\\ud800", b"\\u0000", b'{"a":1,"a":2}'),
    *(
        b"../",
        b"/etc/passwd",
        b"%00",
        b"$(id)",
        b"'",
        b"\r\n",
        b"=",
        b"+",
        b"-",
        b".",
        b"e1.h1",
        b"2026-01-31T00:00:00Z",
    ),
    *(b"kind", b"task_id", b"hostname", b"sign", b"signature", b"key_id", b"timestamp", b"env", b"secrets"),
)


def corpus_of(name: str) -> list[bytes]:
    """The inputs that are kept for a target, in the order of their names."""
    return [path.read_bytes() for path in sorted((CORPUS / name).iterdir())] if (CORPUS / name).is_dir() else []


def mutated(corpus: Sequence[bytes], *, number: int, seed: int, most_bytes: int) -> Iterator[bytes]:
    """So many inputs: each one of the corpus, changed a few times."""
    chance = random.Random(seed)
    for _ in range(number):
        data = bytearray(chance.choice(corpus) if corpus else b"")
        for _ in range(chance.choice((1, 1, 2, 3, 8))):
            _change(data, corpus, chance)
        yield bytes(data[:most_bytes])


def _change(data: bytearray, corpus: Sequence[bytes], chance: random.Random) -> None:
    place = chance.randint(0, len(data))
    match chance.randrange(7):
        case 0 if data:
            data[place % len(data)] ^= 1 << chance.randrange(8)
        case 1 if data:
            data[place % len(data)] = chance.randrange(256)
        case 2:
            data[place:place] = chance.choice(TOKENS)
        case 3:
            del data[place : place + chance.choice((1, 1, 2, 4, 16, 256))]
        case 4:
            data[place:place] = data[place : place + chance.choice((1, 8, 64))] * chance.choice((1, 2, 16, 200))
        case 5 if corpus:
            other = chance.choice(corpus)
            start = chance.randint(0, len(other))
            data[place : place + chance.choice((0, 8))] = other[start : start + chance.choice((1, 8, 64, 512))]
        case _:
            data[place:place] = bytes(chance.randrange(256) for _ in range(chance.choice((1, 2, 8))))
