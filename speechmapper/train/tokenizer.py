"""The tokenizer a target set carries, for reading vectors out as text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sm_store.errors import StoreCorrupt


def load_tokenizer(folder: Path) -> Any:
    """A Hugging Face tokenizer from a folder; no network, no code of the folder's own.

    Raises:
        StoreCorrupt: not a tokenizer.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise StoreCorrupt(f"{folder}: not a tokenizer ({' '.join(str(error).split())[:160]})") from error
