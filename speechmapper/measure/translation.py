"""BLEU and chrF of translations by sacrebleu, from what each line adds to them.

    TranslationMatches.of(["Der Hund schlief."], ["Der Hund schläft."], ["de"]).figures()
      {"bleu": 42.7, "chrf": 70.6, "utterances": 1, "bleu_signature": "nrefs:1|...|tok:13a|...", "chrf_signature": ...}

BLEU's tokenizer is the one that sacrebleu has for a line's language (`zh`, `ja-mecab`, `ko-mecab`, else `13a`). With
several languages each line is cut by its own, and the signature names all. Japanese and Korean are cut into characters
(`tok:char`) where MeCab is not installed: `pip install "sacrebleu[ja,ko]"`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from sm_pipeline.languages import language_tag
from sm_store.extras import extra_module
from speechmapper.measure.sums import ScoredLines, Sums


@dataclass(frozen=True, slots=True)
class TranslationMatches(ScoredLines):
    """n-grams of N translations that are in their references.

    Attributes:
        bleu_NK, chrf_NK: sacrebleu's statistics of each line.
        tags: the language of each line's reference, `` where it is not known.
    """

    bleu_NK: np.ndarray
    chrf_NK: np.ndarray
    tags: Sequence[str]

    @classmethod
    def of(
        cls, references: Sequence[str], outputs: Sequence[str], languages: Sequence[str | None]
    ) -> TranslationMatches:
        """Count the matches of outputs with references, in languages under any of their names."""
        tags = [(language_tag(language) or "") if language else "" for language in languages]
        bleu: list[list[int]] = [[]] * len(tags)
        for tag in dict.fromkeys(tags):
            rows = [row for row, each in enumerate(tags) if each == tag]
            found = _statistics(bleu_metric(tag), [outputs[row] for row in rows], [references[row] for row in rows])
            for row, counts in zip(rows, found, strict=True):
                bleu[row] = counts
        chrf = _statistics(_chrf(), outputs, references)
        return cls(_table(bleu), _table(chrf), tags)

    def sums(self) -> Mapping[str, Sums]:
        """`bleu` and `chrf`, 0 to 100, over the corpus."""
        return {
            "bleu": Sums(self.bleu_NK, _score_of(bleu_metric(""))),
            "chrf": Sums(self.chrf_NK, _score_of(_chrf())),
        }

    def beside(self, rows: np.ndarray) -> dict[str, Any]:
        """`utterances`, and the signatures where there are any."""
        if not len(rows):
            return {"utterances": 0}
        signatures = sorted({_signature(self.tags[row]) for row in rows})
        tokenizers = [_part(each, "tok") for each in signatures]
        signature = signatures[0].replace(f"tok:{tokenizers[0]}", f"tok:{'+'.join(tokenizers)}")
        return {
            "utterances": len(rows),
            "bleu_signature": signature,
            "chrf_signature": str(_signed(_chrf()).get_signature()),
        }


@lru_cache
def bleu_metric(tag: str) -> Any:
    """sacrebleu's BLEU for a target language; by characters where the language's tokenizer is not installed."""
    metrics = extra_module("sacrebleu.metrics")
    try:
        return metrics.BLEU(trg_lang=tag)
    except RuntimeError:  # no MeCab
        return metrics.BLEU(tokenize="char")


@lru_cache
def _chrf() -> Any:
    return extra_module("sacrebleu.metrics").CHRF()


@lru_cache
def _signature(tag: str) -> str:
    return str(_signed(bleu_metric(tag)).get_signature())


def _signed(metric: Any) -> Any:
    """The metric, knowing how many references there are: sacrebleu signs nothing before it has scored."""
    metric.corpus_score(["a"], [["a"]])
    return metric


def _table(counts: list[list[int]]) -> np.ndarray:
    """Counts as an array (N, K); of no lines (0, 0)."""
    return np.array(counts, np.int64).reshape(len(counts), -1 if counts else 0)


def _part(signature: str, name: str) -> str:
    return dict(part.split(":", 1) for part in signature.split("|"))[name]


def _statistics(metric: Any, outputs: Sequence[str], references: Sequence[str]) -> list[list[int]]:
    """What each line adds: the counts that `corpus_score` sums, as sacrebleu's own paired tests take them."""
    if not outputs:
        return []
    found: list[list[int]] = metric._extract_corpus_statistics(list(outputs), [list(references)])
    return found


def _score_of(metric: Any) -> Callable[[np.ndarray], np.ndarray]:
    def scores(sums_RK: np.ndarray) -> np.ndarray:
        return np.array(
            [metric._compute_score_from_stats(row).score if row.any() else np.nan for row in sums_RK.astype(np.int64)]
        )

    return scores
