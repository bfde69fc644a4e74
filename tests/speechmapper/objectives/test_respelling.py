"""A restricted vocabulary: which tokens are respelled, and how a batch's texts change."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from speechmapper.objectives.ctc import EmbeddingCTC
from speechmapper.objectives.respelling import Respelling, respell
from speechmapper.objectives.vocabulary import Vocabulary
from tests.speechmapper.objectives.ragged import RAGGED, answers, random_vectors

CPU = torch.device("cpu")
PIECES = ["<pad>", "k", "o", "w", "al", "ski", "kow", "ow", "kowalski", "walk", "x", "cow"]
ID = {piece: number for number, piece in enumerate(PIECES)}


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    made = Tokenizer(models.WordLevel(ID, unk_token="<pad>"))
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>")


def counts(**occurrences: int) -> np.ndarray:
    counts_V = np.zeros(len(PIECES), np.int64)
    for piece, count in occurrences.items():
        counts_V[ID[piece]] = count
    return counts_V


def spelled(found: dict[int, tuple[int, ...]]) -> dict[str, str]:
    return {PIECES[token]: " ".join(PIECES[piece] for piece in pieces) for token, pieces in found.items()}


def test_a_rare_token_is_the_fewest_frequent_pieces(tokenizer):
    """`kow` occurs 8 times inside other tokens, `al` 12 times, `ski` 2: too few."""
    given = counts(kowalski=2, kow=6, al=10, ski=9, walk=20, cow=1)
    # k o w al ow kow are frequent within these; `kowalski` is spelled kow al ski, the three of them frequent.
    assert spelled(respell(given, tokenizer, 8)) == {"kowalski": "kow al ski"}
    assert respell(given, tokenizer, 1) == {}


def test_a_token_that_cannot_be_spelled_stays(tokenizer):
    assert respell(counts(x=1, walk=30), tokenizer, 5) == {}


def test_special_tokens_are_no_pieces(tokenizer):
    given = counts(walk=30)
    given[ID["<pad>"]] = 1
    assert respell(given, tokenizer, 5) == {}


def test_texts_grow_by_the_pieces_and_keep_their_order():
    given = answers([[8, 9, 8], [9], [], [8]], [9, 9, 9, 9])
    found = Respelling({8: (6, 4, 5)}, len(PIECES), CPU)(given)
    assert found.tokens_B.tolist() == [7, 1, 0, 3]
    rows = [found.token_ids_BN[row, :size].tolist() for row, size in enumerate(found.tokens_B.tolist())]
    assert rows == [[6, 4, 5, 9, 6, 4, 5], [9], [], [6, 4, 5]]
    assert torch.equal(found.vectors_B, given.vectors_B)


def test_ctc_learns_the_pieces(table):
    """Of the tokens 2 2 5, 5 is spelled 1 3: the loss is that of 2 2 1 3 and of the other texts as they are."""
    respelling = Respelling({5: (1, 3)}, len(table), CPU)
    made = random_vectors(RAGGED, blank=torch.zeros(table.shape[1]))
    expected = EmbeddingCTC(Vocabulary(table, 0), 0.5)
    part = EmbeddingCTC(Vocabulary(table, 0), 0.5, respelling=respelling)
    other = answers([[1, 2], [3], [2, 2, 1, 3]], RAGGED.vectors_B.tolist())
    assert part(made, RAGGED)["ctc-embedding"].item() == pytest.approx(
        expected(made, other)["ctc-embedding"].item(), rel=1e-5
    )
    assert part.counts(RAGGED)["ctc-embedding"] == 7
