"""Previews: what a request would come to, and whether that still holds when it is made."""

import re
from dataclasses import dataclass
from typing import Final

from control_plane.commands.guard import Guard
from control_plane.commands.rules import Decision
from control_plane.commands.targets import FrozenList, in_words
from control_plane.errors import RefusedError

PREVIEW_S: Final = 300
_PREVIEW_ID: Final = re.compile(r"([0-9]{1,16})\.([0-9]{1,12})\.([0-9a-f]{64})", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """What a request would come to: the exact hosts, how carefully it is to be confirmed, and whether it is allowed."""

    preview_id: str
    frozen: FrozenList
    guard: Guard
    expires_at: int
    decision: Decision


@dataclass(frozen=True, slots=True, kw_only=True)
class PreviewId:
    """What a preview_id says. It needs no memory: the fleet's position in it tells who has joined or left since."""

    as_of: int
    expires_at: int
    hosts_sha256: str

    def __str__(self) -> str:
        return f"{self.as_of}.{self.expires_at}.{self.hosts_sha256}"

    @classmethod
    def parse(cls, text: str) -> "PreviewId":
        """Raises RefusedError `preview_expired`, as for any that must be made again."""
        match = _PREVIEW_ID.fullmatch(text)
        if match is None:
            raise RefusedError("preview_expired", "this is no preview_id; preview the target again")
        return cls(as_of=int(match[1]), expires_at=int(match[2]), hosts_sha256=match[3])


class TargetChangedError(RefusedError):
    """The target is no longer what was previewed: `joined` and `left`, where that can still be told."""

    def __init__(self, joined: tuple[str, ...], left: tuple[str, ...]) -> None:
        changes = [f"{len(names)} {what} ({in_words(names)})" for what, names in (("joined", joined), ("left", left))]
        said = " and ".join(change for change in changes if not change.startswith("0")) or "the target has changed"
        super().__init__("target_changed", f"since the preview {said}")
        self.joined = joined
        self.left = left


def preview(frozen: FrozenList, guard: Guard, *, now_s: int, decision: Decision) -> Preview:
    expires_at = now_s + PREVIEW_S
    preview_id = PreviewId(as_of=frozen.as_of, expires_at=expires_at, hosts_sha256=frozen.sha256)
    return Preview(preview_id=str(preview_id), frozen=frozen, guard=guard, expires_at=expires_at, decision=decision)


def check_preview(given: PreviewId, frozen: FrozenList, previewed: FrozenList | None, *, now_s: int) -> None:
    """Raises RefusedError unless the preview still holds for what the target is now.

    Args:
        previewed: the hosts as they were at the preview's position, to tell who has joined or left.
    """
    if given.expires_at < now_s:
        raise RefusedError("preview_expired", "the preview is too old; preview the target again")
    if given.hosts_sha256 != frozen.sha256:
        before = set(previewed.hosts) if previewed is not None else set(frozen.hosts)
        now = set(frozen.hosts)
        raise TargetChangedError(joined=tuple(sorted(now - before)), left=tuple(sorted(before - now)))
