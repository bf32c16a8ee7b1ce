from pathlib import Path

import httpx

from tests.support.faults.ledger import Client, Ledger, read
from tests.support.programs import Api

BODY = {"target": {"all": True}, "command": "true", "timeout": 30, "user": "root"}


def answering(*answers: int | Exception) -> Api:
    """An API that gives these answers in turn."""
    left = list(answers)

    def answer(request: httpx.Request) -> httpx.Response:
        given = left.pop(0)
        if isinstance(given, Exception):
            raise given
        return httpx.Response(given)

    api = Api("http://test", "token")
    api.http = httpx.Client(transport=httpx.MockTransport(answer), base_url="http://test")
    return api


def test_what_nobody_knows_is_asked_again_until_it_is_known(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger")
    client = Client(answering(httpx.ReadTimeout("late"), 503, 202, 409, httpx.ConnectError("gone")), ledger)

    assert client.submit("t1", BODY) == "ok"
    assert client.submit("t2", BODY) == "fail"
    assert client.ask("t3", BODY) == "info"

    book = ledger.read()
    assert (book.acknowledged, book.refused, book.unanswered) == ({"t1"}, {"t2"}, {"t3"})
    assert len(set(book.attempts.values())) == 1, "the same body, whatever its task is called"


def test_a_repeat_is_written_down_with_its_answer(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger")
    Client(answering(200, 409), ledger, answering(403)).repeat("t1", BODY)

    assert ledger.read().repeats == {"t1": [("same", 200), ("body", 409), ("actor", 403)]}


def test_half_a_line_at_the_end_was_never_written(tmp_path: Path) -> None:
    (tmp_path / "ledger").write_text('{"what": "ok", "task_id": "t1"}\n{"what": "ok", "ta')

    assert read(tmp_path / "ledger").acknowledged == {"t1"}
