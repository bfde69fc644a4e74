"""Corpora on disk as manifests: one module per kind, each with `utterances(path, split)`.

    make_manifest("librispeech", Path("LibriSpeech"), Path("libri.jsonl"), "train-clean-100")
        28539 utterances into libri.jsonl

How to add a kind: docs/adding-a-corpus.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from sm_pipeline.corpora import (
    commonvoice,
    covost2,
    europarl_st,
    fleurs,
    hf,
    lhotse,
    librispeech,
    librisqa,
    mls,
    nemo,
    spoken_squad,
    voxpopuli,
)
from sm_pipeline.corpora.found import Found
from sm_pipeline.corpora.making import ManifestSummary, build
from sm_store.errors import ConfigError

KINDS: Mapping[str, Callable[[Path, str | None], Iterator[Found]]] = MappingProxyType(
    {
        "librispeech": librispeech.utterances,
        "commonvoice": commonvoice.utterances,
        "voxpopuli": voxpopuli.utterances,
        "mls": mls.utterances,
        "fleurs": fleurs.utterances,
        "covost2": covost2.utterances,
        "europarl-st": europarl_st.utterances,
        "spoken-squad": spoken_squad.utterances,
        "librisqa": librisqa.utterances,
        "nemo": nemo.utterances,
        "lhotse": lhotse.utterances,
        "hf": hf.utterances,
    }
)


def make_manifest(kind: str, path: Path, out: Path, split: str | None = None) -> ManifestSummary:
    """Write the manifest of a corpus on disk.

    Args:
        kind: one of KINDS. path: the corpus, as the kind's module says. out: the file to write.
        split: train, dev, test or the corpus's own name of one; None: all.

    Raises:
        ConfigError: no such kind.
        ManifestError: the corpus is not there, has a file that cannot be read, or no utterance at all.
    """
    if kind not in KINDS:
        raise ConfigError(f"{kind}: no such kind of corpus; use {', '.join(KINDS)}")
    return build(kind, KINDS[kind], path, out, split)
