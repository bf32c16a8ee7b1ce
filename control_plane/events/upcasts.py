"""Bodies of old versions become bodies of the next one, step by step, so that folds know only the newest.

What is stored and signed never changes: an upcast is of the decoded copy.
"""

from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

from control_plane_wire.strict_json import JsonObject

Upcast: TypeAlias = Callable[[JsonObject], JsonObject]

# (kind, version): what makes the next version of it. Empty as long as every kind is at its first.
UPCASTS: Final[Mapping[tuple[str, int], Upcast]] = {}


def upcast(
    kind: str, version: int, body: JsonObject, *, steps: Mapping[tuple[str, int], Upcast] = UPCASTS
) -> tuple[int, JsonObject]:
    """The newest version that the steps lead to, and the body in its form."""
    while (step := steps.get((kind, version))) is not None:
        version, body = version + 1, step(body)
    return version, body
