"""Simulated hosts are registered as fast as the server lets a token ask."""

import email.message
import io
import json
import threading
import urllib.error
import urllib.request
from typing import Any

import pytest

from control_plane_agent import simulated_fleet
from control_plane_agent.enrolment import Server
from control_plane_agent.errors import EnrolmentError, TooFastError
from control_plane_wire.signing import SigningKey, encode_base64
from control_plane_wire.strict_json import JsonObject


class LimitedServer(Server):
    """Answers 429 to the first request for each host."""

    def __init__(self) -> None:
        super().__init__("http://127.0.0.1", token="cp_x")
        self._lock = threading.Lock()
        self.seen: set[str] = set()
        self.registered: list[str] = []

    def get(self, path: str) -> JsonObject:
        key = encode_base64(SigningKey.generate().public_key)
        return {"items": [{"public_key": key, "state": "active"}]}

    def post(self, path: str, body: JsonObject) -> JsonObject:
        with self._lock:
            hostname = str(body["hostname"])
            if hostname not in self.seen:
                self.seen.add(hostname)
                raise TooFastError("refused: too many requests", 3.0)
            self.registered.append(hostname)
            return {"seq": len(self.registered)}


def test_whoever_is_told_to_wait_waits_and_asks_again(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr("time.sleep", waited.append)
    server = LimitedServer()

    found = simulated_fleet.identities_of(server, 20, ["web"], "secret")

    assert [each.hostname for each in found] == [f"sim-{number:04}" for number in range(1, 21)]
    assert sorted(server.registered) == [each.hostname for each in found]
    assert waited == [3.0] * 20


@pytest.mark.parametrize(
    ("status", "after", "wait_s"),
    [(429, "2", 2.0), (429, "9" * 50, 9999.0), (429, "soon", None), (429, None, None), (403, "2", None)],
)
def test_only_a_server_that_says_when_is_asked_again(
    monkeypatch: pytest.MonkeyPatch, status: int, after: str | None, wait_s: float | None
) -> None:
    headers = email.message.Message()
    if after is not None:
        headers["Retry-After"] = after

    def refuse(request: Any, **_: Any) -> None:
        body = io.BytesIO(json.dumps({"detail": "no"}).encode())
        raise urllib.error.HTTPError(request.full_url, status, "no", headers, body)

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    with pytest.raises(EnrolmentError, match="refused: no") as refused:
        Server("http://127.0.0.1").post("/hosts", {})

    assert (refused.value.wait_s if isinstance(refused.value, TooFastError) else None) == wait_s
