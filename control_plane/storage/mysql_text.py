"""How rows travel to MySQL and back: as text that needs no escaping, and as one value instead of a row each."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from struct import Struct
from types import NoneType
from typing import Final

from control_plane.errors import StorageUnavailableError
from control_plane.storage.dialect import EventColumns, Value

STATEMENT_CHARS: Final = 1024 * 1024  # of one INSERT's rows, in hex: half as many bytes
ALONE_CHARS: Final = 2 * 1024 * 1024  # a larger row goes alone, as bound parameters, which hardly grow
STATEMENT_ROWS: Final = 1000


class Ready(str):
    """What `ready` has made of some columns."""

    __slots__ = ()


# Text that can hold nothing but digits and hex: there is nothing to escape in it, and nothing to inject.
_LITERALS: Final[Mapping[type, Callable[..., str]]] = {
    NoneType: lambda _: "NULL",
    bool: lambda value: "1" if value else "0",
    int: str,
    float: lambda value: _finite(value),
    str: lambda value: f"x'{value.encode().hex()}'",
    Ready: lambda value: value,
}


_TEXTS: Final = ("kind", "task_id", "hostname", "actor", "body", "signature", "key_id")
_LENGTHS: Final = ",".join(f"LPAD(HEX(IFNULL(LENGTH({name}),4294967295)),8,'0')" for name in _TEXTS)
# CONCAT_WS leaves out what is NULL. HEX writes a negative number in two's complement, as it is hashed.
LEAF: Final = (
    "CONCAT_WS('',x'00',UNHEX(CONCAT(LPAD(HEX(seq),16,'0'),LPAD(HEX(recorded_us),16,'0'),LPAD(HEX(schema_v),4,'0'),"
    f"IF(occurred_us IS NULL,'00','01'),LPAD(HEX(IFNULL(occurred_us,0)),16,'0'),{_LENGTHS})),{','.join(_TEXTS)})"
)

_HEAD: Final = Struct(">xQQH?q7i")  # what comes before the texts; the length of what is NULL is -1
ROWS_A_VALUE: Final = 2000  # times the largest body is less than group_concat_max_len


def _finite(value: float) -> str:
    if not math.isfinite(value):
        raise ValueError(f"{value} is no number for a database")
    digits = repr(value)
    return digits if "e" in digits else f"{digits}e0"  # without an exponent it would be a DECIMAL


def literals(row: Sequence[Value]) -> str:
    """One row of a VALUES list, in parentheses."""
    return f"({_joined(row)})"


def ready(values: Sequence[Value]) -> Sequence[Value]:
    """Some columns of a row, written beforehand; as they are where they are so large that they go as parameters."""
    text = Ready(_joined(values))
    return (text,) if len(text) <= STATEMENT_CHARS else values


def _joined(values: Sequence[Value]) -> str:
    # Most are bytes, and a call costs more than their hex.
    return ",".join([f"x'{v.hex()}'" if type(v) is bytes else _LITERALS[type(v)](v) for v in values])


def statements(rows: Sequence[Sequence[Value]]) -> Iterator[str | Sequence[Value]]:
    """The VALUES lists that carry the rows, none too large for a packet; a huge row comes as it is."""
    texts: list[str] = []
    size = 0
    for row in rows:
        row_text = literals(row)
        if texts and (size + len(row_text) > STATEMENT_CHARS or len(texts) == STATEMENT_ROWS):
            yield ",".join(texts)
            texts, size = [], 0
        if len(row_text) > ALONE_CHARS:
            yield row
        else:
            texts.append(row_text)
            size += len(row_text)
    if texts:
        yield ",".join(texts)


def rows_in(data: bytes) -> list[EventColumns]:
    """Undo `LEAF`, of many events.

    Raises:
        StorageUnavailableError: the server has cut in one of them.
        UnicodeDecodeError: what should be text is none.
    """
    rows: list[EventColumns] = []
    end, size, unpack, head_bytes, add = 0, len(data), _HEAD.unpack_from, _HEAD.size, rows.append
    while end <= size - head_bytes:
        # Each by itself: a loop over the lengths takes twice as long, and this is done for every event that is read.
        seq, recorded_us, schema_v, has_occurred, occurred_us, n_kind, n_task, n_host, n_actor, n_body, n_sig, n_key = (
            unpack(data, end)
        )
        end += head_bytes
        try:
            kind = data[end : (end := end + n_kind)].decode()
            task_id = None if n_task < 0 else data[end : (end := end + n_task)].decode()
            hostname = None if n_host < 0 else data[end : (end := end + n_host)].decode()
            actor = None if n_actor < 0 else data[end : (end := end + n_actor)].decode()
            body = data[end : (end := end + n_body)]
            signature = None if n_sig < 0 else data[end : (end := end + n_sig)]
            key_id = None if n_key < 0 else data[end : (end := end + n_key)].decode()
        except UnicodeDecodeError:
            if end > size:
                break
            raise
        occurred = occurred_us if has_occurred else None
        add((seq, recorded_us, kind, schema_v, task_id, hostname, actor, occurred, body, signature, key_id))
    if end != size:
        raise StorageUnavailableError("the server has cut a value off")
    return rows
