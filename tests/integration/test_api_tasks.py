"""Tasks over the API: previewed, asked for once, listed, cancelled, and read with what they printed."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from httpx import AsyncClient

from control_plane.events.envelope import EVENT, Key
from control_plane.events.tasks import ExecutionLateResult, ExecutionLost, TaskAccepted
from control_plane.projections.queries.tasks import ExecutionView
from tests.support.api import ApiUnderTest, an_api

pytestmark = pytest.mark.asyncio(loop_scope="module")

HOSTS = ("web1", "web2", "web3")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ApiUnderTest]:
    async with an_api(tmp_path_factory.mktemp("api")) as made:
        await made.register(*HOSTS, groups=["web"])
        yield made


async def test_a_task_is_accepted_with_its_row_and_its_seq(api: ApiUnderTest) -> None:
    accepted = await api.run(api.client("ada"), {"group": "web"}, task_id="first", reason="why not")

    task = accepted["task"]
    assert (task["task_id"], task["state"], task["counts"], task["targets"]) == ("first", "running", {"queued": 3}, 3)
    assert (task["actor"], task["target"], task["reason"]) == ("ada", {"group": "web"}, "why not")
    assert task["seq"] == accepted["seq"]
    shown = (await api.client("eve").get("/api/v1/tasks/first", params={"min_seq": accepted["seq"]})).json()
    assert shown == task


async def test_the_same_task_again_is_the_same_task_and_another_one_is_a_conflict(api: ApiUnderTest) -> None:
    ada, root = api.client("ada"), api.client("root")
    body = {"target": {"host": "web1"}, "command": "id", "timeout": 5, "user": "root"}
    key = {"Idempotency-Key": "again"}

    first = await ada.post("/api/v1/tasks", json=body, headers=key)
    again = await ada.post("/api/v1/tasks", json={**body, "task_id": "again"})
    other = await ada.post("/api/v1/tasks", json={**body, "command": "whoami"}, headers=key)
    somebody_else = await root.post("/api/v1/tasks", json=body, headers=key)
    two_keys = await ada.post("/api/v1/tasks", json={**body, "task_id": "another"}, headers=key)

    assert (first.status_code, again.status_code) == (202, 200)
    assert again.json()["seq"] == first.json()["seq"]
    assert again.json()["task"]["command"] == "id"
    assert [(a.status_code, a.json()["code"]) for a in (other, somebody_else)] == [(409, "key_conflict")] * 2
    assert two_keys.json()["errors"][0]["field"] == "task_id"


async def test_a_task_without_an_id_gets_one(api: ApiUnderTest) -> None:
    one, two = [await api.run(api.client("ada"), {"host": "web1"}) for _ in range(2)]

    assert one["task"]["task_id"] < two["task"]["task_id"]


async def test_a_preview_tells_the_hosts_and_a_task_is_held_to_it(api: ApiUnderTest) -> None:
    await api.register("db1", "db2", groups=["db"])
    api.presences.basic.add("db2")
    ada = api.client("ada")
    wanted = {"target": {"group": "db"}, "command": "cat", "stdin": "x"}

    preview = (await ada.post("/api/v1/targets/preview", json=wanted)).json()

    assert (preview["count"], preview["hosts"], preview["by_state"]) == (1, ["db1"], {"pending": 1})
    assert preview["excluded"] == [{"hostname": "db2", "reason": "basic agent: no stdin"}]
    assert preview["guard"] == {"level": 1, "rules": []}
    await api.register("db3", groups=["db"])
    task = {**wanted, "timeout": 5, "user": "root", "preview_id": preview["preview_id"]}
    changed = await ada.post("/api/v1/tasks", json=task)
    assert (changed.status_code, changed.json()["code"]) == (409, "target_changed")
    assert (changed.json()["joined"], changed.json()["left"]) == (["db3"], [])
    made_up = await ada.post("/api/v1/tasks", json={**task, "preview_id": "1.2.3"})
    assert (made_up.status_code, made_up.json()["code"]) == (409, "preview_expired")


async def test_an_empty_target_is_refused(api: ApiUnderTest) -> None:
    body = {"command": "id", "timeout": 5, "user": "root"}

    nobody = await api.client("ada").post("/api/v1/tasks", json={**body, "target": {"group": "nobody"}})
    unknown = await api.client("ada").post("/api/v1/tasks", json={**body, "target": {"hosts": ["web1", "web9"]}})

    assert (nobody.status_code, nobody.json()["code"]) == (422, "no_host_matched")
    assert (unknown.status_code, unknown.json()["code"]) == (422, "unknown_host")
    assert "web9" in unknown.json()["detail"]


async def test_lists_page_by_cursor_and_filter(api: ApiUnderTest) -> None:
    for number in range(5):
        await api.run(api.client("ada"), {"host": "web2"}, task_id=f"page{number}", command=f"echo needle {number}")
    await api.finish("page0", "web2", exit_code=1)
    eve = api.client("eve")

    seen: list[str] = []
    cursor = None
    while cursor is not None or not seen:
        query = {"q": "needle", "limit": 2, **({"cursor": cursor} if cursor else {})}
        page = (await eve.get("/api/v1/tasks", params=query)).json()
        seen += [task["task_id"] for task in page["items"]]
        cursor = page["next_cursor"]
        assert page["total"] == 5
        assert page["as_of"].startswith("e")

    assert seen == ["page4", "page3", "page2", "page1", "page0"]
    failed = (await eve.get("/api/v1/tasks", params={"outcome": "failed", "hostname": "web2"})).json()
    assert [task["task_id"] for task in failed["items"]] == ["page0"]
    early = (await eve.get("/api/v1/tasks", params={"to": "2020-01-01T00:00:00Z"})).json()
    assert early["items"] == []


async def test_cancelling_is_asked_for_once(api: ApiUnderTest) -> None:
    ada = api.client("ada")
    await api.run(ada, {"host": "web1"}, task_id="cancelled")

    once = await ada.post("/api/v1/tasks/cancelled/cancel", json={"reason": "changed my mind"})
    twice = await ada.post("/api/v1/tasks/cancelled/cancel")

    assert (once.status_code, twice.status_code) == (202, 202)
    assert once.json() == twice.json()
    shown = (await ada.get("/api/v1/tasks/cancelled", params={"min_seq": once.json()["seq"]})).json()
    assert shown["state"] == "cancelling"
    assert shown["cancel_requested_at"] is not None
    await api.finish("cancelled", "web1")
    assert (await ada.post("/api/v1/tasks/cancelled/cancel")).json()["code"] == "task_finished"


async def test_output_is_served_in_ranges_that_cut_no_character(api: ApiUnderTest) -> None:
    text = "aé€😀" * 100
    await api.run(api.client("ada"), {"host": "web1"}, task_id="ranges")
    missing = await api.client("eve").get("/api/v1/tasks/ranges/executions/web1/output")
    await api.finish("ranges", "web1", stdout=text)

    got, offset = "", 0
    while offset is not None:
        query = {"offset": offset, "limit": 7}
        piece = (await api.client("eve").get("/api/v1/tasks/ranges/executions/web1/output", params=query)).json()
        assert piece["offset"] == offset
        got += piece["data"]
        offset = piece["next_offset"]

    assert got == text
    size = len(text.encode())
    assert (piece["size_bytes"], piece["kept_bytes"], piece["truncated"]) == (size, size, False)
    tiny = (
        await api.client("eve").get("/api/v1/tasks/ranges/executions/web1/output", params={"offset": 7, "limit": 1})
    ).json()
    assert (tiny["offset"], tiny["data"]) == (6, "😀")
    assert (missing.status_code, missing.json()["code"]) == (404, "no_output")


async def test_output_that_is_not_text_comes_as_base64(api: ApiUnderTest) -> None:
    raw = bytes(range(256))
    await api.run(api.client("ada"), {"host": "web1"}, task_id="binary")
    await api.finish("binary", "web1", stdout=base64.b64encode(raw).decode(), encoding="base64")

    url = "/api/v1/tasks/binary/executions/web1/output"
    piece = (await api.client("eve").get(url, params={"offset": 200})).json()

    assert (piece["encoding"], base64.b64decode(piece["data"]), piece["size_bytes"]) == ("base64", raw[200:], 256)


async def test_output_says_what_was_not_kept(api: ApiUnderTest) -> None:
    await api.run(api.client("ada"), {"host": "web1"}, task_id="cut")
    fields = {"stdout_bytes": 5000, "stdout_head_bytes": 4, "stdout_sha256": "0" * 64, "truncated": True}
    await api.finish("cut", "web1", stdout="headtail", **fields)

    piece = (await api.client("eve").get("/api/v1/tasks/cut/executions/web1/output")).json()

    assert (piece["size_bytes"], piece["kept_bytes"], piece["head_bytes"]) == (5000, 8, 4)
    assert (piece["truncated"], piece["sha256"]) == (True, "0" * 64)


async def test_identical_outputs_are_one_group_and_the_rarest_comes_first(api: ApiUnderTest) -> None:
    await api.run(api.client("ada"), {"group": "web"}, task_id="groups")
    for hostname in ("web1", "web3"):
        await api.finish("groups", hostname, stdout="same\n")
    await api.finish("groups", "web2", stdout="other\n", exit_code=3, stderr="x" * 70_000)

    groups = (await api.client("eve").get("/api/v1/tasks/groups/outputs")).json()["groups"]

    assert [(group["hosts"], group["stdout"], group["exit_code"], group["truncated"]) for group in groups] == [
        (["web2"], "other\n", 3, True),
        (["web1", "web3"], "same\n", 0, False),
    ]
    assert len(groups[0]["stderr"]) == 65_536


async def test_executions_list_by_state_and_keep_late_evidence_beside(api: ApiUnderTest) -> None:
    await api.run(api.client("ada"), {"group": "web"}, task_id="late")
    await api.finish("late", "web1", stdout="\x1b[31mred\n")
    await api.record(ExecutionLost(task_id="late", hostname="web2", reason="silent"))
    message = {"task_id": "late", "exit_code": 0, "stdout": "", "stderr": "", "timestamp": 1}
    seq = await api.record(ExecutionLateResult(message=message, hostname="web2"))
    eve = api.client("eve")

    page = (await eve.get("/api/v1/tasks/late/executions", params={"state": "lost,queued"})).json()

    assert [row["hostname"] for row in page["items"]] == ["web2", "web3"]
    assert (page["total"], page["counts"]) == (2, {"succeeded": 1, "lost": 1, "queued": 1})
    lost = (await eve.get("/api/v1/tasks/late/executions/web2")).json()
    assert (lost["state"], lost["reason"]) == ("lost", "silent")
    assert lost["late"] == {"seq": seq, "outcome": "succeeded", "exit_code": 0}
    done = (await eve.get("/api/v1/tasks/late/executions/web1")).json()
    assert (done["first_line"], done["stdout_bytes"], done["exit_code"]) == ("\x1b[31mred", 9, 0)


async def test_an_execution_that_was_accepted_just_now_is_waited_for(
    api: ApiUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    await api.run(api.client("ada"), {"host": "web1"}, task_id="justnow")
    eve, url = api.client("eve"), "/api/v1/tasks/justnow/executions"
    read = api.services.task_queries.execution
    not_yet: set[str] = set()

    async def read_late(_: object, task_id: str, hostname: str) -> ExecutionView | None:
        if hostname in not_yet:
            not_yet.remove(hostname)
            return None
        return await read(task_id, hostname)

    monkeypatch.setattr(type(api.services.task_queries), "execution", read_late)
    codes = []
    for path in ("web1", "web1/output", "web9"):
        not_yet.add("web1")
        answer = await eve.get(f"{url}/{path}")
        codes.append(answer.json().get("code", answer.json().get("state")))

    assert codes == ["queued", "no_output", "unknown_execution"]


async def test_a_read_table_that_does_not_get_there_in_time_is_a_503(
    api: ApiUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("control_plane.api.fields.MIN_SEQ_WAIT_S", 0.05)

    answer = await api.client("eve").get("/api/v1/tasks", params={"min_seq": 2**40})

    assert (answer.status_code, answer.json()["code"]) == (503, "read_table_behind")
    assert answer.headers["retry-after"] == "1"


async def test_a_task_is_told_as_it_was(api: ApiUnderTest) -> None:
    ada = api.client("ada")
    accepted = await api.run(ada, {"hosts": ["web1", "web2"]}, task_id="then")
    await api.finish("then", "web1", stdout="one\n")
    later = (await ada.get("/api/v1/tasks/then")).json()
    await api.finish("then", "web2", stdout="two\n")
    at_first, midst = {"at": accepted["seq"]}, {"at": later["pos"]}

    assert (await ada.get("/api/v1/tasks/then", params=at_first)).json() == accepted["task"]
    assert (await ada.get("/api/v1/tasks/then", params=midst)).json() == later
    assert (await ada.get("/api/v1/tasks/then")).json()["state"] == "finished"
    running = (await ada.get("/api/v1/tasks", params={**midst, "state": "running", "limit": 1})).json()
    assert (running["items"], running["as_of"].partition(".")[0]) == ([later], f"e{later['pos']}")
    executions = (await ada.get("/api/v1/tasks/then/executions", params=midst)).json()
    assert [(row["hostname"], row["state"]) for row in executions["items"]] == [
        ("web1", "succeeded"),
        ("web2", "queued"),
    ]
    assert (await ada.get("/api/v1/tasks/then/executions/web2", params=midst)).json() == executions["items"][1]
    groups = (await ada.get("/api/v1/tasks/then/outputs", params=midst)).json()["groups"]
    assert [(group["state"], group["stdout"]) for group in groups] == [("succeeded", "one\n"), ("queued", None)]
    events = (await ada.get("/api/v1/events", params={**midst, "limit": 1})).json()
    assert events["items"][0]["seq"] == later["pos"]
    for path in ("", "/executions", "/executions/web1", "/outputs"):
        before = await ada.get(f"/api/v1/tasks/then{path}", params={"at": accepted["seq"] - 1})
        assert (before.status_code, before.json()["code"]) == (404, "unknown_task"), path
        assert "at that moment" in before.json()["detail"]
    unheard = await ada.get("/api/v1/tasks/then/executions/web2/output", params=midst)
    assert (unheard.status_code, unheard.json()["code"]) == (404, "no_output")


async def test_a_task_for_which_there_is_no_room_is_refused_before_anything_is_recorded(tmp_path: Path) -> None:
    async with an_api(tmp_path, max_waiting=3) as api:
        await api.register(*HOSTS, groups=["web"])
        ada = api.client("ada")
        body, two = {"command": "id", "timeout": 5, "user": "root"}, {"hosts": ["web1", "web2"]}
        await api.run(ada, two, task_id="first", **body)

        answers = await asyncio.gather(
            *(ada.post("/api/v1/tasks", json={**body, "target": {"host": name}, "task_id": name}) for name in HOSTS)
        )

        assert sorted(answer.status_code for answer in answers) == [202, 503, 503]
        refused = next(answer for answer in answers if answer.status_code == 503)
        task_id = json.loads(refused.request.content)["task_id"]
        problem = refused.json()
        assert (problem["code"], problem["waiting"], problem["most"]) == ("backlog_full", 3, 3)
        assert int(refused.headers["Retry-After"]) > 0
        assert await api.log.find(EVENT, [Key(task_id, TaskAccepted.KIND)]) == {}
        again = await ada.post("/api/v1/tasks", json={**body, "target": two, "task_id": "first"})
        assert again.status_code == 200, again.text

        await api.finish("first", "web1", exit_code=1)
        accepted = await until_there_is_room(ada, "/api/v1/tasks", json.loads(refused.request.content))
        assert accepted["task"]["task_id"] == task_id
        retry = {"states": ["failed"], "task_id": "once-more"}
        full = await ada.post("/api/v1/tasks/first/retry", json=retry)
        assert (full.status_code, full.json()["code"]) == (503, "backlog_full")
        await api.finish("first", "web2")
        await until_there_is_room(ada, "/api/v1/tasks/first/retry", retry)


async def until_there_is_room(client: AsyncClient, path: str, body: object) -> Any:
    async with asyncio.timeout(10):
        while (answer := await client.post(path, json=body)).status_code == 503:
            await asyncio.sleep(0.05)
    assert answer.status_code == 202, answer.text
    return answer.json()
