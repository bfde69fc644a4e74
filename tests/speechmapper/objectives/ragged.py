"""Batches of utterances of different lengths, and what a part makes of them.

batch = ragged_batch(seed, utterances=4)      random vectors and targets
loss_of(Cosine(), batch)                      the part's loss over the whole batch
answers([[1, 2], [3]], [4, 2])                given tokens and numbers of vectors, for parts that score tokens
random_vectors(RAGGED)                        absurd beyond the lengths
"""

from __future__ import annotations

import torch

from speechmapper.objectives import Answers
from speechmapper.projector import Projected

E = 5
Batch = tuple[Projected, Answers]
TABLE_WIDTH, TABLE_ROWS, PAD = 4, 7, 6  # of the `table` fixture


def ragged_batch(seed: int, utterances: int) -> Batch:
    """Random vectors and targets; lengths from 1 to 9, tokens below them; what lies beyond must never count."""
    generator = torch.Generator().manual_seed(seed)
    vectors_B = torch.randint(1, 10, (utterances,), generator=generator)
    tokens_B = torch.stack([torch.randint(0, int(size), (), generator=generator) for size in vectors_B])
    shape = (utterances, int(vectors_B.max()) + 2, E)
    vectors = torch.randn(shape, generator=generator)
    targets = torch.randn(shape, generator=generator)
    ids = torch.randint(0, 11, (utterances, 9), generator=generator)
    return projected(vectors, vectors_B), Answers(targets, vectors_B, tokens_B, ids, 4 * vectors_B)


def projected(vectors: torch.Tensor, vectors_B: torch.Tensor) -> Projected:
    return Projected(vectors, vectors_B, vectors, None)


def rows(batch: Batch, start: int, stop: int) -> Batch:
    found, answers = batch
    some = slice(start, stop)
    fields = (answers.targets_BUE, answers.vectors_B, answers.tokens_B, answers.token_ids_BN, answers.frames_B)
    return projected(found.vectors_BUE[some], found.vectors_B[some]), Answers(*(field[some] for field in fields))


def as_reference(batch: Batch) -> list[dict]:
    found, answers = batch
    return [
        {
            "vectors": found.vectors_BUE[b, :u].tolist(),
            "targets": answers.targets_BUE[b, :u].tolist(),
            "tokens": int(answers.tokens_B[b]),
        }
        for b, u in enumerate(answers.vectors_B.tolist())
    ]


def loss_of(part, batch: Batch) -> torch.Tensor:
    return part.combine(part(*batch), part.counts(batch[1]))


def answers(ids: list[list[int]], vectors: list[int]) -> Answers:
    longest = max(map(len, ids))
    padded = torch.tensor([row + [0] * (longest - len(row)) for row in ids])
    vectors_B = torch.tensor(vectors)
    targets = torch.zeros(len(ids), max(vectors) + 1, TABLE_WIDTH)
    return Answers(targets, vectors_B, torch.tensor([len(row) for row in ids]), padded, 2 * vectors_B)


def random_vectors(given: Answers, seed: int = 0, blank: torch.Tensor | None = None) -> Projected:
    """Random vectors; absurd ones beyond the lengths, which must never count."""
    vectors = torch.randn(given.targets_BUE.shape, generator=torch.Generator().manual_seed(seed))
    for row, size in enumerate(given.vectors_B.tolist()):
        vectors[row, size:] = 1e6
    return Projected(vectors.requires_grad_(), given.vectors_B, vectors, blank)


RAGGED = answers([[1, 2], [3], [2, 2, 5]], [4, 2, 5])
