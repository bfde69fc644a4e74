"""A smaller vocabulary for CTC: rare tokens are spelled with pieces that occur often enough to be learned.

    objective.vocabulary 20        " kowalski" occurs twice, but " k", "ow", "al" and "ski" in a hundred other tokens
    token                          [" kowalski"]   ->   [" k", "ow", "al", "ski"]       the fewest pieces

A piece is a token of the LLM, so the LLM can read what is learned, and the scores are still a softmax over the whole
table. Occurrences of a string are counted inside all tokens of the training texts. A token that cannot be spelled with
frequent pieces stays as it is. (DirectSpeech2LLM, arXiv 2610.08085, has about 1,000 units of this kind, from merges
trained on its transcripts.)

Shapes: B batch, N tokens, M tokens after respelling, V vocabulary, L the longest spelling.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np
import torch

from speechmapper.objectives.base import Answers

AnswersT = TypeVar("AnswersT", bound=Answers)


class Respelling:
    """Spellings of every token.

    Args:
        spellings: the pieces of each token that is respelled.
        vocabulary: V.
    """

    def __init__(self, spellings: Mapping[int, tuple[int, ...]], vocabulary: int, device: torch.device) -> None:
        longest = max((len(pieces) for pieces in spellings.values()), default=1)
        pieces_VL = torch.full((vocabulary, longest), -1)
        pieces_VL[:, 0] = torch.arange(vocabulary)
        for token, pieces in spellings.items():
            pieces_VL[token, : len(pieces)] = torch.tensor(pieces)
        self._pieces_VL = pieces_VL.to(device)

    def __call__(self, answers: AnswersT) -> AnswersT:
        """The answers with respelled tokens, and their new numbers."""
        ids_BN, device = answers.token_ids_BN, answers.token_ids_BN.device
        is_token_BN = torch.arange(ids_BN.shape[1], device=device)[None, :] < answers.tokens_B[:, None]
        pieces_BX = self._pieces_VL[ids_BN].masked_fill(~is_token_BN[..., None], -1).flatten(1)
        is_piece_BX = pieces_BX >= 0
        tokens_B = is_piece_BX.sum(dim=1)
        # Stable: the pieces come first, in their order.
        order_BX = (~is_piece_BX).to(torch.int8).argsort(dim=1, stable=True)
        size = max(1, int(tokens_B.max()))
        ids_BM = pieces_BX.gather(1, order_BX)[:, :size].clamp(min=0)
        return dataclasses.replace(answers, token_ids_BN=ids_BM, tokens_B=tokens_B)


def respell(counts_V: np.ndarray, tokenizer: Any, least: int) -> dict[int, tuple[int, ...]]:
    """Spellings of the tokens whose string occurs fewer than `least` times.

    Args:
        counts_V: how often each token occurs in the training texts, (V,).
        tokenizer: a Hugging Face tokenizer; its special tokens are no pieces.
    """
    special = {str(token) for token in tokenizer.all_special_tokens}
    ids = {piece: token for piece, token in tokenizer.get_vocab().items() if piece not in special}
    names = {token: piece for piece, token in ids.items()}
    occurrences: Counter[str] = Counter()
    for token in np.flatnonzero(counts_V).tolist():
        for piece in _substrings(names.get(token, "")):
            if piece in ids:
                occurrences[piece] += int(counts_V[token])
    frequent = {piece for piece, count in occurrences.items() if count >= least}
    spellings = {}
    for token in np.flatnonzero(counts_V).tolist():
        name = names.get(token)
        if name is not None and name not in frequent:
            pieces = _fewest_pieces(name, frequent)
            if pieces:
                spellings[token] = tuple(ids[piece] for piece in pieces)
    return spellings


def _substrings(name: str) -> list[str]:
    return [name[start:end] for start in range(len(name)) for end in range(start + 1, len(name) + 1)]


def _fewest_pieces(name: str, known: set[str]) -> list[str]:
    """The shortest sequence of known pieces that spells `name`, the longest piece first among equals; [] if none."""
    best: list[list[str] | None] = [[], *[None] * len(name)]
    for end in range(1, len(name) + 1):
        for start in range(end):
            before, piece = best[start], name[start:end]
            if before is not None and piece in known and (best[end] is None or len(before) + 1 < len(best[end] or [])):
                best[end] = [*before, piece]
    return best[-1] or []
