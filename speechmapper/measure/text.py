"""Error rates: jiwer over texts normalised as the method says.

    error_rates(["He hoped for stew."], ["he hoped for a stew"])
    -> {"wer": 0.25, "cer": 0.125, "utterances": 1, "normalizer": "mms-1"}

Rates are over the whole corpus: edits of all utterances over words (characters) of all references. An
utterance whose reference normalises to nothing has no error rate: it is counted apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sm_pipeline.text import NORMALIZER, normalise


def error_rates(references: Sequence[str], outputs: Sequence[str]) -> dict[str, Any]:
    """`wer`, `cer`, `utterances`, `normalizer`, and `without_reference` where there were any.

    `wer` and `cer` are None where no utterance has a reference.
    """
    import jiwer

    pairs = [(normalise(reference), normalise(output)) for reference, output in zip(references, outputs, strict=True)]
    scored = [pair for pair in pairs if pair[0]]
    rates: dict[str, Any] = {"wer": None, "cer": None, "utterances": len(scored), "normalizer": NORMALIZER}
    if scored:
        expected, found = [pair[0] for pair in scored], [pair[1] for pair in scored]
        rates["wer"] = jiwer.wer(expected, found)
        rates["cer"] = jiwer.cer(expected, found)
    if len(scored) < len(pairs):
        rates["without_reference"] = len(pairs) - len(scored)
    return rates
