"""Stage 1 loss, one position at a time in plain Python floats (arXiv 2601.20417, section 2)."""

from __future__ import annotations

import itertools
import math


def squared_error(vector: list[float], target: list[float], reduction: str, table_scale: float) -> float:
    """One position's error over the E dimensions."""
    total = sum((a - b) ** 2 for a, b in zip(vector, target, strict=True))
    return {"sum_dim": total, "mean_dim": total / len(vector), "normalized": total / table_scale}[reduction]


def cosine(vector: list[float], target: list[float]) -> float:
    """Cosine similarity of one position."""
    dot = sum(a * b for a, b in zip(vector, target, strict=True))
    return dot / (math.hypot(*vector) * math.hypot(*target))


def stage1_loss(batch: list[dict], alpha: float, cosine_weight: float, reduction: str, table_scale: float) -> dict:
    """Loss of utterances `{"vectors", "targets": lists over the valid positions, "tokens": number of tokens}`.

    Returns word and pad means, their counts, the mean cosine and the loss.
    """
    word, pad, cosines = [], [], []
    for utterance in batch:
        for position, (vector, target) in enumerate(zip(utterance["vectors"], utterance["targets"], strict=True)):
            error = squared_error(vector, target, reduction, table_scale)
            if position <= utterance["tokens"]:  # the tokens and the first pad
                word.append(error)
                cosines.append(cosine(vector, target))
            else:
                pad.append(error)
    means = [sum(values) / len(values) if values else 0.0 for values in (word, pad, cosines)]
    loss = alpha * means[0] + (10 - alpha) * means[1] - cosine_weight * means[2]
    return {"loss": loss, "word": means[0], "pad": means[1], "cosine": means[2], "counts": (len(word), len(pad))}


def l1_error(vector: list[float], target: list[float]) -> float:
    """One position's mean absolute error."""
    return sum(abs(a - b) for a, b in zip(vector, target, strict=True)) / len(vector)


def log_softmax(scores: list[float]) -> list[float]:
    """Natural logarithms of a softmax."""
    top = max(scores)
    total = top + math.log(sum(math.exp(score - top) for score in scores))
    return [score - total for score in scores]


def contrastive_loss(
    vectors: list[list[float]], labels: list[int], table: list[list[float]], temperature: float
) -> float:
    """Sum over positions of the cross-entropy of cosines to every row."""
    return -sum(
        log_softmax([cosine(vector, row) / temperature for row in table])[label]
        for vector, label in zip(vectors, labels, strict=True)
    )


def ctc_loss(log_probs: list[list[float]], tokens: list[int], blank: int) -> float:
    """-log of the probability of all paths that collapse to the tokens: every path is written out."""
    total = 0.0
    for path in itertools.product(range(len(log_probs[0])), repeat=len(log_probs)):
        merged = [label for label, _ in itertools.groupby(path)]
        if [label for label in merged if label != blank] == tokens:
            total += math.exp(sum(step[label] for step, label in zip(log_probs, path, strict=True)))
    return -math.log(total) if total else math.inf
