"""Exchanges, queues and routing keys, and the grammar of the names in them."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from control_plane_wire.errors import MalformedMessageError

COMMAND_EXCHANGE: Final = "sys_cmd_exchange"
RESULT_EXCHANGE: Final = "sys_result_exchange"
MONITOR_EXCHANGE: Final = "sys_monitor_exchange"
DEFAULT_EXCHANGE: Final = ""  # routes to the queue that the key names

RESULT_QUEUE: Final = "cmd.result"
RESULT_DEAD_QUEUE: Final = "cmd.result.dead"
HEARTBEAT_QUEUE: Final = "monitor.heartbeat"
HEARTBEAT_DEAD_QUEUE: Final = "monitor.heartbeat.dead"
OUTPUT_QUEUE: Final = "monitor.output"
OUTPUT_MESSAGES: Final = 1000  # pieces that wait for somebody, the newest ones
OUTPUT_BYTES: Final = 16 * 1024 * 1024

COMMAND_ALL: Final = "cmd.all"
HEARTBEAT_KEY: Final = "heartbeat"
_NODE: Final = "cmd.node."
_GROUP: Final = "cmd.group."
_RESULT: Final = "result.node."
_OUTPUT: Final = "output.node."

MAX_NAME: Final = 200
_LABEL: Final = r"[a-z0-9](?:[a-z0-9_-]{0,61}[a-z0-9])?"
_NAME: Final = re.compile(rf"{_LABEL}(?:\.{_LABEL})*", re.ASCII)
_TASK_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)


def is_name(text: str) -> bool:
    """Whether this is a hostname or group: lower-case labels joined by dots, at most 200 characters."""
    return len(text) <= MAX_NAME and looks_like_name(text)


@lru_cache(maxsize=65_536)
def looks_like_name(text: str) -> bool:
    """`is_name`, of a text that has at most `MAX_NAME` characters: of others less would be remembered in more memory.

    Names come again and again; whoever sends others fills no more than some MiB with them.
    """
    return _NAME.fullmatch(text) is not None


def is_task_id(text: str) -> bool:
    return _TASK_ID.fullmatch(text) is not None


def check_hostname(text: str) -> str:
    return _check(text, "hostname")


def check_group(text: str) -> str:
    return _check(text, "group")


def _check(text: str, what: str) -> str:
    if not is_name(text):
        raise MalformedMessageError(f"{what} is not lower-case labels joined by dots, at most {MAX_NAME} characters")
    return text


def command_key(hostname: str) -> str:
    return _NODE + check_hostname(hostname)


def group_key(group: str) -> str:
    return _GROUP + check_group(group)


def result_key(hostname: str) -> str:
    return _RESULT + check_hostname(hostname)


def host_of_result_key(routing_key: str) -> str:
    """The host that a result's routing key names.

    Raises:
        MalformedMessageError: it is no result key, or names no valid host.
    """
    return _host_of(_RESULT, routing_key)


def output_key(hostname: str) -> str:
    return _OUTPUT + check_hostname(hostname)


def host_of_output_key(routing_key: str) -> str:
    """The host that the routing key of a piece of output names. Raises MalformedMessageError."""
    return _host_of(_OUTPUT, routing_key)


def _host_of(prefix: str, routing_key: str) -> str:
    if not routing_key.startswith(prefix):
        raise MalformedMessageError(f"routing key is not {prefix}{{hostname}}")
    return check_hostname(routing_key.removeprefix(prefix))


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """A queue; with limits, it forgets its oldest messages for new ones.

    Attributes:
        most_messages, most_bytes: what may wait in it. Of a shared queue on a broker they are for a policy to say:
            arguments are part of a queue's identity, and who declares it without them would be refused.
    """

    name: str
    durable: bool = True
    exclusive: bool = False
    most_messages: int | None = None
    most_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    queue: str
    exchange: str
    routing_key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Topology:
    """What one side declares: durable topic exchanges by name, queues, and bindings, in that order."""

    exchanges: tuple[str, ...] = ()
    queues: tuple[Queue, ...] = ()
    bindings: tuple[Binding, ...] = ()


CONTROL_PLANE_TOPOLOGY: Final = Topology(
    exchanges=(COMMAND_EXCHANGE, RESULT_EXCHANGE, MONITOR_EXCHANGE),
    queues=(
        *(Queue(name=name) for name in (RESULT_QUEUE, RESULT_DEAD_QUEUE, HEARTBEAT_QUEUE, HEARTBEAT_DEAD_QUEUE)),
        Queue(name=OUTPUT_QUEUE, most_messages=OUTPUT_MESSAGES, most_bytes=OUTPUT_BYTES),
    ),
    bindings=(
        # result.# and not result.*: a hostname may contain dots
        Binding(queue=RESULT_QUEUE, exchange=RESULT_EXCHANGE, routing_key="result.#"),
        Binding(queue=HEARTBEAT_QUEUE, exchange=MONITOR_EXCHANGE, routing_key=HEARTBEAT_KEY),
        Binding(queue=OUTPUT_QUEUE, exchange=MONITOR_EXCHANGE, routing_key="output.node.#"),
    ),
)


def watching_topology(queue: str) -> Topology:
    """The queue of one process that shows live output: its own, and bound to nothing until somebody watches."""
    mine = Queue(name=queue, durable=False, exclusive=True, most_messages=OUTPUT_MESSAGES, most_bytes=OUTPUT_BYTES)
    return Topology(exchanges=(MONITOR_EXCHANGE,), queues=(mine,))


def watching(queue: str, hostname: str) -> Binding:
    """What brings that queue what a host's commands print."""
    return Binding(queue=queue, exchange=MONITOR_EXCHANGE, routing_key=output_key(hostname))


def agent_queue(hostname: str) -> str:
    """The name of an agent's private queue, which is also its own routing key."""
    return command_key(hostname)


def agent_topology(hostname: str, groups: Iterable[str]) -> Topology:
    """An agent's exclusive queue, bound to its own key, to every group's and to everybody's."""
    queue = agent_queue(hostname)
    keys = (command_key(hostname), COMMAND_ALL, *(group_key(group) for group in groups))
    return Topology(
        queues=(Queue(name=queue, durable=False, exclusive=True),),
        bindings=tuple(Binding(queue=queue, exchange=COMMAND_EXCHANGE, routing_key=key) for key in keys),
    )
