"""The dashboard's files: read once, served from memory, immutable under a path that holds their digest."""

import hashlib
import mimetypes
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Final

from fastapi import APIRouter, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

import control_plane
from control_plane.api.problems import http_problem
from control_plane.api.routing import GuardedRoute

PLACEHOLDER: Final = b"/ui/@build/"
INDEX: Final = "index.html"
IMMUTABLE: Final = "public, max-age=31536000, immutable"
# Not the machine's own table, which may differ from one to the next.
CONTENT_TYPES: Final = mimetypes.MimeTypes()
CONTENT_TYPES.add_type("text/javascript", ".js")

# What the browser's address bar may hold: all of it is the one page, which looks at the address itself.
PAGES: Final = (
    "/",
    "/login",
    "/hosts",
    "/hosts/{hostname}",
    "/run",
    "/tasks",
    "/tasks/{task_id}",
    "/audit",
    "/access",
    "/system",
)
FILES: Final = "/ui/{digest}/{path:path}"


def ui_directory() -> Path:
    """In an installed wheel the files are in the package; in a checkout beside it, where an edit shows."""
    package = Path(control_plane.__file__).parent
    packaged = package / "_ui"
    return packaged if packaged.is_dir() else package.parent / "ui"


class StaticUi:
    """Attributes: `digest`: of all the files: another one is another build of the page."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        whole = hashlib.sha256()
        for name, data in sorted(files.items()):
            whole.update(len(name).to_bytes(4, "big") + name.encode() + len(data).to_bytes(4, "big") + data)
        self.digest = whole.hexdigest()[:16]
        self._files = files
        index = files.get(INDEX)
        self._index = None if index is None else index.replace(PLACEHOLDER, f"/ui/{self.digest}/".encode())

    @classmethod
    def read(cls, directory: Path) -> "StaticUi":
        return cls(
            {
                path.relative_to(directory).as_posix(): path.read_bytes()
                for path in directory.rglob("*")
                if path.is_file() and not path.name.startswith(".") and path.suffix != ".ts"  # for its checker alone
            }
        )

    def index(self, status: int = 200) -> Response:
        if self._index is None:
            raise HTTPException(404, "the dashboard is not installed")
        headers = {"cache-control": "no-cache"}
        return Response(self._index, status, headers, media_type="text/html; charset=utf-8")

    def file(self, digest: str, path: str) -> Response:
        data = self._files.get(path) if digest == self.digest else None
        if data is None:
            raise HTTPException(404, "there is no such file in this build of the dashboard")
        content_type = CONTENT_TYPES.guess_type(path)[0] or "application/octet-stream"
        return Response(data, headers={"cache-control": IMMUTABLE}, media_type=content_type)


class _PageRoute(GuardedRoute):
    def check_query(self, request: Request, known: set[str]) -> None:
        """The page reads its own query, so here any is fine."""


router = APIRouter(route_class=_PageRoute, include_in_schema=False)


def _ui(request: Request) -> StaticUi:
    ui: StaticUi = request.app.state.ui
    return ui


async def page(request: Request) -> Response:
    return _ui(request).index()


def _is_known(request: Request) -> bool:
    """Whether no page can have the address: as it was sent, which may be without a slash, or nothing at all."""
    first: str = request.scope["path"].lstrip("/").partition("/")[0]
    return "route" in request.scope or first in {"api", "ui"}


async def page_or_problem(request: Request, error: Exception) -> Response:
    """Where no route has the address that a browser goes to, the page says so itself: nobody reads a problem there."""
    is_absent = isinstance(error, HTTPException) and error.status_code == HTTPStatus.NOT_FOUND
    is_page = request.method == "GET" and "text/html" in request.headers.get("accept", "")
    if is_absent and is_page and not _is_known(request):
        try:
            return _ui(request).index(HTTPStatus.NOT_FOUND)
        except HTTPException as absent:
            return await http_problem(request, absent)
    return await http_problem(request, error)


for path in PAGES:
    router.add_api_route(path, page, methods=["GET"], response_model=None)


@router.get(FILES, response_model=None)
async def file(request: Request, digest: str, path: str) -> Response:
    return _ui(request).file(digest, path)
