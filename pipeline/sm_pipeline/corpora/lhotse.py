"""lhotse CutSets (lhotse.readthedocs.io): JSONL, also gzipped, one cut per line.

    cuts_train.jsonl.gz
        {"id": "talk-1", "start": 12.5, "duration": 1.2, "channel": 0, "type": "MonoCut",
         "supervisions": [{"id": "s1", "recording_id": "talk", "start": 0.0, "duration": 1.2, "channel": 0,
                           "text": "so there", "language": "en", "speaker": "A"}],
         "recording": {"id": "talk", "sources": [{"type": "file", "channels": [0], "source": "wav/talk.wav"}],
                       "sampling_rate": 16000, "num_samples": 480000, "duration": 30.0, "channel_ids": [0]}}

PATH: such a file, or a folder of them. A cut with one supervision is an utterance; with several, each of them
is one. A source is absolute or relative, then to the manifest's folder or one above it. The split follows from
the file's name.

Not every cut can be a line of a manifest: audio that is no file (shar, memory, url, command), one channel of
several, mixed and padded cuts, and changes of speed, tempo or volume are counted as skipped; to keep them,
write their audio first (`cuts.save_audios(folder)`) and save the result.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sm_pipeline.corpora.found import NO_TEXT, Found, Skipped, choose, files, split_of
from sm_pipeline.corpora.reading import Row, json_lines
from sm_pipeline.languages import tag_or_name
from sm_pipeline.manifest import Utterance
from sm_store.errors import ManifestError

SUFFIXES = (".jsonl", ".jsonl.gz")
HARMLESS = ("Resample",)  # extraction resamples anyway
SAME = 0.001  # seconds two times may differ by


def utterances(path: Path, split: str | None) -> Iterator[Found]:
    manifests = list(files(path, lambda name: name.endswith(SUFFIXES) and "cut" in name.lower()))
    if not manifests:
        raise ManifestError(f"{path}: no cuts*.jsonl or cuts*.jsonl.gz; save the CutSet with cuts.to_file(...)")
    chosen = choose([_name(each) for each in manifests], split, path)
    for each in manifests:
        if _name(each) in chosen:
            for row in json_lines(each):
                yield from [row] if isinstance(row, Skipped) else _cut(row, each)


def _name(path: Path) -> str:
    return path.name.removesuffix(".gz").removesuffix(".jsonl")


def _cut(row: Row, manifest: Path) -> Iterator[Found]:
    try:
        problem = _inexpressible(row)
        if problem is not None:
            yield Skipped(problem, row.where)
            return
        supervisions = row["supervisions"]
        alone = len(supervisions) == 1
        for supervision in supervisions:
            yield _utterance(row, supervision, manifest, alone)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        yield Skipped(f"no lhotse cut ({type(error).__name__})", row.where)


def _inexpressible(row: Row) -> str | None:
    """Why a manifest line cannot say what this cut is, or None."""
    if row["type"] not in ("MonoCut", "Cut"):  # "Cut": its older name
        return f"a {row['type']}, not a MonoCut: cuts.save_audios writes it as one"
    recording = row.values.get("recording")
    if recording is None:
        return "no recording: only features"
    sources = recording["sources"]
    kinds = sorted({source["type"] for source in sources} - {"file"})
    if kinds:
        return f"audio of type {kinds[0]}, no file: cuts.save_audios writes it as one"
    channels = {channel for source in sources for channel in source["channels"]}
    if len(sources) != 1 or len(channels) != 1:
        return "one channel of several: cuts.save_audios writes it as a file"
    if any(_transform(each) not in HARMLESS for each in recording.get("transforms") or ()):
        return "changed by a transform: cuts.save_audios writes the result"
    return None if row["supervisions"] else "no supervision"


def _transform(value: Any) -> str:
    return str(value.get("name", "")) if isinstance(value, dict) else type(value).__name__


def _utterance(row: Row, supervision: dict[str, Any], manifest: Path, alone: bool) -> Found:
    text = (supervision.get("text") or "").strip()
    if not text:
        return Skipped(NO_TEXT, row.where)
    whole = row["recording"]["duration"]
    offset, seconds = float(row["start"]), float(row["duration"])
    if not alone:  # its times count from the cut's start, and may lie outside it but not outside the recording
        offset, seconds = round(offset + supervision["start"], 8), float(supervision["duration"])
    is_file = abs(offset) < SAME and abs(seconds - whole) < SAME
    return Utterance(
        id=row["id"] if alone else supervision["id"],
        audio=_source(row["recording"]["sources"][0]["source"], manifest),
        text=text,
        offset=None if is_file else offset,
        duration=seconds,
        lang=tag_or_name(supervision.get("language")),
        speaker=supervision.get("speaker"),
        split=split_of(_name(manifest)),
    )


def _source(source: str, manifest: Path) -> str:
    """A relative source, from the folder of the manifest or the nearest one above that has it."""
    folder = manifest.absolute().parent
    for each in (folder, *folder.parents):
        if (each / source).is_file():
            return os.path.join(each, source)
    return os.path.join(folder, source)
