"""What a command prints is seen in the API's stream while it runs, on real parts."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.benchmarks.live import events, printed
from tests.support.programs import Api, Installation
from tests.support.servers import wait_until

pytestmark = [pytest.mark.mysql, pytest.mark.rabbitmq]

MIB = 2**20
ENDS = {1: r"\377", 2: r"\377", 3: "", 4: ""}


@pytest.fixture
def installation(tmp_path: Path, mysql_url: str, amqp_url: str) -> Iterator[Installation]:
    made = Installation(tmp_path / "cp", mysql_url, amqp_url)
    yield made
    made.close()


def shown(api: Api, task_id: str, hostname: str) -> Iterator[tuple[bytearray, bool]]:
    """What is known of standard output, "?" for what no piece has, and whether the result has come; as it changes."""
    known = bytearray()
    for name, data, _ in events(api, f"output:{task_id}:{hostname},task:{task_id}"):
        if name == "output" and data["stream"] == "stdout":
            piece = printed(data)
            known += b"?" * (data["offset"] - len(known))
            known[data["offset"] : data["offset"] + len(piece)] = piece
        has_ended = name == "rows" and any(row.get("finished_at") is not None for _, row in data["rows"])
        yield known, has_ended
        if has_ended:
            return


def test_a_loop_is_seen_piece_by_piece_and_a_killed_agent_goes_on_with_it(
    installation: Installation, tmp_path: Path
) -> None:
    api = installation.initialise()
    agent = installation.add_agent("web1")
    api.online(["web1"])
    steps = [tmp_path / f"go{n}" for n in range(4)]
    lines = [b"1\xff\n", b"2\xff\n", b"3\n", b"4\n"]
    prints = [rf"printf '{n}{end}\n'; while [ ! -e {steps[n - 1]} ]; do sleep 0.05; done" for n, end in ENDS.items()]
    task_id = api.run({"host": "web1"}, "; ".join(prints))
    seen: list[bytes] = []
    for known, has_ended in shown(api, task_id, "web1"):
        if len(seen) < len(lines) and known == b"".join(lines[: len(seen) + 1]):
            assert not has_ended, "it was seen while it ran"
            seen.append(bytes(known))
            if len(seen) == 2:  # what it prints next nobody is there to hear
                agent.kill()
            steps[len(seen) - 1].touch()
            if len(seen) == 2:
                agent.start()

    row = api.finished(task_id)["web1"]
    assert len(seen) == 4
    assert row["stdout_sha256"] == hashlib.sha256(seen[-1]).hexdigest()
    output = api.get(f"/tasks/{task_id}/executions/web1/output")
    assert (output["encoding"], printed(output)) == ("base64", seen[-1])


def test_a_flood_is_shown_in_parts_its_result_is_whole_and_the_rest_goes_on(
    installation: Installation, tmp_path: Path
) -> None:
    api = installation.initialise()
    installation.add_agent("web1")
    api.online(["web1"])
    go = tmp_path / "go"
    megabytes = 50
    task_id = api.run(
        {"host": "web1"},
        f"for n in $(seq {megabytes // 5}); do head -c {5 * MIB} /dev/zero; sleep 0.1; done; "
        f"while [ ! -e {go} ]; do sleep 0.05; done",
        timeout=120,
    )
    beats = api.get("/hosts/web1")["last_heartbeat_at"]
    known = bytearray()
    for known, _ in shown(api, task_id, "web1"):
        if len(known) == megabytes * MIB and not go.exists():
            other = api.finished(api.run({"host": "web1"}, "echo other"))["web1"]
            assert other["state"] == "succeeded"
            wait_until(
                lambda: api.get("/hosts/web1")["last_heartbeat_at"] > beats, timeout_s=60, what="the heart beats on"
            )
            go.touch()

    row = api.finished(task_id)["web1"]
    whole = bytes(megabytes * MIB)
    assert (row["state"], row["stdout_bytes"], row["truncated"]) == ("succeeded", len(whole), True)
    assert row["stdout_sha256"] == hashlib.sha256(whole).hexdigest()
    assert known.count(b"\0") < len(whole) / 4, "most of it was left out"
    kept = api.get(f"/tasks/{task_id}/executions/web1/output", limit=MIB)
    assert (kept["kept_bytes"], kept["head_bytes"], kept["size_bytes"]) == (MIB, MIB // 4, len(whole))
    assert api.get("/hosts/web1")["state"] == "online"
