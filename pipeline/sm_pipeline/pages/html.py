"""Pages of HTML: one jinja2 environment and one base for all of them, `templates/base.html.j2`.

    render_page(Path(__file__).parent / "templates" / "store.html.j2", facts=facts)      '<!doctype html>...'

A page is one file that needs nothing else: no script, no network, colours for light and dark mode. Its template
extends `base.html.j2`, which holds the head and the style, and fills its blocks: `title`, `style`, `header`, `main` and
`footer`. Every value is escaped; a value that the template uses and is not given is an error. The same values give the
same bytes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2

BASE_TEMPLATES = Path(__file__).parent / "templates"
LONGEST_TEXT = 400  # characters of a text, id or name that a page shows


def render_page(template: Path, **values: Any) -> str:
    """The page of a template file, given its values; the filter `brief` shortens long texts."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([template.parent, BASE_TEMPLATES]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["brief"] = brief
    return environment.get_template(template.name).render(**values)


def brief(text: str) -> str:
    """A text, cut after `LONGEST_TEXT` characters."""
    return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]}…"
