"""Patterns in which `*` is any text. Time grows with the text alone, however many `*` there are."""


def fits(pieces: list[str], text: str) -> bool:
    """Whether a whole text is these pieces, in their order, with any text between them; see `pieces_of`."""
    first, *rest = pieces
    if not rest:
        return text == first
    *middle, last = rest
    if len(text) < len(first) + len(last) or not text.startswith(first) or not text.endswith(last):
        return False
    at, end = len(first), len(text) - len(last)
    for piece in middle:  # the first place of each leaves the most for the others
        at = text.find(piece, at, end)
        if at < 0:
            return False
        at += len(piece)
    return True


def pieces_of(pattern: str) -> list[str]:
    """What of a pattern has to be there."""
    return pattern.split("*")
