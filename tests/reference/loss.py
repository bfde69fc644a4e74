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


def commitment(vectors: list[list[float]], rows: dict[int, list[float]], blank: list[float], row_scale: float) -> float:
    """Mean over the vectors that are nearer to a row than to the blank: squared distance to the nearest row."""

    def squared(left: list[float], right: list[float]) -> float:
        return sum((a - b) ** 2 for a, b in zip(left, right, strict=True))

    nearest = [(vector, min(squared(vector, row) for row in rows.values())) for vector in vectors]
    said = [distance / row_scale for vector, distance in nearest if distance < squared(vector, blank)]
    return sum(said) / len(said) if said else 0.0


def monotonic_alignments(positions: int, tokens: int) -> list[list[int]]:
    """Every way to give `positions` to `tokens` in order, each token at least one."""
    cuts = itertools.combinations(range(1, positions), tokens - 1)
    return [[sum(position >= cut for cut in each) for position in range(positions)] for each in cuts]


def dtw(
    vectors: list[list[float]], rows: list[list[float]], firing: list[float], mean: list[float], scale: float
) -> dict:
    """The sums of the alignment objective for one utterance, over the best of all alignments."""
    best = min(
        monotonic_alignments(len(vectors), len(rows)),
        key=lambda path: sum(1 - cosine(vector, rows[token]) for vector, token in zip(vectors, path, strict=True)),
    )
    found = {"dtw": 0.0, "dtw_cosine": 0.0, "dtw_firing": 0.0}
    for token, row in enumerate(rows):
        mine = [(weight, vector) for weight, vector, own in zip(firing, vectors, best, strict=True) if own == token]
        total = sum(weight for weight, _ in mine)
        pooled = [sum(weight * vector[axis] for weight, vector in mine) / total for axis in range(len(row))]
        found["dtw"] += squared_error(pooled, row, "mean_dim", 1.0) / scale
        found["dtw_cosine"] += cosine(
            [a - m for a, m in zip(pooled, mean, strict=True)], [b - m for b, m in zip(row, mean, strict=True)]
        )
        found["dtw_firing"] += abs(total - 1)
    return found
