"""A piece of what a running command prints: a preview that may be missed, since the result carries the whole.

{"task_id": …, "hostname": …, "stream": "stdout", "offset": 4711, "data": "…", "timestamp": …, "signature": …}
"""

import base64
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from control_plane_wire.fields import Fields
from control_plane_wire.messages import ENCODINGS, MAX_OUTPUT_BYTES
from control_plane_wire.signing import decode_base64, encode_base64
from control_plane_wire.strict_json import JsonObject

MAX_PIECE_BYTES: Final = 64 * 1024  # that our own agent sends; others may fill MAX_OUTPUT_BYTES

StreamName: TypeAlias = Literal["stdout", "stderr"]
STREAMS: Final[tuple[StreamName, ...]] = ("stdout", "stderr")

_ESCAPED: Final = bytes(code for code in range(32) if code not in b"\b\t\n\f\r")  # each takes six bytes in JSON


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputMessage:
    """Bytes of one stream of one execution.

    Attributes:
        offset: how many bytes of the stream come before it. What lies between two pieces was not sent.
        data: text, or base64 where `encoding` says so.
        encoding: None is "utf-8".
    """

    task_id: str
    hostname: str
    stream: StreamName
    offset: int
    data: str
    timestamp: int
    encoding: str | None = None

    @classmethod
    def of(
        cls, data: bytes, *, task_id: str, hostname: str, stream: StreamName, offset: int, timestamp: int
    ) -> "OutputMessage":
        """A piece of these bytes, as text where that is what they are and where it is no longer than base64."""
        is_text = _is_text(data)
        return cls(
            task_id=task_id,
            hostname=hostname,
            stream=stream,
            offset=offset,
            data=data.decode() if is_text else encode_base64(data),
            timestamp=timestamp,
            encoding=None if is_text else "base64",
        )

    @property
    def raw(self) -> bytes:
        """The bytes that were printed."""
        return base64.b64decode(self.data) if self.encoding == "base64" else self.data.encode()

    def to_json(self) -> JsonObject:
        message: JsonObject = {"task_id": self.task_id, "hostname": self.hostname, "stream": self.stream}
        message |= {"offset": self.offset, "data": self.data, "timestamp": self.timestamp}
        return message if self.encoding is None else {**message, "encoding": self.encoding}


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return (len(data) - len(data.translate(None, _ESCAPED))) * 5 <= len(data) // 3


def parse_output(message: JsonObject) -> OutputMessage:
    """A piece of output.

    Raises:
        MalformedMessageError: a field is wrong.
    """
    read = Fields(message)
    encoding = read.optional("encoding", lambda name: read.one_of(name, ENCODINGS))
    if encoding == "base64":
        read.decoded("data", decode_base64, most_bytes=MAX_OUTPUT_BYTES)
    return OutputMessage(
        task_id=read.task_id(),
        hostname=read.hostname(),
        stream="stdout" if read.one_of("stream", frozenset(STREAMS)) == "stdout" else "stderr",
        offset=read.integer("offset"),
        data=read.text("data", least_bytes=1, most_bytes=MAX_OUTPUT_BYTES, allow_nul=True),
        timestamp=read.seconds("timestamp"),
        encoding=encoding,
    )
