"""The API's OpenAPI document."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from control_plane.api import problems
from control_plane.api.authentication import PUBLIC


def describe(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document of an application: what FastAPI knows, and what the gate does."""
    if app.openapi_schema is not None:
        return app.openapi_schema
    schema = get_openapi(title=app.title, version=app.version, routes=app.routes)
    schema.setdefault("components", {})["securitySchemes"] = {
        "token": {"type": "http", "scheme": "bearer"},
        "session": {"type": "apiKey", "in": "cookie", "name": app.state.cookie.name},
    }
    schema["security"] = [{"token": []}, {"session": []}]
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            if (method.upper(), path) in PUBLIC:
                operation["security"] = []
            operation["responses"].pop("422", None)
            content = {problems.CONTENT_TYPE: {"schema": problems.SCHEMA}}
            for status, answer in operation["responses"].items():
                if status.startswith("4"):
                    answer["content"] = content
            operation["responses"]["default"] = {"description": "A problem, with a stable `code`.", "content": content}
            _describe_body(operation)
    _close_maps(schema["components"]["schemas"])
    app.openapi_schema = schema
    return schema


def _describe_body(operation: dict[str, Any]) -> None:
    """A body that may be left out is no `null`, which the gate refuses like all that is no object."""
    for form in operation.get("requestBody", {}).get("content", {}).values():
        forms = [each for each in form["schema"].get("anyOf", ()) if each != {"type": "null"}]
        if len(forms) == 1:
            form["schema"] = forms[0]


def _close_maps(node: object) -> None:
    """A map whose names have a pattern has no others; JSON Schema lets those hold anything, unless it is told."""
    match node:
        case dict():
            if "patternProperties" in node:
                node["additionalProperties"] = False
            for each in node.values():
                _close_maps(each)
        case list():
            for each in node:
                _close_maps(each)
