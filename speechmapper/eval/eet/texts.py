"""Texts to measure an LLM with: built-in sentences, a file, or the transcripts of a store.

    choose_texts(50)                                 50 sentences of the demo corpus's grammar
    choose_texts(50, file=Path("texts.txt"))         one text per line
    choose_texts(50, store=Path("corpus.store"))     transcripts of its dev split

    Texts(texts=("every happy farmer ...", ...), available=50, source="demo")

Texts are normalised. If there are too many, some are drawn at random, always the same ones.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from sm_pipeline.corpora.demo import draw_sentence
from sm_pipeline.text import normalise
from sm_store import Store
from sm_store.errors import ConfigError
from speechmapper.loader.data import DEV_SPLIT, choose_split

DEMO = "demo"
SEED = 0  # of the built-in sentences, and of the choice among too many texts


@dataclass(frozen=True, slots=True)
class Texts:
    """Normalised texts, none empty.

    Attributes:
        available: number of texts to choose from.
        source: `demo`, or the file or store (with its split).
        without_words: number of further texts that are empty once normalised.
    """

    texts: tuple[str, ...]
    available: int
    source: str
    without_words: int = 0

    def to_json(self) -> dict[str, Any]:
        """Counts, source, and SHA-256 of the texts joined by line ends."""
        return {
            "count": len(self.texts),
            "available": self.available,
            "without_words": self.without_words,
            "source": self.source,
            "sha256": hashlib.sha256("\n".join(self.texts).encode()).hexdigest(),
        }


def choose_texts(count: int, file: Path | None = None, store: Path | None = None, split: str | None = None) -> Texts:
    """At most `count` texts from a file, a store, or the built-in sentences.

    Args:
        split: of the store; None: `dev` if the store has splits, since a threshold may end a training.

    Raises:
        ConfigError: two sources, a file that cannot be read, or no text with words. StoreError: not a store.
    """
    if file is not None and store is not None:
        raise ConfigError("--texts, --store: give only one of the two")
    if split is not None and store is None:
        raise ConfigError(f"--split {split}: can only be used with --store")
    if file is not None:
        return _drawn(_lines(file), count, f"--texts {file}", str(file))
    if store is None:
        return _drawn(_sentences(count), count, "the demo corpus", DEMO)
    opened = Store.open(store)
    chosen = choose_split(opened, split, DEV_SPLIT)
    column = opened.columns(["text"])["text"]
    kept = column.take(opened.select(split=chosen)) if chosen else column
    source = f"{store}, split {chosen}" if chosen else str(store)
    return _drawn(kept.to_pylist(), count, f"--store {source}", source)


def _sentences(count: int) -> list[str]:
    """Distinct sentences of the demo corpus's grammar."""
    random = Random(SEED)
    drawn: dict[str, None] = {}
    while len(drawn) < count:
        drawn[draw_sentence(random)] = None
    return list(drawn)


def _lines(file: Path) -> list[str]:
    try:
        return [line for line in file.read_bytes().decode("utf-8").split("\n") if line.strip()]
    except OSError as error:
        raise ConfigError(
            f"--texts {file}: cannot be read ({error.strerror}); name a file with one text per line"
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"--texts {file}: not UTF-8 (byte {error.start}); save it as UTF-8") from error


def _drawn(raw: Iterable[str | None], count: int, origin: str, source: str) -> Texts:
    """The normalised texts that have words; if they are too many, a random choice of them, in their own order."""
    texts = [normalise(text or "") for text in raw]
    usable = [text for text in texts if text]
    if not usable:
        raise ConfigError(f"{origin}: no text contains words; give at least one that does")
    rows = range(len(usable))
    chosen = sorted(Random(SEED).sample(rows, count)) if count < len(usable) else rows
    return Texts(tuple(usable[row] for row in chosen), len(usable), source, len(texts) - len(usable))
