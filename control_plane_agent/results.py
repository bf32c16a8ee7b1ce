"""A result is a pure function of what the journal holds, so sending it again sends the same bytes."""

import base64
import hashlib
from typing import Final

from control_plane_agent.journal import DONE, LIVE, TOLD, Entry, Journal
from control_plane_agent.output import STREAMS, Output
from control_plane_agent.slots import Finished
from control_plane_wire.messages import AcceptedMessage, ResultMessage

DISK_FULL: Final = "disk full"
MAX_CUT_BYTES: Final = 3  # of a character, at either side of a cut
SHORT_BYTES: Final = 4096  # that escaping may add to what stays readable: coloured text is full of control characters

_ESCAPED: Final = bytes(code for code in range(32) if code not in b"\b\t\n\f\r")  # each takes six bytes in JSON


def result_of(journal: Journal, task_id: str) -> ResultMessage | None:
    """The result of a finished entry; None where it cannot be made as it was sent before, or is gone by now."""
    place = journal.find(task_id)
    if place in {None, "reserve", TOLD}:
        return None
    if place == LIVE and journal.is_reserved(task_id):  # found after all, and answered for already
        return refused_unjournalled(task_id, journal.timestamp(task_id))
    entry = journal.read(task_id)
    finished = entry.state.finished
    stdout, stderr = (journal.output(task_id, stream) for stream in STREAMS)
    error = stdout.error or stderr.error
    if finished is None or (error is not None and place != LIVE) or (entry.state.is_damaged and place == DONE):
        return None
    has_run = entry.state.started is not None
    on_boundaries = _on_boundaries(stdout), _on_boundaries(stderr)
    is_text = all(map(_is_plain, on_boundaries))
    if is_text:
        stdout, stderr = on_boundaries
    is_cut = has_run and (stdout.is_cut or stderr.is_cut)
    return ResultMessage(
        task_id=task_id,
        exit_code=finished.exit_code,
        stdout=_encoded(stdout, is_text=is_text),
        stderr=_encoded(stderr, is_text=is_text),
        timestamp=finished.finished_at,
        outcome=finished.outcome,
        reason=finished.reason if error is None else _and_lost(finished.reason, error),
        started_at=entry.state.started.started_at if entry.state.started else None,
        finished_at=finished.finished_at,
        command_sha256=hashlib.sha256(entry.body).hexdigest(),
        stdout_bytes=stdout.size if has_run else None,
        stderr_bytes=stderr.size if has_run else None,
        stdout_sha256=stdout.sha256 if has_run else None,
        stderr_sha256=stderr.sha256 if has_run else None,
        stdout_head_bytes=len(stdout.head) if has_run and stdout.is_cut else None,
        stderr_head_bytes=len(stderr.head) if has_run and stderr.is_cut else None,
        truncated=True if is_cut else None,
        encoding=None if is_text else "base64",
        leftovers=finished.leftovers,
    )


def accepted_of(entry: Entry, now_s: int) -> AcceptedMessage:
    """That it is journalled, or that it runs."""
    started = entry.state.started
    return AcceptedMessage(
        task_id=entry.task_id,
        timestamp=now_s if started is None else started.started_at,
        started_at=None if started is None else started.started_at,
        command_sha256=hashlib.sha256(entry.body).hexdigest(),
    )


def refused_unjournalled(task_id: str, timestamp: int) -> ResultMessage:
    """The answer where no entry could be made: the same for every copy, so nothing in it differs between them."""
    return ResultMessage(
        task_id=task_id,
        exit_code=None,
        stdout="",
        stderr="",
        timestamp=timestamp,
        outcome="rejected",
        reason=DISK_FULL,
        finished_at=timestamp,
    )


def never_run(outcome: str, reason: str, now_s: int) -> Finished:
    return Finished(outcome, now_s, reason=reason)


def _and_lost(reason: str | None, error: str) -> str:
    return "; ".join(filter(None, (reason, f"output lost: {error}")))


def _on_boundaries(output: Output) -> Output:
    """Where something is missing, cut between characters: half of one would make the whole text undecodable."""
    if not output.is_cut:
        return output
    return output._replace(head=_without_half_end(output.head), tail=_without_half_start(output.tail))


def _without_half_end(data: bytes) -> bytes:
    for back in range(1, min(MAX_CUT_BYTES, len(data)) + 1):
        byte = data[-back]
        if byte & 0b1100_0000 == 0b1000_0000:
            continue  # inside a character
        length = 4 if byte >= 0b1111_0000 else 3 if byte >= 0b1110_0000 else 2 if byte >= 0b1100_0000 else 1
        return data[:-back] if length > back else data
    return data


def _without_half_start(data: bytes) -> bytes:
    skipped = 0
    while skipped < min(MAX_CUT_BYTES, len(data)) and data[skipped] & 0b1100_0000 == 0b1000_0000:
        skipped += 1
    return data[skipped:]


def _is_plain(output: Output) -> bool:
    """Whether it is UTF-8, and no longer as JSON text than as base64, where that matters."""
    data = output.head + output.tail
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    controls = len(data) - len(data.translate(None, _ESCAPED))
    return controls * 5 <= max(len(data) // 3, SHORT_BYTES)


def _encoded(output: Output, *, is_text: bool) -> str:
    data = output.head + output.tail
    return data.decode() if is_text else base64.b64encode(data).decode()
