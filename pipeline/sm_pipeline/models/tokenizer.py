"""Tokenizers: of an LLM's checkpoint, and of a target set, which keeps the checkpoint's tokenizer files.

    tokenizer = load_tokenizer(resolve_model("smollm2-135m", "llm"))
    files = tokenizer_files(source, tokenizer)        {"tokenizer.json": b"...", ...}: what the store keeps
    load_stored_tokenizer(targets)                    the same tokenizer again, out of the store

    TextTokenizer.from_target_set(targets).token_ids("He hoped.")      int32 [255, 14762]: of "he hoped"

Neither needs the network, the LLM's weights or code of the checkpoint.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sm_pipeline.models.source import ModelSource
from sm_pipeline.text import NORMALIZER, normalise
from sm_store import TargetSet
from sm_store.errors import ModelError, StoreCorrupt
from sm_store.geometry import Geometry

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TOKENIZER_FILES = (
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "merges.txt",
    "sentencepiece.bpe.model",
    "special_tokens_map.json",
    "spiece.model",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
)


@dataclass(frozen=True, slots=True)
class TextTokenizer:
    """Transcripts to token ids as a target set stores them.

    Attributes:
        geometry: that the target set's vectors follow. normalizer: name of its text normaliser.
    """

    tokenizer: PreTrainedTokenizerBase
    geometry: Geometry
    normalizer: str = NORMALIZER

    @classmethod
    def from_target_set(cls, targets: TargetSet) -> TextTokenizer:
        """From the tokenizer files kept in the store; the LLM itself is not needed. Raises StoreCorrupt."""
        return cls(load_stored_tokenizer(targets), targets.spec.geometry, targets.spec.normalizer)

    def token_ids(self, text: str) -> np.ndarray:
        """Token ids of the normalised text, (tokens,) int32, without BOS and EOS."""
        ids = self.tokenizer(normalise(text, self.normalizer), add_special_tokens=False)["input_ids"]
        return np.asarray(ids, np.int32).reshape(-1)


def load_tokenizer(source: ModelSource, what: str = "llm") -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint.

    Args:
        what: the flag that named the checkpoint, for the message.

    Raises:
        ModelError: no usable tokenizer in the checkpoint.
    """
    try:
        return _from_pretrained(source.folder, source.gguf_file)
    except _Unusable as error:
        raise ModelError(
            f"--{what} {source.id}: its tokenizer cannot be loaded ({error}); "
            "give a folder with tokenizer.json or tokenizer.model"
        ) from error.__cause__


def load_stored_tokenizer(targets: TargetSet) -> PreTrainedTokenizerBase:
    """The tokenizer that a target set keeps, after its files were checked against their fingerprint.

    Raises:
        StoreCorrupt: a file is damaged, or they are no usable tokenizer.
    """
    targets.check_tokenizer()
    try:
        return _from_pretrained(targets.tokenizer_dir, None)
    except _Unusable as error:
        raise StoreCorrupt(f"{targets.tokenizer_dir}: not a tokenizer ({error})") from error.__cause__


def tokenizer_files(source: ModelSource, tokenizer: PreTrainedTokenizerBase) -> dict[str, bytes]:
    """The files of a checkpoint's tokenizer, contents by name; a folder with them gives the same tokenizer."""
    if source.gguf_file is None:
        present = [path for name in TOKENIZER_FILES if (path := source.folder / name).is_file()]
        return {path.name: path.read_bytes() for path in present}
    with tempfile.TemporaryDirectory() as scratch:
        tokenizer.save_pretrained(scratch)
        return {path.name: path.read_bytes() for path in sorted(Path(scratch).iterdir())}


class _Unusable(Exception):
    """transformers cannot make a tokenizer of these files; the first line of its reason."""


def _from_pretrained(folder: Path, gguf_file: str | None) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    settings: dict[str, Any] = {"gguf_file": gguf_file} if gguf_file is not None else {}
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True, **settings
        )
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        raise _Unusable((str(error).strip() or type(error).__name__).splitlines()[0][:160]) from error
    return tokenizer
