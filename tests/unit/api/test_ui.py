"""The dashboard's files."""

from pathlib import Path

import pytest
from starlette.exceptions import HTTPException

from control_plane.api.ui import StaticUi

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
