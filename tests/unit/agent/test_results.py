"""A result says what was kept, the same each time."""

import base64
import errno
import hashlib

import pytest

from control_plane_agent.journal import Journal
from control_plane_agent.memory_disk import MemoryDisk
from control_plane_agent.output import HEAD_BYTES, TAIL_BYTES
from control_plane_agent.results import result_of
from control_plane_agent.slots import FINISHED_AT, Finished, encode
from control_plane_wire.messages import ResultMessage, parse_result
from tests.support.agent import START_S, a_command, accept, sealed, started
from tests.support.clock import ManualClock


def result(stdout: bytes = b"", *, size: int | None = None, outcome: str = "completed") -> ResultMessage:
    """The result of a command whose supervisor kept `stdout` of `size` bytes in all."""
    disk = MemoryDisk()
    journal = Journal(disk, ManualClock())
    accept(journal)
    if stdout:
        disk.create("journal/task-1/stdout.head", stdout[:HEAD_BYTES])
    if stdout[HEAD_BYTES:]:
        disk.create("journal/task-1/stdout.tail", stdout[HEAD_BYTES:])
    finished = Finished(
        outcome,
        START_S + 2,
        exit_code=0,
        stdout_bytes=len(stdout) if size is None else size,
        stderr_bytes=0,
        stdout_sha256=hashlib.sha256(stdout).hexdigest(),
    )
    disk.write_at("journal/task-1/state", 0, encode(started()))
    disk.write_at("journal/task-1/state", FINISHED_AT, encode(finished))
    assert result_of(journal, "task-1") == result_of(journal, "task-1")
    made = result_of(journal, "task-1")
    assert made is not None
    assert parse_result(made.to_json()) == made
    return made


def test_a_whole_output_is_said_as_it_is() -> None:
    made = result("héllo\n".encode())

    assert (made.stdout, made.stdout_bytes, made.truncated, made.encoding) == ("héllo\n", 7, None, None)
    assert made.command_sha256 == hashlib.sha256(sealed(a_command())).hexdigest()
    assert (made.started_at, made.finished_at) == (START_S, START_S + 2)


def test_bytes_that_are_no_text_travel_as_base64() -> None:
    assert (result(b"\xff\xfe").stdout, result(b"\xff\xfe").encoding) == ("//4=", "base64")
    assert result(b"\x00" * 10_000).encoding == "base64", "in JSON each would take six bytes"
    assert result(b"\x1b[31mred\x1b[0m").encoding is None


def test_a_cut_falls_between_characters() -> None:
    euro = "€".encode()
    head = b"x" * (HEAD_BYTES - 1) + euro[:1]
    tail = euro[1:] + b"y" * (TAIL_BYTES - 2)

    made = result(head + tail, size=10 * HEAD_BYTES + 3 * TAIL_BYTES)

    assert made.truncated
    assert made.encoding is None
    assert made.stdout_head_bytes == HEAD_BYTES - 1
    assert "\ufffd" not in made.stdout


def test_head_and_ring_are_put_in_order() -> None:
    size = HEAD_BYTES + TAIL_BYTES + 5
    ring = b"67890" + b"a" * (TAIL_BYTES - 5)

    made = result(b"h" * HEAD_BYTES + ring, size=size)

    assert made.stdout.endswith("a67890")
    assert made.stdout_bytes == size


def test_of_an_output_whose_end_cannot_be_read_the_beginning_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    read = MemoryDisk.read

    def fails(disk: MemoryDisk, path: str) -> bytes:
        if path.endswith("stdout.tail"):
            raise OSError(errno.EIO, "Input/output error")
        return read(disk, path)

    monkeypatch.setattr(MemoryDisk, "read", fails)

    made = result(b"h" * HEAD_BYTES + b"tail")

    assert (made.stdout, made.stdout_head_bytes, made.truncated) == ("h" * HEAD_BYTES, HEAD_BYTES, True)
    assert made.reason == "output lost: Input/output error"


def test_bytes_that_are_no_text_are_cut_where_they_are_kept() -> None:
    kept = b"\xff" * (HEAD_BYTES + TAIL_BYTES)
    made = result(kept, size=HEAD_BYTES + TAIL_BYTES + 1)

    assert (base64.b64decode(made.stdout), made.stdout_head_bytes) == (kept, HEAD_BYTES)
