"""Which utterances a mixture of tasks can be trained on, counted before any LLM is loaded.

    require_answers(mixture("asr=0.5,sqa=0.5"), StoreFields(store), indices, "train")
    -> "answers for: asr 8,000, sqa 2,000 of 10,000 utterances"

Counted is what `Mixture.draw` would draw from. A text that a recogniser wrote is no transcript to learn where there is
another task for the utterance.
"""

from __future__ import annotations

import numpy as np

from sm_store.errors import ConfigError
from speechmapper.tasks.base import RECOGNISED, Mixture
from speechmapper.tasks.store_fields import StoreFields


def require_answers(tasks: Mixture, fields: StoreFields, indices: np.ndarray, where: str) -> str:
    """Count the utterances that each task of the mixture has an answer for; returns the counts as text.

    Args:
        indices: of the utterances to train on (n,). where: their split, for errors.

    Raises:
        ConfigError: a task that no utterance has an answer for, or a translation that there is no prompt for.
    """
    used = [task for task, rate in tasks.rates if rate > 0]
    masks = {task.name: task.qualifying(fields, indices) for task in used}
    for task in used:
        if not masks[task.name].any():
            raise ConfigError(
                f"tuning.task {task.name}: no utterance of {where} has {task.needed() or 'text'}; "
                "choose another task or a store made from a manifest with it"
            )
    tasks.require_prompts(fields.languages(indices))
    without = len(indices) - int(_any([*masks.values()], len(indices)).sum())
    others = _any([masks[task.name] for task in used if not task.transcript], len(indices))
    spared = others & fields.among("corpus", RECOGNISED, indices)
    counts = {task.name: int((masks[task.name] & ~(spared & task.transcript)).sum()) for task in used}
    shown = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    text = f"answers for: {shown} of {len(indices):,} utterances"
    if spared.any() and any(task.transcript for task in used):
        text += f"; the texts of {int(spared.sum()):,} are a recogniser's and not learned as transcripts"
    return text + (f"; {without:,} without any are trained as {tasks.fallback.name}" if without else "")


def _any(masks: list[np.ndarray], count: int) -> np.ndarray:
    """Where any of the masks (n,) is set: a mask (n,), bool."""
    return np.logical_or.reduce([np.zeros(count, bool), *masks])
