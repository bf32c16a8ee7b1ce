"""What the programs say of themselves: JSON log lines with their context, and metrics as Prometheus reads them."""

import json
import logging
import sys
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from logging.handlers import SysLogHandler
from typing import Final, Literal, TypeAlias, TypeVar

# --- logs -------------------------------------------------------------------------------------------------------------

_context: ContextVar[Mapping[str, str]] = ContextVar("log_context", default={})  # noqa: B039 - never changed in place
_OWN_FIELDS: Final = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName", "color_message"}
# At info they say too much, and what they are called with may carry an address with a password.
_QUIET: Final = ("aio_pika", "aiormq", "aiomysql", "aiosqlite", "alembic", "asyncio", "httpcore", "httpx")


@contextmanager
def bound(**fields: str) -> Iterator[None]:
    """Add fields, such as `task_id`, `hostname`, `actor` or `request_id`, to every line logged inside."""
    token = _context.set({**_context.get(), **fields})
    try:
        yield
    finally:
        _context.reset(token)


def configure_logging(*, format: Literal["json", "text"], level: str) -> None:  # noqa: A002 - the setting's name
    """Send every log line to stdout: one JSON object each, or plain text for people."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(_JsonFormatter() if format == "json" else _TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)


class _Syslog(SysLogHandler):
    append_nul = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the name of the standard library
        raise


def to_syslog(address: str, tag: str) -> Callable[[str], None]:
    """What sends a text to a syslog (ADDRESS:PORT by UDP, or a socket's path) as one line of JSON; it never raises."""
    host, _, port = address.rpartition(":")
    where = address if address.startswith("/") else (host.strip("[]"), int(port))

    def send(text: str) -> None:
        try:
            with closing(_Syslog(where, facility=SysLogHandler.LOG_AUTH)) as handler:
                handler.ident = f"{tag}: "
                handler.emit(logging.makeLogRecord({"msg": json.dumps(text), "levelname": "INFO"}))
        except OSError as error:
            logging.getLogger(__name__).warning("syslog not reached", extra={"address": address, "reason": str(error)})

    return send


def _fields(record: logging.LogRecord) -> dict[str, object]:
    given = {name: value for name, value in record.__dict__.items() if name not in _OWN_FIELDS}
    return {**_context.get(), **given}


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)  # ASCII alone, so that no lone surrogate loses a line


class _TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).astimezone()
        fields = "".join(f" {name}={value!r}" for name, value in _fields(record).items())
        line = f"{at:%H:%M:%S} {record.levelname.lower():7} {record.getMessage()}{fields}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


# Adds to the number of times that something has happened: for code that counts and knows no metrics.
Count: TypeAlias = Callable[[str, int], None]

# --- metrics ----------------------------------------------------------------------------------------------------------

SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metric:
    """One name with a value for each combination of its labels, of which there are few: never one a host."""

    kind = ""

    def __init__(self, name: str, meaning: str, labels: Sequence[str]) -> None:
        self.name, self.meaning, self.labels = name, meaning, tuple(labels)

    def samples(self) -> Iterator[str]:
        raise NotImplementedError

    def _key(self, given: Mapping[str, str]) -> tuple[str, ...]:
        if len(given) != len(self.labels):
            raise ValueError(f"{self.name} has the labels {self.labels}")
        return tuple(given[label] for label in self.labels)

    def _text(self, key: Sequence[str], **more: str) -> str:
        pairs = [*zip(self.labels, key, strict=True), *more.items()]
        return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in pairs) + "}" if pairs else ""


class _Simple(Metric):
    def __init__(self, name: str, meaning: str, labels: Sequence[str]) -> None:
        super().__init__(name, meaning, labels)
        self._values: dict[tuple[str, ...], float] = {} if labels else {(): 0.0}

    def value(self, **labels: str) -> float:
        return self._values.get(self._key(labels), 0.0)

    def samples(self) -> Iterator[str]:
        for key, value in self._values.items():
            yield f"{self.name}{self._text(key)} {value:.15g}"


class Counter(_Simple):
    kind = "counter"

    def add(self, amount: float = 1, /, **labels: str) -> None:
        key = self._key(labels)
        self._values[key] = self._values.get(key, 0.0) + amount


class Gauge(_Simple):
    kind = "gauge"

    def set(self, value: float, /, **labels: str) -> None:
        self._values[self._key(labels)] = value


class Histogram(Metric):
    """How long something took, in seconds."""

    kind = "histogram"

    def __init__(self, name: str, meaning: str, labels: Sequence[str]) -> None:
        super().__init__(name, meaning, labels)
        self._counts: dict[tuple[str, ...], list[int]] = {}
        self._sums: dict[tuple[str, ...], float] = {}

    def observe(self, seconds: float, /, **labels: str) -> None:
        key = self._key(labels)
        counts = self._counts.setdefault(key, [0] * (len(SECONDS) + 1))
        counts[bisect_left(SECONDS, seconds)] += 1
        self._sums[key] = self._sums.get(key, 0.0) + seconds

    def samples(self) -> Iterator[str]:
        for key, counts in self._counts.items():
            total = 0
            for bound_s, count in zip((*SECONDS, "+Inf"), counts, strict=True):
                total += count
                yield f"{self.name}_bucket{self._text(key, le=str(bound_s))} {total}"
            yield f"{self.name}_sum{self._text(key)} {self._sums[key]:.15g}"
            yield f"{self.name}_count{self._text(key)} {total}"


_M = TypeVar("_M", bound=Metric)


class Metrics:
    """The metrics of one process. Asking for a name again gives the same metric."""

    def __init__(self) -> None:
        self._metrics: dict[str, Metric] = {}

    def counter(self, name: str, meaning: str, *labels: str) -> Counter:
        return self._metric(Counter(name, meaning, labels))

    def gauge(self, name: str, meaning: str, *labels: str) -> Gauge:
        return self._metric(Gauge(name, meaning, labels))

    def histogram(self, name: str, meaning: str, *labels: str) -> Histogram:
        return self._metric(Histogram(name, meaning, labels))

    def happenings(self) -> Count:
        """One counter for whatever happens, by its name."""
        happened = self._happened()

        def count(what: str, number: int) -> None:
            happened.add(number, what=what)

        return count

    def happened(self, what: str) -> int:
        return int(self._happened().value(what=what))

    def _happened(self) -> Counter:
        return self.counter("control_plane_happened_total", "How often something has happened.", "what")

    def _metric(self, new: _M) -> _M:
        there = self._metrics.setdefault(new.name, new)
        if not isinstance(there, type(new)) or there.labels != new.labels:
            raise ValueError(f"{new.name} is there already, as something else")
        return there

    def render(self) -> str:
        """All of them in Prometheus' text format."""
        lines: list[str] = []
        for metric in self._metrics.values():
            lines += [f"# HELP {metric.name} {_escaped(metric.meaning)}", f"# TYPE {metric.name} {metric.kind}"]
            lines += metric.samples()
        return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
