"""A tokenizer of a few pieces, some with their space as in byte-level BPE: the longest piece that fits, each time."""

from __future__ import annotations

from collections.abc import Sequence


class Pieces:
    """Like a Hugging Face tokenizer, for as much as hotwords need."""

    unk_token_id = None

    def __init__(self, *pieces: str) -> None:
        self._pieces = pieces

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        assert not add_special_tokens
        ids = []
        while text:
            best = max((piece for piece in self._pieces if text.startswith(piece)), key=len, default="")
            if not best:
                return {"input_ids": []}
            ids.append(self._pieces.index(best))
            text = text.removeprefix(best)
        return {"input_ids": ids}

    def decode(self, ids: Sequence[int], **_: bool) -> str:
        return "".join(self._pieces[token] for token in ids)

    def ids(self, *pieces: str) -> tuple[int, ...]:
        """The numbers of pieces."""
        return tuple(self._pieces.index(piece) for piece in pieces)
