"""The contact sheet: one HTML file with all pictures beside each other."""

from html import escape
from pathlib import Path

STYLE = """
  body { font: 14px system-ui, sans-serif; margin: 16px; background: #888; }
  section { margin-bottom: 24px; }
  h2 { position: sticky; top: 0; left: 0; background: #888; margin: 0; padding: 4px 0; }
  .row { display: flex; gap: 12px; align-items: start; overflow-x: auto; }
  figure { margin: 0; flex: none; }
  img { display: block; max-width: 480px; max-height: 640px; }
"""


def write_sheet(path: Path, taken: dict[str, dict[str, str]], looks: list[str]) -> None:
    """Write the sheet: a row for each state, its pictures in the order of `looks`."""
    sections = []
    for state, files in taken.items():
        figures = "".join(
            f'<figure><figcaption>{escape(look)}</figcaption><a href="{escape(files[look])}">'
            f'<img loading="lazy" src="{escape(files[look])}" alt="{escape(state)} {escape(look)}"></a></figure>'
            for look in looks
            if look in files
        )
        sections.append(
            f'<section id="{escape(state)}"><h2>{escape(state)}</h2><div class="row">{figures}</div></section>'
        )
    head = f'<meta charset="utf-8"><title>Pages</title><style>{STYLE}</style>'
    path.write_text(f'<!doctype html>\n<html lang="en">{head}\n{"".join(sections)}\n</html>\n')
