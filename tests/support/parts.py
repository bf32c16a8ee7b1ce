"""Prints the types of the parts of the dashboard's templates: ui/js/parts.d.ts, which scripts/types makes."""

import json
from html.parser import HTMLParser
from pathlib import Path

INDEX = Path(__file__).parents[2] / "ui" / "index.html"


class Templates(HTMLParser):
    """Of each template by its id: `found`, the tags of its parts by `data-r`; `fields`, the types of its fields;
    `columns`, what the heads of its table are of (`data-of`)."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, dict[str, str]] = {}
        self.fields: dict[str, dict[str, str]] = {}
        self.columns: dict[tuple[str, str], list[str]] = {}
        self._parts: dict[str, str] | None = None
        self._fields: dict[str, str] = {}
        self._columns: list[str] = []
        self._template = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "template":
            self._template = given["id"] or ""
            self._parts = self.found.setdefault(self._template, {})
            self._fields = self.fields.setdefault(self._template, {})
        elif self._parts is not None:
            self._parts.setdefault("root", tag)
            part = given.get("data-r")
            if part:
                self._parts[part] = tag
            if tag == "table":
                self._columns = self.columns.setdefault((self._template, part or "root"), [])
            if column := given.get("data-of"):
                self._columns.append(column)
            if name := given.get("name"):
                self._fields[name] = "RadioNodeList" if given.get("type") == "radio" else type_of(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag == "template":
            self._parts = None


def type_of(tag: str) -> str:
    return f'{"SVG" if tag == "svg" else "HTML"}ElementTagNameMap["{tag}"]'


if __name__ == "__main__":
    templates = Templates()
    templates.feed(INDEX.read_text())
    print("// Made by scripts/types from index.html: what `make` gives of a template.")
    print("/** A table that has a column of each of these. It is no property that is there. */")
    print("export type Columns<Names> = { columns?: Names };")
    print("export interface Parts {")
    for identifier, parts in templates.found.items():
        print(f'  "{identifier}": {{')
        fields = "; ".join(f"{name}: {kind}" for name, kind in templates.fields[identifier].items())
        for name, tag in parts.items():
            more = f" & {{ elements: {{ {fields} }} }}" if fields and tag == "form" else ""
            if columns := templates.columns.get((identifier, name)):
                more = f" & Columns<{' | '.join(map(json.dumps, columns))}>"
            print(f"    {name}: {type_of(tag)}{more};")
        print("  };")
    print("}")
