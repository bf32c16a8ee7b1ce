"""Patterns of command lines. They remind; they keep nobody out, since a shell line has endless spellings."""

from functools import lru_cache


def fits(pattern: str, line: str) -> bool:
    """Whether a whole command line is as the pattern says, in which `*` is any text, and letters are of either case.

    Spaces and line ends are one space each. It looks for one piece after the other, so it takes no time that grows
    faster than the line.
    """
    first, *rest = _plain(pattern).split("*")
    plain = _plain(line)
    if not rest:
        return plain == first
    *middle, last = rest
    if len(plain) < len(first) + len(last) or not plain.startswith(first) or not plain.endswith(last):
        return False
    at, end = len(first), len(plain) - len(last)
    for piece in middle:
        at = plain.find(piece, at, end)
        if at < 0:
            return False
        at += len(piece)
    return True


@lru_cache(maxsize=64)
def _plain(text: str) -> str:
    return " ".join(text.casefold().split())
