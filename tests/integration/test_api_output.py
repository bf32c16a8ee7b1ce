"""What a command has printed, of any size that the wire allows and whatever bytes it is, in ranges and in groups."""

import base64
import difflib
import itertools
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from control_plane_wire.messages import MAX_RESULT_BYTES
from tests.support.api import ApiUnderTest, an_api

MIB = 2**20
URL = "/api/v1/tasks/t1/executions/web1/output"


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[ApiUnderTest]:
    async with an_api(tmp_path) as made:
        await made.register("web1", "web2", "web3", "web4", groups=["web"])
        await made.run(made.client("ada"), {"group": "web"}, task_id="t1")
        yield made


async def get(client: httpx.AsyncClient, **query: Any) -> dict[str, Any]:
    answer = await client.get(URL, params=query)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def data_of(piece: dict[str, Any]) -> bytes:
    return base64.b64decode(piece["data"]) if piece["encoding"] == "base64" else piece["data"].encode()


LARGEST = MAX_RESULT_BYTES - 1024  # of a result on the wire, with its other fields


@pytest.mark.parametrize("encoding", ["utf-8", "base64"])
async def test_the_largest_result_is_read_in_ranges_of_any_size(api: ApiUnderTest, encoding: str) -> None:
    if encoding == "base64":
        whole = random.Random(0).randbytes(LARGEST // 4 * 3)
        stdout = base64.b64encode(whole).decode()
    else:
        stdout = "a€😀\n" * (LARGEST // 9)
        whole = stdout.encode()
    await api.finish("t1", "web1", stdout=stdout, encoding=encoding)

    client, found, offset = api.client("eve"), b"", 0
    limits = itertools.chain([1, 5, MIB + 1], itertools.repeat(2**40))
    while offset is not None:
        piece = await get(client, offset=offset, limit=next(limits))
        assert piece["offset"] == len(found)
        assert len(data_of(piece)) <= MIB
        found += data_of(piece)
        offset = piece["next_offset"]

    assert found == whole
    assert (piece["encoding"], piece["size_bytes"], piece["truncated"]) == (encoding, len(whole), False)


@pytest.mark.parametrize("offset", [3, 4, 2**40])
async def test_beyond_the_end_there_is_nothing_and_no_error(api: ApiUnderTest, offset: int) -> None:
    await api.finish("t1", "web1", stdout="abc")

    piece = await get(api.client("eve"), offset=offset)

    assert (piece["offset"], piece["data"], piece["next_offset"], piece["kept_bytes"]) == (3, "", None, 3)


async def test_a_stream_of_bytes_with_its_middle_missing_says_where(api: ApiUnderTest) -> None:
    head, tail = b"\xff" * (256 * 1024), bytes(768 * 1024)
    size = 100 * MIB
    cut = {"stdout_bytes": size, "stdout_head_bytes": len(head), "truncated": True, "stdout_sha256": "ab" * 32}
    await api.finish("t1", "web1", stdout=base64.b64encode(head + tail).decode(), encoding="base64", **cut)

    client = api.client("eve")
    piece = await get(client, limit=MIB)
    around_the_cut = await get(client, offset=len(head) - 1, limit=2)
    nothing = await get(client, stream="stderr")

    assert data_of(piece) == head + tail
    assert (piece["size_bytes"], piece["kept_bytes"], piece["head_bytes"]) == (size, MIB, len(head))
    assert (piece["truncated"], piece["sha256"], piece["next_offset"]) == (True, "ab" * 32, None)
    assert data_of(around_the_cut) == b"\xff\0"
    assert (nothing["data"], nothing["truncated"], nothing["next_offset"]) == ("", False, None)


async def test_how_a_group_differs_from_the_majority_can_be_made_from_the_groups(api: ApiUnderTest) -> None:
    for hostname in ("web1", "web2", "web3"):
        await api.finish("t1", hostname, stdout="same\nactive\n", stdout_sha256="aa" * 32)
    await api.finish("t1", "web4", stdout="same\ninactive\n", stdout_sha256="bb" * 32)

    [rare, majority] = (await api.client("eve").get("/api/v1/tasks/t1/outputs")).json()["groups"]

    assert (rare["hosts"], majority["hosts"]) == (["web4"], ["web1", "web2", "web3"])
    changes = list(difflib.ndiff(majority["stdout"].splitlines(), rare["stdout"].splitlines()))
    assert [line for line in changes if line[0] in "+-"] == ["- active", "+ inactive"]
