"""Text from projector vectors without an LLM: the tokens that the projector's head reads, as text.

readout nearest     nearest   1123  284   <pad> <pad>       least squared distance over the whole table
                    text      "the dog"                     pads dropped, nothing collapsed, the tokenizer
readout ctc, cif    tokens of the units (speechmapper/heads)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class NearestToken:
    """Text of the tokens that a projector's head reads (`Head.token_ids`).

    Args:
        tokenizer: a Hugging Face tokenizer.
        pad_id: the row that means "no more text".
    """

    def __init__(self, tokenizer: Any, pad_id: int) -> None:
        self._tokenizer, self._pad_id = tokenizer, pad_id

    def texts(self, token_ids: Sequence[Sequence[int]]) -> list[str]:
        """Text of each row: pads dropped, special tokens not written."""
        kept = [[token for token in row if token != self._pad_id] for row in token_ids]
        return [
            self._tokenizer.decode(row, skip_special_tokens=True, clean_up_tokenization_spaces=False).strip()
            for row in kept
        ]

    def lengths(self, token_ids: Sequence[Sequence[int]]) -> list[int]:
        """How many tokens each row says: those before its first pad."""
        return [list(row).index(self._pad_id) if self._pad_id in row else len(row) for row in token_ids]
