"""Which training texts an alignment objective can use, counted before training.

    the the dog      3 tokens and a blank between two equal ones: 4 positions needed
    7 vectors        enough                                         3 vectors: the text has no loss

Fast speech, a tokenizer of many small pieces, or `objective.vocabulary` make texts longer than their vectors. More
vectors a second help: `model.strides=[2,1]` gives 12.5, the default [2,2] 6.25 (at 25 stored frames a second).
"""

from __future__ import annotations

from itertools import islice

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from sm_store.errors import ConfigError
from speechmapper.loader.data import TrainingData
from speechmapper.loader.token_ids import token_ids
from speechmapper.objectives import Objective
from speechmapper.objectives.base import Answers
from speechmapper.objectives.ctc import CTC

AT_ONCE = 4096  # texts


def alignment_report(objective: Objective, data: TrainingData, device: torch.device) -> str:
    """How many training texts cannot be aligned, for each part of the objective that aligns; empty where none does.

    Raises:
        ConfigError: no text at all can be aligned.
    """
    parts = [part for part in objective.parts.values() if isinstance(part, CTC)]
    if not parts:
        return ""
    total, unaligned = 0, dict.fromkeys((part.name for part in parts), 0)
    texts = token_ids(data)
    while chunk := tuple(islice(texts, AT_ONCE)):
        answers = answers_of(data, chunk, device)
        total += len(chunk)
        for part in parts:
            unaligned[part.name] += int((~part.aligned(answers)).sum())
    hint = "; model.strides=[2,1] gives twice the vectors" if any(unaligned.values()) else ""
    counts = ", ".join(f"{name} {count:,} of {total:,}" for name, count in unaligned.items())
    if total in unaligned.values():
        raise ConfigError(f"objective {counts} texts cannot be aligned with so few vectors{hint}")
    return f"texts that cannot be aligned: {counts}{hint}"


def answers_of(data: TrainingData, texts: tuple[tuple[int, np.ndarray], ...], device: torch.device) -> Answers:
    """The answers of some training utterances, without target embeddings."""
    frames_B = data.store.frames[np.asarray([index for index, _ in texts])].astype(np.int64)
    ids = [torch.from_numpy(each.astype(np.int64)) for _, each in texts]
    return Answers(
        targets_BUE=torch.zeros(0),
        vectors_B=torch.from_numpy(np.asarray(data.source.geometry.num_vectors(frames_B), np.int64)).to(device),
        tokens_B=torch.tensor([len(each) for each in ids], device=device),
        token_ids_BN=pad_sequence(ids, batch_first=True).to(device),
        frames_B=torch.from_numpy(frames_B).to(device),
    )
