"""Makes manifests of small corpora, reads them back, and opens every file they name."""

from __future__ import annotations

from pathlib import Path

import pytest

from sm_pipeline.audio import Cut, read_audio
from sm_pipeline.corpora import ManifestSummary, make_manifest
from sm_pipeline.manifest import Utterance, read_manifest
from sm_store.errors import ManifestError


def made(
    kind: str, path: Path, out: Path | None = None, split: str | None = None
) -> tuple[ManifestSummary, dict[str, Utterance]]:
    """The summary, and the utterances by id, their audio read in full."""
    target = out or path / "manifest.jsonl"
    summary = make_manifest(kind, path, target, split)
    manifest = read_manifest(target, summary.audio_root)
    for each in manifest.utterances:
        wave = read_audio(manifest.audio_path(each), Cut(each.offset, each.duration))
        assert wave.seconds > 0
        assert each.duration is None or wave.seconds == pytest.approx(each.duration, abs=0.1)
    assert summary.utterances == len(manifest.utterances)
    return summary, {each.id: each for each in manifest.utterances}


def refusal(kind: str, path: Path, split: str | None = None) -> str:
    """The one line that a corpus is refused with; nothing is written."""
    out = path.parent / "refused" / "m.jsonl"
    with pytest.raises(ManifestError) as caught:
        make_manifest(kind, path, out, split)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 600
    assert not out.exists()
    return message


def write_text(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def write_table(path: Path, *rows: tuple[str, ...]) -> Path:
    return write_text(path, "".join("\t".join(row) + "\n" for row in rows))
