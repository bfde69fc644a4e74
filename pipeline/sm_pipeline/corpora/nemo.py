"""NeMo manifests (docs.nvidia.com/nemo): JSONL, one utterance per line.

    train_manifest.json
        {"audio_filepath": "clips/a.wav", "duration": 3.2, "text": "so there"}
        {"audio_filepath": "/data/talks/b.wav", "offset": 12.5, "duration": 1.2, "text": "and then", "lang": "en"}

PATH: such a file, or a folder of *.json and *.jsonl of this kind. Audio is relative to the manifest or
absolute. The split follows from the file's name. There are no ids: an utterance is named after its file, with its
offset if it has one. Also read where present: id, lang or source_lang, speaker, question, answer.
Tarred manifests have to be unpacked first. An answer `na` is none. `train__OP_0..3_CL_.json` as PATH names the four
manifests train_0.json to train_3.json.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from sm_pipeline.corpora.found import NO_TEXT, Found, Skipped, choose, files, sharded, split_of, stem_of
from sm_pipeline.corpora.reading import OddRow, Row, json_lines, lines, usable
from sm_pipeline.languages import tag_or_name
from sm_pipeline.manifest import Utterance
from sm_store.errors import ManifestError

REMOTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
SEVERAL = "several audio files in one row"
AT_A_URL = "audio at a URL"
NO_ANSWER = "na"
TRANSLATED = "text is in another language than the speech"


def utterances(path: Path, split: str | None) -> Iterator[Found]:
    shards = sharded(path)
    if not shards:
        shards = [path] if path.is_file() else [each for each in files(path, _is_json) if _is_manifest(each)]
    manifests = shards
    if not manifests:
        raise ManifestError(f"{path}: no .json or .jsonl with audio_filepath in its lines; give a NeMo manifest")
    chosen = choose([each.stem for each in manifests], split, path)
    for each in manifests:
        if each.stem in chosen:
            yield from usable(json_lines(each), partial(_utterance, manifest=each))


def _is_json(name: str) -> bool:
    return name.endswith((".json", ".jsonl"))


def _is_manifest(path: Path) -> bool:
    """By its first line: other JSON may lie beside, the manifest that is being written among it."""
    first = next(lines(path), ("", ""))[1]
    return "audio_filepath" in first


def _utterance(row: Row, manifest: Path) -> Found:
    name = row.values.get("audio_filepath")
    if isinstance(name, list):
        return Skipped(SEVERAL, row.where)
    if not isinstance(name, str) or not name.strip():
        raise OddRow("no audio_filepath")
    if REMOTE.match(name):
        return Skipped(AT_A_URL, row.where)
    source = row.text("source_lang")
    if source != row.text("target_lang") and row.text("target_lang"):
        return Skipped(TRANSLATED, row.where)
    if not row.text("text"):
        return Skipped(NO_TEXT, row.where)
    audio = os.path.join(manifest.parent, name)  # an absolute name stays as it is
    if "shard_id" in row.values and not os.path.exists(audio):
        raise OddRow("audio in a tar: unpack the tars")
    offset = row.seconds("offset")
    return Utterance(
        id=row.text("id", "utt_id") or (stem_of(name) + (f"@{offset:g}" if offset else "")),
        audio=audio,
        text=row.text("text"),
        offset=offset,
        duration=row.seconds("duration"),
        lang=tag_or_name(row.text("lang", "source_lang")),
        speaker=_name(row, "speaker"),
        split=split_of(manifest.stem),
        question=row.text("question") or None,
        answer=None if row.text("answer").lower() == NO_ANSWER else row.text("answer") or None,
    )


def _name(row: Row, key: str) -> str | None:
    value = row.values.get(key)
    return str(value) if isinstance(value, (str, int)) and str(value).strip() else None
