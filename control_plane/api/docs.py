"""The page of the API: its OpenAPI document for people, as plain HTML without any script, from our own files alone."""

from collections.abc import Iterable, Iterator, Mapping
from html import escape
from typing import Any, Final

from control_plane.api.authentication import OPENAPI_PATH

STYLES: Final = ("reset", "tokens", "base", "layout")
NO_CONTENT: Final = {"": {"schema": {"const": "nothing"}}}

Json = Mapping[str, Any]


def page(document: Json, build: str) -> str:
    """The whole page. Args: `build`: the digest under which the dashboard's files are served."""
    title = escape(f"{document['info']['title']} {document['info']['version']}")
    styles = "".join(f'<link rel="stylesheet" href="/ui/{build}/css/{name}.css">' for name in STYLES)
    by_tag: dict[str, list[str]] = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            by_tag.setdefault(operation["tags"][0], []).append(_operation(method, path, operation))
    schemas = document["components"]["schemas"]
    sections = [_section(tag, operations) for tag, operations in by_tag.items()]
    sections.append(_section("types", [_schema(name, schema) for name, schema in schemas.items()]))
    links = " ".join(f'<a href="#{escape(tag)}">{escape(tag)}</a>' for tag in (*by_tag, "types"))
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">{styles}</head><body><main>'
        f'<div class="head"><h1>{title}</h1><span class="row"><a href="/">dashboard</a>'
        f'<a href="{OPENAPI_PATH}">{OPENAPI_PATH}</a></span></div>'
        "<p>A program sends <code>Authorization: Bearer TOKEN</code>. Every error is a problem of RFC 9457 with "
        f'a stable <code>code</code>.</p><nav class="row note">{links}</nav>{"".join(sections)}'
        "</main></body></html>"
    )


def _section(name: str, panels: Iterable[str]) -> str:
    return f'<section id="{escape(name)}"><h2>{escape(name)}</h2>{"".join(panels)}</section>'


def _operation(method: str, path: str, operation: Json) -> str:
    public = "without credentials" if operation.get("security") == [] else ""
    parameters = [
        (one["name"], one["in"], one.get("required", False), one["schema"], one.get("description"))
        for one in operation.get("parameters", ())
    ]
    sent = [
        ("body", content_type, True, content["schema"], None)
        for content_type, content in operation.get("requestBody", {}).get("content", {}).items()
    ]
    answered = [
        (status, content_type, False, content.get("schema", {}), answer.get("description"))
        for status, answer in operation["responses"].items()
        if status != "default"  # the problem, which is told above for all of them
        for content_type, content in answer.get("content", NO_CONTENT).items()
    ]
    return _panel(
        f"{method.upper()} <code>{escape(path)}</code>",
        public,
        _text(operation.get("description")) + _table(parameters + sent) + _table(answered),
    )


def _schema(name: str, schema: Json) -> str:
    required = schema.get("required", ())
    fields = [
        (field, "", field in required, its, its.get("description"))
        for field, its in schema.get("properties", {}).items()
    ]
    heading = f'<span id="{escape(name)}"><code>{escape(name)}</code></span>'
    return _panel(heading, "", _text(schema.get("description")) + (_table(fields) or f"<p>{type_of(schema)}</p>"))


def _panel(heading: str, note: str, body: str) -> str:
    return (
        f'<div class="panel"><header><span>{heading}</span><span class="muted small">{note}</span></header>'
        f'<div class="body stack">{body}</div></div>'
    )


def _text(text: str | None) -> str:
    return "".join(f"<p>{escape(line)}</p>" for line in (text or "").splitlines() if line.strip())


def _table(rows: Iterable[tuple[str, str, bool, Json, str | None]]) -> str:
    """Name, place, whether it is required, type and meaning of each; nothing where there is none."""
    cells = "".join(
        f"<tr><td><code>{escape(name)}</code></td><td>{escape(place)}</td><td>{'required' if is_required else ''}</td>"
        f"<td>{type_of(schema)}</td><td>{escape(meaning or '')}</td></tr>"
        for name, place, is_required, schema, meaning in rows
    )
    return f'<div class="scroll"><table><tbody>{cells}</tbody></table></div>' if cells else ""


def type_of(schema: Json) -> str:
    """A schema's type in words, as HTML."""
    return " or ".join(dict.fromkeys(_types_of(schema)))


def _types_of(schema: Json) -> Iterator[str]:
    match schema:
        case {"$ref": str(reference)}:
            name = escape(reference.rpartition("/")[2])
            yield f'<a href="#{name}">{name}</a>'
        case {"anyOf": list(options)}:
            for option in options:
                yield from _types_of(option)
        case {"enum": list(values)}:
            yield from (escape(str(value)) for value in values)
        case {"const": value}:
            yield escape(str(value))
        case {"type": list(types)}:
            yield from map(escape, types)
        case {"type": "array", "items": items}:
            yield f"list of {type_of(items)}"
        case {"type": "object", "additionalProperties": dict(values)}:
            yield f"map of {type_of(values)}"
        case {"type": str(plain)}:
            yield escape(schema.get("format", plain))
        case _:
            yield "anything"
