"""The page of the API: what the OpenAPI document says, as text."""

from typing import Any

import pytest

from control_plane.api.docs import page, type_of


def a_document(**operation: Any) -> dict[str, Any]:
    return {
        "info": {"title": "control plane", "version": "1.0"},
        "paths": {"/x": {"get": {"tags": ["things"], "responses": {}, **operation}}},
        "components": {"schemas": {}},
    }


def test_text_is_text() -> None:
    hostile = "<img src=x onerror=alert(1)>"

    html = page(a_document(description=hostile, tags=[hostile]), "0")

    assert "<img" not in html
    assert html.count("&lt;img") >= 2


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        ({"type": "string"}, "string"),
        ({"type": "string", "format": "date-time"}, "date-time"),
        ({"$ref": "#/components/schemas/Host"}, '<a href="#Host">Host</a>'),
        ({"type": "array", "items": {"type": "integer"}}, "list of integer"),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, "string or null"),
        ({"enum": ["<a>", 1]}, "&lt;a&gt; or 1"),
        ({"const": True}, "True"),
        ({"type": "object", "additionalProperties": {"type": "integer"}}, "map of integer"),
        ({"type": ["string", "null"]}, "string or null"),
        ({"type": "object"}, "object"),
        ({}, "anything"),
    ],
)
def test_a_type_is_told_in_words(schema: dict[str, Any], told: str) -> None:
    assert type_of(schema) == told


def test_an_operation_is_shown_with_what_it_takes_and_what_it_answers() -> None:
    html = page(
        a_document(
            parameters=[{"name": "q", "in": "query", "required": True, "schema": {"type": "string"}}],
            requestBody={"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Ask"}}}},
            responses={"200": {"description": "fine", "content": {"application/json": {"schema": {"type": "null"}}}}},
            security=[],
        ),
        "0",
    )

    for part in ("q", "query", "required", '<a href="#Ask">Ask</a>', "200", "fine", "null", "without credentials"):
        assert part in html
