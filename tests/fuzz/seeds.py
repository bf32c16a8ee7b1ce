"""Writes the corpus anew from what is recorded and what is known to be hostile: `python -m tests.fuzz.seeds`.

Files that are there stay: what a fuzzer has found is kept.
"""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cbor2

from control_plane.commands.secrets import Vault
from control_plane.events import registry
from control_plane.events.merkle import CompactRange
from control_plane.events.proofs import Proof
from control_plane.projections.queries.pages import cursor_of
from control_plane_agent import slots
from control_plane_wire import checkpoints, strict_json
from control_plane_wire.messages import seal
from control_plane_wire.signing import COMMAND, CONTROL_PLANE, RESULT, encode_base64
from tests.fuzz.mutations import CORPUS
from tests.fuzz.targets import TARGETS, _bodies
from tests.support.agent import ROUTE, a_command, sealed
from tests.support.authenticator import ATTESTED, a_bomb
from tests.support.events import EXAMPLES, SHA
from tests.support.fleet import CONTROL_PLANE_KEY, SECRETS_KEY, host_key

HOSTILE_JSON = (
    b"",
    b"{}",
    b"[]",
    b"null",
    b'{"a":1,"a":2}',
    b'{"a":NaN}',
    b'{"a":-Infinity}',
    b'{"a":1e999}',
    b'{"a":9007199254740993}',
    b'{"a":1e300}',
    b'{"a":-0.0}',
    b'{"a":1.0}',
    b'{"a":0.000001}',
    b'{"a":"\\ud800"}',
    b'{"a":"\\u0000"}',
    b'{"a":"\xff"}',
    b"\xef\xbb\xbf{}",
    b'{"a":1}'.decode().encode("utf-16"),
    b'{"\xc3\xa9":1,"\xf0\x9f\x98\x80":2,"\xef\xbf\xbd":3}',
    b'{"a":' + b"[" * 17 + b"]" * 17 + b"}",
    b'{"a":' + b"[" * 2000,
    b'{"a":1}{"a":2}',
    b'{"a":1,}',
    b"{'a':1}",
    b'{"a":' + b"9" * 5000 + b"}",
    b'{"a":"' + b"\\" * 999 + b'"}',
    b'{"__proto__":{"x":1},"constructor":1}',
)
COMMAND_JSON = a_command(
    argv=("uptime", "-p"), env={"LANG": "C"}, cwd="/", stdin="x\0", as_of=1, expires_at=2
).to_json()
CONFIGURE: Any = {"kind": "configure", "task_id": "c", "timestamp": 1, "as_of": 1, "groups": {"web": 1}}
RESULT_JSON: Any = {"task_id": "t1", "exit_code": 0, "stdout": "", "stderr": "", "timestamp": 1, "outcome": "completed"}
BEAT: Any = {"hostname": "web1", "status": "online", "timestamp": 1, "cpu_usage": 0.1, "memory_usage": 1}
PIECE: Any = {"task_id": "t1", "hostname": "web1", "stream": "stdout", "offset": 0, "data": "eA==", "timestamp": 1}
TASK: Any = {"target": {"host": "web1"}, "command": "id", "timeout": 1, "user": "root"}
RULE: Any = {"effect": "allow", "subject": "user:ada", "actions": ["tasks.run"], "hosts": {"all": True}}
ENROL: Any = {"token": "cpe_0_0", "hostname": "web1", "public_key": encode_base64(host_key("web1").public_key)}
NOTE = checkpoints.sign(checkpoints.Checkpoint("o/event", 1, bytes(32)), CONTROL_PLANE_KEY)


def _json(*values: Any) -> list[bytes]:
    return [json.dumps(value).encode() for value in values]


def seeds() -> Iterator[tuple[str, list[bytes]]]:
    events = [event.body() for event in EXAMPLES]
    wire = [path.read_bytes() for path in sorted(Path("tests/contract/golden/wire").iterdir())]
    of_json = [*HOSTILE_JSON, *events[:3], *_json(COMMAND_JSON)]
    yield from ((name, list(of_json)) for name in ("strict_json_parse", "strict_json_stored", "canonicalise"))
    yield "command_message", _json(COMMAND_JSON, {"kind": "cancel", "task_id": "t", "timestamp": 1}, CONFIGURE)
    yield "result_message", _json(RESULT_JSON, {"kind": "accepted", "task_id": "t", "timestamp": 1, "started_at": 1})
    yield "heartbeat_message", _json(BEAT, {**BEAT, "sequence": 1, "boot_id": "b", "groups": ["web"], "load": [0.1]})
    yield "output_message", _json(PIECE, {**PIECE, "encoding": "base64"})
    of_host = seal(RESULT_JSON, host_key("web1"), RESULT, sender="web1", recipient=CONTROL_PLANE)
    yield "signed_message", [sealed(a_command()), of_host, *wire[:6]]
    yield "journalled_command", [sealed(a_command()), of_host, b"{}"]
    signed = CONTROL_PLANE_KEY.sign(COMMAND, sender=CONTROL_PLANE, recipient=ROUTE, body=b"{}")
    weak = bytes.fromhex("01" + "00" * 31)
    yield "signature", [CONTROL_PLANE_KEY.public_key + signed + b"{}", weak + bytes(64), weak + weak + bytes(32), b"x"]
    keys = [
        encode_base64(CONTROL_PLANE_KEY.public_key),
        encode_base64(signed),
        encode_base64(weak),
        "AA==",
        "AB==",
        "A",
    ]
    yield "base64_text", [key.encode() for key in keys]
    names = [
        "web1",
        "a.b",
        "result.node.web1",
        "output.node.web1",
        "..",
        "a..b",
        "-a",
        "A",
        "ada",
        "root",
        "é",
        "x" * 201,
    ]
    yield "grammars", [name.encode() for name in [*names, "console", "a\u202eb", "why not", "1", "a/b", "a\0"]]
    token = "cp_0123456789abcdef_" + "0" * 64
    yield "tokens", [token.encode(), (token + "9ae0daaf").encode(), b"cp__", b"1.AAAA", b"99999999999.", b"."]
    yield "cursor", [cursor_of("web1").encode(), cursor_of(17).encode(), b"MQ", b"bnVsbA", b"\xff", b"MS41"]
    queries = [
        *("web state:offline,stale -group:db", "w*b1,*a*a*a* -label:env=prod*", "os:debian agent:0.1 is:drift,Basic"),
        *("web,,db", "foo:bar", "state:up", "-", "label:=x", "web\u300010 --a :", "*" * 1025, "a " * 33),
    ]
    yield "host_query", [query.encode() for query in queries]
    times = [
        "e1.h2",
        "17",
        "2026-01-31T10:42:07Z",
        "2026-01-31T10:42:07+02:00",
        "0001-01-01T00:00:00+23:59",
        "e.h",
        "9" * 20,
    ]
    yield "moment", [text.encode() for text in [*times, "2026-W01-1", "20260131T104207Z", "e1.h1x"]]
    yield "preview_id", [f"41.1781870000.{SHA}".encode(), b"1.2.3", b"..", f"01.1.{SHA}".encode()]
    yield (
        "topics",
        [b"hosts", b"tasks,events,task:t1,host:web1", b",", b"output:t1/web1", b"task:", b"host:..", b"x" * 99],
    )
    yield (
        "task_body",
        _json(
            TASK,
            {**TASK, "env": {"A": "x"}, "secrets": {"B": "y"}, "stdin": "", "cwd": "/", "argv": ["id"]},
            {**TASK, "target": {"hosts": ["web1", "web1"]}, "rollout": {"canary": 1, "max_concurrency": "10%"}},
            {**TASK, "target": {"all": False}, "timeout": 0, "user": "0", "secrets": {"A": "\0"}, "env": {"1": ""}},
            {**TASK, "secrets": {"A": "\ud800"}} if False else {**TASK, "command": ""},
        ),
    )
    yield "rule_body", _json(RULE, {**RULE, "effect": "deny", "accounts": ["root"], "command": "argv", "most_hosts": 1})
    yield "enrolment_body", _json(ENROL, {**ENROL, "nonce": "1.x", "proof": encode_base64(bytes(64))})
    bodies = [bytes([number]) + value for number in range(len(_bodies())) for value in _json({}, TASK)]
    yield "bodies", [*bodies, *(b"\0" + value for value in _json(ENROL, RULE, {"reason": "x"}, {"states": ["failed"]}))]
    yield (
        "target_and_rollout",
        _json(
            {"host": "web1"},
            {"query": "x"},
            {"query": "x state:up"},
            {"all": 1},
            {"canary": ["web1"], "wait": "approval"},
        ),
    )
    yield "event_body", [*events, b"{}", b'{"kind":"task.accepted"}', b"[]", b'{"message":{}}']
    yield "sealed_secret", [Vault(SECRETS_KEY).seal("t1", {"A": "x"})["A"].encode(), b"", b"AAAA", b"="]
    yield (
        "checkpoint_note",
        [NOTE.encode(), b"o/event\n7\nAA==\n\n\xe2\x80\x94 o/event AA==\n", b"o\n07\n\n\n", b"\n\n"],
    )
    proof = Proof(seq=1, data=b"x", hashes=[bytes(32)], note=NOTE)
    yield "proof", [proof.to_text().encode(), b"c2sp.org/tlog-proof@v1\nextra \nindex 0\n\n", b"\n\n"]
    two = CompactRange(0, ()).extended([bytes(32), bytes(32), bytes(32)])
    yield "tree", [two.size.to_bytes(2, "big") + two.to_bytes(), b"\0\0", b"\0\1x"]
    head = {"format": "control-plane-archive-1", "log": "event", "first_seq": 1, "last_seq": 1, "before": ""}
    yield (
        "archive_file",
        [*_json(head), json.dumps(head).encode() + b"\n{}\n", b"\x1f\x8b", gzip.compress(b"x", mtime=0)],
    )
    started = slots.encode(slots.Started("b", "n", 0, 1, 2, 3, None))
    finished = slots.encode(slots.Finished("completed", 1, exit_code=0))
    yield (
        "slot",
        [started + finished, started, b'{"boot_id":"b"}', b"[]", b"1", b"\xff", b'{"outcome":1}', b"CPSLOT1\n"],
    )
    yield "reserve", [bytes(64), b"\1" * 64, b"\0" * 63 + b"\1"]
    identity = {"hostname": "web1", "keys": [keys[0]], "retired": [], "groups": {"web": 1}, "enrolled_as_of": 1}
    yield "identity_file", _json({**identity, "configured_as_of": 0, "checkpoint": None, "amqp_url": "amqp://x"}, {})
    yield (
        "agent_environment",
        [b"accounts=root, deploy\nmax_pids=1\ninterval_s=9", b"amqp_url=amqp://u:p@[::1", b"x=y", b"containment=\xff"],
    )
    listen = b"listen=127.0.0.1:80\npublic_url=https://x\ndatabase_url=sqlite+aiosqlite:///x"
    yield (
        "server_environment",
        [listen, b"listen=[::1]:\xd9\xa1", b"broker_api_url=http://u:p@h:99999", b"drain_s=nan", b"listen=:0"],
    )
    yield (
        "env_file",
        [b"CONTROL_PLANE_LISTEN=127.0.0.1:1\n", b"export CONTROL_PLANE_DRAIN_S='1", b"A=${A}\n${\n", b"\0=\n"],
    )
    yield (
        "trusted_proxies",
        [
            b"127.0.0.1,::1\n10.0.0.1, 10.0.0.2",
            b"*\nx",
            b"10.0.0.0/8\n10.1.1.1:99",
            b"10.0.0.0/99\n[::1]:x",
            b"127.0.0.1,::1\n",
        ],
    )
    cose = cbor2.dumps({1: 1, 3: -8, -1: 6, -2: bytes(32)})
    attested = bytes(32) + bytes([ATTESTED]) + bytes(22) + cose
    yield (
        "authenticator",
        [
            cbor2.dumps({"fmt": "none", "attStmt": {}, "authData": attested}),
            cbor2.dumps({"fmt": "none", "attStmt": {}, "authData": attested[:-42] + a_bomb(60)}),
            cose,
            a_bomb(60),
            bytes(32) + b"\x85" + bytes(4) + a_bomb(60),
            bytes(37),
            b"\x9b" + b"\xff" * 8,
            b"\x81" * 2000,
        ],
    )
    yield "password_hash", [b"v=19$m=64,t=1,p=1", b"", b"$$$$", b"v=19$m=99999999", b"\0"]


def main() -> None:
    for name, inputs in seeds():
        assert name in TARGETS, name
        folder = CORPUS / name
        folder.mkdir(parents=True, exist_ok=True)
        for number, data in enumerate(inputs):
            path = folder / f"seed-{number:02}"
            if not path.exists():
                path.write_bytes(data)
    assert registry.CLASSES
    assert strict_json.MAX_DEPTH


if __name__ == "__main__":
    main()
