"""Golden vectors of the wire, for authors of other agents: canonical bytes, signing input, signature of every message.

They never change. A new kind of message gets its file by `python -m tests.contract.test_golden_wire`, which writes only
files that are not there yet. The key's seed is 32 bytes 0x01 for the control plane and 32 bytes 0x02 for the host.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from control_plane_wire import messages, signing, strict_json
from control_plane_wire.errors import SignatureError
from control_plane_wire.output import parse_output

GOLDEN = Path(__file__).with_name("golden") / "wire"
CONTROL_PLANE_KEY = signing.SigningKey.from_bytes(b"\x01" * 32)
HOST_KEY = signing.SigningKey.from_bytes(b"\x02" * 32)
HOST = "web1.example.com"

BASIC_COMMAND: strict_json.JsonObject = {
    "task_id": "123456",
    "command": "ls -l",
    "timeout": 30,
    "user": "root",
    "timestamp": 1694582400,
}
FROM_CONTROL_PLANE: dict[str, tuple[str, strict_json.JsonObject]] = {
    "command-basic": (f"cmd.node.{HOST}", BASIC_COMMAND),
    "command-group": ("cmd.group.web", {**BASIC_COMMAND, "as_of": 17, "expires_at": 1694583000}),
    "command-full": (
        f"cmd.node.{HOST}",
        {
            **BASIC_COMMAND,
            "command": "printf %s 'Grüße, 世界 \U0001f600'",
            "argv": ["printf", "%s", "Grüße, 世界 \U0001f600"],
            "env": {"LANG": "C.UTF-8"},
            "cwd": "/tmp",
            "stdin": "line\u0000\n",
            "as_of": 9007199254740991,
            "expires_at": 1694583000,
        },
    ),
    "cancel": (f"cmd.node.{HOST}", {"kind": "cancel", "task_id": "123456", "timestamp": 1694582401}),
    "configure": (
        f"cmd.node.{HOST}",
        {
            "kind": "configure",
            "task_id": "configure-42",
            "timestamp": 1694582400,
            "as_of": 42,
            "groups": {"db": 40, "web": 12},
            "keys": [{"public_key": signing.encode_base64(CONTROL_PLANE_KEY.public_key), "state": "active"}],
        },
    ),
    "configure-checkpoint": (
        f"cmd.node.{HOST}",
        {
            "kind": "configure",
            "task_id": "configure-43",
            "timestamp": 1694582400,
            "as_of": 43,
            "groups": {},
            "checkpoint": "43 – 世界",
            "key_id": CONTROL_PLANE_KEY.key_id,
        },
    ),
}
FROM_HOST: dict[str, tuple[str, strict_json.JsonObject]] = {
    "result-basic": (
        signing.RESULT,
        {"task_id": "123456", "exit_code": 0, "stdout": "hello", "stderr": "", "timestamp": 1694582400},
    ),
    "result-full": (
        signing.RESULT,
        {
            "task_id": "123456",
            "exit_code": None,
            "stdout": "AP8=",
            "stderr": "",
            "timestamp": 1694582500,
            "outcome": "interrupted",
            "reason": "the machine went down",
            "started_at": 1694582410,
            "finished_at": 1694582500,
            "stdout_bytes": 2,
            "stdout_sha256": "06eb7d6a69ee19e5fbdf749018d3d2abfa04bcbd1365db312eb86dc7169389b8",
            "encoding": "base64",
            "truncated": False,
        },
    ),
    "accepted": (
        signing.RESULT,
        {"kind": "accepted", "task_id": "123456", "timestamp": 1694582402, "started_at": 1694582402},
    ),
    "rejected": (
        signing.RESULT,
        {
            "task_id": "123456",
            "exit_code": None,
            "stdout": "",
            "stderr": "",
            "timestamp": 1694582400.1,
            "outcome": "rejected",
            "reason": "no account “dörte”",
            "a field of a later version": {"beta": [1e-7, 0.1, 1.0, 0.0, -0.0, 1.5e-6, True, None]},
        },
    ),
    "heartbeat-whole-usages": (
        signing.HEARTBEAT,
        {"hostname": HOST, "status": "online", "timestamp": 1694582400, "cpu_usage": 0.0, "memory_usage": 1.0},
    ),
    "heartbeat-full": (
        signing.HEARTBEAT,
        {
            "hostname": HOST,
            "status": "online",
            "timestamp": 1694582400,
            "cpu_usage": 0.1,
            "memory_usage": 1e-7,
            "disk_usage": 1.5e-6,
            "load": [0.0, 12.5, 1e-7],
            "agent_version": "0.1.0",
            "sequence": 123456789,
            "boot_id": "6b1f9f6e-3f0e-4d7c-9d6a-0a1b2c3d4e5f",
            "interval": 10,
            "groups": ["db", "web"],
            "os": "Debian GNU/Linux 12 – „bookworm“",
        },
    ),
    "output-text": (
        signing.OUTPUT,
        {
            "task_id": "123456",
            "hostname": HOST,
            "stream": "stdout",
            "offset": 0,
            "data": "1 – 世界\u0000\n",
            "timestamp": 1694582411,
        },
    ),
    "output-base64": (
        signing.OUTPUT,
        {
            "task_id": "123456",
            "hostname": HOST,
            "stream": "stderr",
            "offset": 4711,
            "data": "AP8=",
            "encoding": "base64",
            "timestamp": 1694582411,
        },
    ),
}


def vectors() -> dict[str, dict[str, Any]]:
    """Every vector as its file holds it."""
    made = {}
    for name, (routing_key, message) in FROM_CONTROL_PLANE.items():
        made[name] = vector(message, CONTROL_PLANE_KEY, signing.COMMAND, signing.CONTROL_PLANE, routing_key)
    for name, (tag, message) in FROM_HOST.items():
        made[name] = vector(message, HOST_KEY, tag, HOST, signing.CONTROL_PLANE)
    return made


def vector(
    message: strict_json.JsonObject, key: signing.SigningKey, tag: str, sender: str, recipient: str
) -> dict[str, Any]:
    body = strict_json.canonical(message)
    return {
        "type": tag,
        "sender": sender,
        "recipient": recipient,
        "public_key": signing.encode_base64(key.public_key),
        "key_id": key.key_id,
        "message": message,
        "canonical": body.decode(),
        "signing_input_hex": signing.signing_input(tag, sender, recipient, key.key_id, body).hex(),
        "signature": signing.encode_base64(key.sign(tag, sender=sender, recipient=recipient, body=body)),
        "sealed": messages.seal(message, key, tag, sender=sender, recipient=recipient).decode(),
    }


@pytest.mark.parametrize("name", sorted({*FROM_CONTROL_PLANE, *FROM_HOST}))
def test_a_message_still_has_the_bytes_and_the_signature_it_always_had(name: str) -> None:
    recorded = json.loads((GOLDEN / f"{name}.json").read_text())

    assert json.loads(json.dumps(vectors()[name])) == recorded


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.json")), ids=lambda path: path.stem)
def test_a_recorded_message_decodes_and_verifies_and_no_other_reading_of_it_does(path: Path) -> None:
    recorded = json.loads(path.read_text())
    tag, sender, recipient = recorded["type"], recorded["sender"], recorded["recipient"]
    public_key = signing.decode_public_key(recorded["public_key"])

    signed = messages.decode(recorded["sealed"].encode(), max_bytes=1 << 20, tag=tag)

    assert signed.body == recorded["canonical"].encode()
    signed.verify(public_key, tag, sender=sender, recipient=recipient)
    for wrong in ({"tag": "event"}, {"sender": "other"}, {"recipient": "other"}):
        reading = {"tag": tag, "sender": sender, "recipient": recipient, **wrong}
        with pytest.raises(SignatureError):
            signed.verify(public_key, reading["tag"], sender=reading["sender"], recipient=reading["recipient"])
    parse = {
        "command": messages.parse_command,
        "result": messages.parse_result,
        "heartbeat": messages.parse_heartbeat,
        "output": parse_output,
    }
    for field, value in parse[tag](signed.message).to_json().items():
        assert value == signed.message[field] or (field == "timestamp" and value == int(signed.message[field]))


if __name__ == "__main__":
    for vector_name, content in vectors().items():
        file = GOLDEN / f"{vector_name}.json"
        if not file.exists():
            file.write_text(json.dumps(content, indent=2, ensure_ascii=True) + "\n")
