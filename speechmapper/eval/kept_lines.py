"""Results of an expensive measurement that an evaluation keeps, as JSON lines beside its predictions.

    read_kept(out / "comet.jsonl", {"sha256": str, "score": float})
    [{"id": "test-1", "sha256": "3f9a1c02b7d4", "score": 0.93}]

Each line says what it was made from (`sha256`), so that it is used again exactly while that is unchanged. A line that
is damaged or of another form is none: what it held is measured again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def read_kept(path: Path, fields: Mapping[str, type]) -> list[dict[str, Any]]:
    """The lines of a file that have all of these fields, of these types; empty where there is no such file."""
    try:
        raw = path.read_bytes().split(b"\n")
    except OSError:
        return []
    kept = []
    for text in raw:
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if isinstance(line, dict) and all(type(line.get(name)) is kind for name, kind in fields.items()):
            kept.append(line)
    return kept
