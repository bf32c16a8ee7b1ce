"""The dashboard's files."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request

from control_plane.api.ui import StaticUi, page_or_problem
from control_plane.observability import Metrics

FILES = {"index.html": b"<link href=/ui/@build/css/base.css>", "css/base.css": b"body {}"}


def test_another_file_another_name_or_another_byte_is_another_build() -> None:
    builds = [
        FILES,
        {**FILES, "css/base.css": b"body { }"},
        {**FILES, "css/other.css": b""},
        {"index.html": FILES["index.html"], "css/bas": b"e.cssbody {}"},
    ]

    assert len({StaticUi(files).digest for files in builds}) == len(builds)
    assert StaticUi(dict(reversed(FILES.items()))).digest == StaticUi(FILES).digest


def test_the_page_points_at_the_files_of_its_own_build() -> None:
    ui = StaticUi(FILES)

    assert bytes(ui.index().body) == f"<link href=/ui/{ui.digest}/css/base.css>".encode()


def test_only_files_below_the_directory_are_served(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("no")
    directory = tmp_path / "ui"
    (directory / "js").mkdir(parents=True)
    (directory / "js" / "main.js").write_text("1")
    (directory / ".hidden").write_text("no")

    ui = StaticUi.read(directory)

    assert bytes(ui.file(ui.digest, "js/main.js").body) == b"1"
    for digest, path in ((ui.digest, "../secret"), (ui.digest, ".hidden"), ("0", "js/main.js"), (ui.digest, "js")):
        with pytest.raises(HTTPException):
            ui.file(digest, path)
    with pytest.raises(HTTPException):
        ui.index()


def a_request(path: str, accept: str) -> Request:
    app = FastAPI()
    app.state.ui = StaticUi(FILES)
    app.state.services = SimpleNamespace(metrics=Metrics())
    scope = {"type": "http", "method": "GET", "path": path, "query_string": b"a", "app": app}
    return Request({**scope, "headers": [(b"accept", accept.encode())]})


@pytest.mark.parametrize("path", ["", "foo", "//", "/foo"])
@pytest.mark.parametrize("accept", ["text/html", "*/*"])
async def test_whatever_address_somebody_sends_is_answered_as_one_that_is_not_there(path: str, accept: str) -> None:
    answered = await page_or_problem(a_request(path, accept), HTTPException(404))

    media_type = "text/html; charset=utf-8" if accept == "text/html" else "application/problem+json"
    assert (answered.status_code, answered.media_type) == (404, media_type)


@pytest.mark.parametrize("path", ["/api", "api/v1", "//api/v1", "/ui/x"])
async def test_what_is_no_page_s_address_is_a_problem_for_a_browser_too(path: str) -> None:
    answered = await page_or_problem(a_request(path, "text/html"), HTTPException(404))

    assert (answered.status_code, answered.media_type) == (404, "application/problem+json")
