"""Scores of output texts by jiwer, sacrebleu and the rules of SQuAD, over the whole corpus.

    error_rates(["He hoped for stew."], ["he hoped for a stew"])
    -> {"wer": 0.25, "cer": 0.125, "utterances": 1, "normalizer": "mms-2"}
    translation_scores(["Der Hund schlief."], ["Der Hund schlief."], "de")    {"bleu": 100.0, "chrf": 100.0, ...}
    answer_scores(["the dog"], ["A dog."])                                    {"exact_match": 1.0, "f1": 1.0, ...}

Error rates are on normalised texts: the edits of all utterances divided by the words (characters) of all references. An
utterance whose reference is empty once normalised has no error rate and is counted separately. The normaliser is one of
`sm_pipeline.text`, `whisper` (Radford et al. 2022, package whisper-normalizer: its rules for English where the language
is English or not known, else its basic ones), or `none`.

`count_errors` and its neighbours in `word_errors`, `translation` and `answers` keep what each utterance adds, for
intervals and for parts of the corpus.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any

from sm_pipeline.languages import language_tag
from sm_pipeline.text import NORMALIZER, NORMALIZERS, normalise
from sm_store.errors import ConfigError
from sm_store.extras import extra_module
from speechmapper.measure.answers import AnswerMatches
from speechmapper.measure.translation import TranslationMatches
from speechmapper.measure.word_errors import WordErrors

WHISPER = "whisper"
NONE = "none"


def error_rates(
    references: Sequence[str],
    outputs: Sequence[str],
    normalizer: str = NORMALIZER,
    languages: Sequence[str | None] | None = None,
) -> dict[str, Any]:
    """`wer`, `cer`, `utterances`, `normalizer`, and `without_reference` if any utterance has no reference.

    Args: see `count_errors`.

    `wer` and `cer` are fractions, or None if no utterance has a reference.

    Raises:
        ConfigError: no normaliser of that name.
    """
    return count_errors(references, outputs, normalizer, languages).figures()


def count_errors(
    references: Sequence[str],
    outputs: Sequence[str],
    normalizer: str = NORMALIZER,
    languages: Sequence[str | None] | None = None,
) -> WordErrors:
    """The errors of each utterance, after normalisation.

    Args:
        normalizer: name of the text normaliser. languages: of the utterances, where they are known.

    Raises:
        ConfigError: no normaliser of that name.
    """
    pairs = []
    for reference, output, language in zip(references, outputs, languages or [None] * len(references), strict=True):
        plain = normaliser(normalizer, language)
        pairs.append((plain(reference), plain(output)))
    return WordErrors.of([pair[0] for pair in pairs], [pair[1] for pair in pairs], normalizer)


@lru_cache
def normaliser(name: str, language: str | None = None) -> Callable[[str], str]:
    """The text normaliser of a name; `whisper` has one for English and one for other languages.

    Raises:
        ConfigError: none of that name.
    """
    if name in NORMALIZERS:
        return partial(normalise, normalizer=name)
    if name == NONE:
        return str.strip
    if name != WHISPER:
        raise ConfigError(f"--normalizer {name}: choose {', '.join((NORMALIZER, WHISPER, NONE))}")
    if language is None or language_tag(language) in (None, "en"):
        rules = extra_module("whisper_normalizer.english").EnglishTextNormalizer()
    else:
        rules = extra_module("whisper_normalizer.basic").BasicTextNormalizer()
    return lambda text: str(rules(text)).strip()


def translation_scores(references: Sequence[str], outputs: Sequence[str], language: str | None) -> dict[str, Any]:
    """`bleu`, `chrf` (0 to 100, over the corpus), their sacrebleu signatures, and `utterances`.

    Args:
        language: of the references; sacrebleu chooses BLEU's tokenizer by it (zh, ja, ko have their own).

    `bleu` and `chrf` are None where there is nothing to score.
    """
    return TranslationMatches.of(references, outputs, [language] * len(references)).figures()


def answer_scores(references: Sequence[str], outputs: Sequence[str]) -> dict[str, Any]:
    """`exact_match` and `f1` (0 to 1, means over the answers) and `utterances`.

    Both compare words as SQuAD does (Rajpurkar et al. 2016): lower case, without punctuation and articles. They are
    None where there is nothing to score.
    """
    return AnswerMatches.of(references, outputs).figures()
