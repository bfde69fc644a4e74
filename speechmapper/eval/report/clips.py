"""Audio of examples, as small MP3 inside the page.

    clips = Clips([Path("corpus/manifest.jsonl")])
    clips.of(evaluation, "test-0007")        Clip("data:audio/mpeg;base64,...", "")
    clips.of(of_a_store, "test-0007")        Clip("", "a store has features and no audio; --manifest names ...")

The audio is that of the manifest with this id: one that the user names, else the one that the evaluation was made
from. It is as recorded, without what `--degrade` did to it. MP3 of 16 kHz mono at 24 kbit/s, at most 30 seconds of an
utterance, and no more than `LARGEST` bytes in one page.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from sm_pipeline.audio import SAMPLE_RATE, Cut, read_audio
from sm_pipeline.manifest import Manifest, Utterance, read_manifest
from sm_store.errors import ManifestError, SampleError
from speechmapper.eval.report.evaluations import Evaluation

QUALITY = 0.9  # of libsndfile's scale, 0 best to 1 worst: 24 kbit/s at a constant rate
LONGEST = 30.0  # seconds of an utterance
LARGEST = 5_500_000  # bytes of all clips together, as they are in the page
NAME_IT = "--manifest names one with these ids"


@dataclass(frozen=True, slots=True)
class Clip:
    """What `src` of a player is; where there is none, why."""

    source: str
    reason: str = ""


class Clips:
    """Clips of utterances, each made once.

    Args:
        manifests: to look for ids in, before the evaluation's own source.

    Raises:
        ManifestError: one of these cannot be read.
    """

    def __init__(self, manifests: Sequence[Path] = ()) -> None:
        self._named = [_by_id(read_manifest(path)) for path in manifests]
        self._sources: dict[str, dict[str, tuple[Manifest, Utterance]] | str] = {}
        self._made: dict[tuple[Path, float | None, float | None], Clip] = {}
        self._bytes = 0

    def of(self, evaluation: Evaluation, identifier: str) -> Clip:
        """The clip of an utterance of an evaluation."""
        source = self._source(evaluation)
        places = [*self._named, *([source] if isinstance(source, dict) else [])]
        found = next((place[identifier] for place in places if identifier in place), None)
        if found is None:
            return Clip("", source if isinstance(source, str) else f"no utterance of this id in it; {NAME_IT}")
        return self._clip(*found)

    def _source(self, evaluation: Evaluation) -> dict[str, tuple[Manifest, Utterance]] | str:
        """The evaluation's own manifest, or why there is none."""
        where = evaluation.about.get("source")
        if not isinstance(where, str) or not where:
            return f"no source is recorded; {NAME_IT}"
        if where not in self._sources:
            self._sources[where] = _read_source(where)
        return self._sources[where]

    def _clip(self, manifest: Manifest, utterance: Utterance) -> Clip:
        key = (manifest.audio_path(utterance), utterance.offset, utterance.duration)
        if key not in self._made:
            try:
                wave = read_audio(key[0], Cut(utterance.offset, utterance.duration))
            except SampleError as error:
                self._made[key] = Clip("", str(error))
            else:
                self._made[key] = Clip(as_data(wave.samples))
        clip = self._made[key]
        if self._bytes + len(clip.source) > LARGEST:
            return Clip("", "left out, as the page has as much audio as one should have")
        self._bytes += len(clip.source)
        return clip


def as_data(samples: np.ndarray) -> str:
    """Mono float32 samples (samples,) at 16 kHz as the address of an MP3 that is its own content."""
    out = io.BytesIO()
    cut = samples[: int(LONGEST * SAMPLE_RATE)]
    soundfile.write(
        out,
        cut,
        SAMPLE_RATE,
        format="MP3",
        subtype="MPEG_LAYER_III",
        compression_level=QUALITY,
        bitrate_mode="CONSTANT",
    )
    return f"data:audio/mpeg;base64,{base64.b64encode(out.getvalue()).decode('ascii')}"


def _by_id(manifest: Manifest) -> dict[str, tuple[Manifest, Utterance]]:
    return {utterance.id: (manifest, utterance) for utterance in manifest.utterances}


def _read_source(where: str) -> dict[str, tuple[Manifest, Utterance]] | str:
    path = Path(where)
    try:
        if path.is_dir() or "://" in where:
            return f"made from a store, which has features and no audio; {NAME_IT}"
        if not path.is_file():
            return f"the manifest it was made from is not at {where} any more; {NAME_IT}"
        return _by_id(read_manifest(path))
    except (ManifestError, OSError, ValueError) as error:
        return f"the manifest it was made from cannot be read: {error}; {NAME_IT}"
