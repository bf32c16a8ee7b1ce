"""Every place where a test may kill a program, as the source has them: nobody keeps a list."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PACKAGES = ("control_plane", "control_plane_agent", "control_plane_wire")


def every_point() -> dict[str, str]:
    """The name of each failpoint, in order, with the file that it is in."""
    return dict(sorted(point for package in PACKAGES for point in _of_package(ROOT / package)))


def _of_package(directory: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(directory.rglob("*.py")):
        text = path.read_text()
        if ".hit(" in text:
            for name in hits_in(text):
                yield name, str(path.relative_to(ROOT))


def hits_in(text: str) -> Iterator[str]:
    """The names that a module's calls of `….hit("name")` give; ValueError for a name that is no literal."""
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Call(func=ast.Attribute(attr="hit"), args=[ast.Constant(value=str(name))]):
                yield name
            case ast.Call(func=ast.Attribute(attr="hit")):
                raise ValueError(f"line {node.lineno}: a failpoint has a literal name")
