"""Patterns of command lines. They remind; they keep nobody out, since a shell line has endless spellings."""

from functools import lru_cache

from control_plane import globs


def fits(pattern: str, line: str) -> bool:
    """Whether a whole command line is as the pattern says, in which `*` is any text, and letters are of either case.

    Spaces and line ends are one space each. It looks for one piece after the other, so it takes no time that grows
    faster than the line.
    """
    return globs.fits(globs.pieces_of(_plain(pattern)), _plain(line))


@lru_cache(maxsize=64)
def _plain(text: str) -> str:
    return " ".join(text.casefold().split())
