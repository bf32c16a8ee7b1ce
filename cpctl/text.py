"""What hosts and people have written, made safe for a terminal; names, times and numbers as people read them."""

import re
import unicodedata
from collections.abc import Iterable
from typing import Final

# Colours (SGR), every other control sequence, strings such as titles and clipboards, and the remaining two-byte ones.
_ESCAPES: Final = re.compile(
    r"\x1b\[(?P<colour>[0-9;:]*)m|\x1b\[[0-?]*[ -/]*[@-~]|\x1b[\]PX^_][^\x07\x1b\n]*(?:\x07|\x1b\\)?|\x1b[ -/]*[0-~]"
)
_COLOURS: Final = frozenset({0, 1, 2, 4, 22, 24, *range(30, 38), 39, *range(90, 98)})
_FOREGROUND, _BACKGROUND = 38, 48  # of more colours than eight
_RESET: Final = "\x1b[0m"
# What is not seen as what it is. A variation selector makes an emoji, and a joiner a family of them.
_HIDDEN: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_KEPT: Final = frozenset("\t\n\u200d")
_NUMBERED: Final = re.compile(r"(.*?)(\d+)(\D*)", re.DOTALL)


def printable(text: str, *, colours: bool = False) -> str:
    """Text that moves no cursor, sets no title and deceives no eye; what would, becomes a mark as `<U+202E>`.

    Args:
        colours: keep the colours that it sets, and end them with it.
    """
    parts: list[str] = []
    has_colour = False
    place = 0
    for found in _ESCAPES.finditer(text := _settled(text)):
        parts.append(_marked(text[place : found.start()]))
        if colours and found["colour"] is not None:
            parts.append(_shown(found["colour"]))
            has_colour = True
        place = found.end()
    parts.append(_marked(text[place:]))
    return "".join(parts) + (_RESET if has_colour else "")


def _shown(codes: str) -> str:
    """The colours of the text among them: what hides it, or lays something behind it, is left out."""
    numbers = [int(code or 0) for code in re.split("[;:]", codes)]
    kept: list[int] = []
    while numbers:
        code = numbers.pop(0)
        if code in (_FOREGROUND, _BACKGROUND):  # one of 256 colours, or three bytes of one
            length = 2 if numbers[:1] == [5] else 4
            kept += [code, *numbers[:length]] if code == _FOREGROUND and len(numbers) >= length else []
            numbers = numbers[length:]
        elif code in _COLOURS:
            kept.append(code)
    return f"\x1b[{';'.join(map(str, kept))}m" if kept else ""


def line(text: object) -> str:
    """The same in one line and without colours, for a message or a cell of a table."""
    return _marked(str(text), kept=frozenset())


def _settled(text: str) -> str:
    """What stays of each line after its carriage returns."""
    if "\r" not in text:
        return text
    return "\n".join(one.rstrip("\r").rpartition("\r")[2] for one in text.split("\n"))


def _marked(text: str, kept: frozenset[str] = _KEPT) -> str:
    if text.isascii() and text.isprintable():
        return text
    return "".join(one if one in kept or not _is_hidden(one) else f"<U+{ord(one):04X}>" for one in text)


def _is_hidden(character: str) -> bool:
    return unicodedata.category(character) in _HIDDEN


def fold(hostnames: Iterable[str]) -> str:
    """`web[01-97],db1`: names folded where they differ in one number of one width."""
    groups: dict[tuple[str, str, int], list[str]] = {}
    for name in sorted(set(hostnames)):
        found = _NUMBERED.fullmatch(name)
        key = (found[1], found[3], len(found[2])) if found else (name, "", 0)
        groups.setdefault(key, []).append(found[2] if found else "")
    return ",".join(sorted(_folded(*key, numbers) for key, numbers in groups.items()))


def _folded(before: str, after: str, width: int, numbers: list[str]) -> str:
    if len(numbers) == 1:
        return before + numbers[0] + after
    ranges: list[list[int]] = []
    for number in map(int, sorted(numbers)):
        if ranges and ranges[-1][1] + 1 == number:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    shown = (f"{a:0{width}}" if a == b else f"{a:0{width}}-{b:0{width}}" for a, b in ranges)
    return f"{before}[{','.join(shown)}]{after}"


def plural(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def table(rows: Iterable[Iterable[object]], header: Iterable[str]) -> list[str]:
    """Lines with aligned columns; the last column is as wide as it is."""
    cells = [[line("" if cell is None else cell) for cell in row] for row in rows]
    cells.insert(0, list(header))
    widths = [max(map(width, column)) for column in zip(*cells, strict=True)]
    widths[-1] = 0
    return [
        "  ".join(cell + " " * (w - width(cell)) for cell, w in zip(row, widths, strict=True)).rstrip() for row in cells
    ]


def width(text: str) -> int:
    """How many columns of a terminal it takes."""
    if text.isascii():
        return len(text)
    wide = sum(unicodedata.east_asian_width(one) in "WF" for one in text)
    return len(text) + wide - sum(unicodedata.combining(one) > 0 for one in text)
